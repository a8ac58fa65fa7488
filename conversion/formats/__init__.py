"""File formats, each read and written tensor by tensor."""

from conversion.formats.finding import FORMATS, Format, find_format, open_reader

__all__ = ["FORMATS", "Format", "find_format", "open_reader"]
