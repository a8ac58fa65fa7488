"""File formats, each read and written tensor by tensor."""
