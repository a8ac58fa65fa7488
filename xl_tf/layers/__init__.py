"""Layers and functions that more than one family is made of."""
