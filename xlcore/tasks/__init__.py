"""Tasks: text in, answers out, as plain functions on arrays."""
