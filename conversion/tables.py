"""Tables, sizes and names as a terminal shows them."""

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 110


def size(count: float) -> str:
    """Return bytes as people read them, in powers of ten: `7.0 GB`."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"


def ascii_text(text: object) -> str:
    """Return a text in printable ASCII, the rest as escapes, so that no name can steer a terminal."""
    shown = str(text).encode("ascii", "backslashreplace").decode("ascii")
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in shown)


def shortened(text: str, width: int) -> str:
    """Return a text of at most `width` characters, left out in the middle: both ends of a name say most."""
    if len(text) <= width:
        return text
    kept = width - 3
    return text[: kept // 3] + "..." + text[len(text) - (kept - kept // 3) :] if kept > 0 else text[:width]


def wrapped(text: str, indent: str = "", hang: int = 2) -> list[str]:
    """Return a text as lines that fit; all but the first hang by so much."""
    later = indent + " " * hang
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=later, break_on_hyphens=False)


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], numbers: str = "") -> list[str]:
    """Return the lines of a table that fits the terminal; where it is too wide, the widest columns are shortened.

    Args:
        titles: of the columns.
        rows: what stands in them.
        numbers: titles of the columns that are set to the right, separated by blanks.
    """
    cells = [[ascii_text(each) for each in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for _ in range(sum(widths) + 2 * (len(widths) - 1) - WIDTH):
        widths[widths.index(max(widths))] -= 1
    right = [title in numbers.split() for title in titles]
    lines = [list(titles), ["-" * width for width in widths], *cells]
    return [_line(line, widths, right) for line in lines]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cut = [shortened(cell, width) for cell, width in zip(cells, widths, strict=True)]
    padded = [
        f"{cell:>{width}}" if r else f"{cell:<{width}}" for cell, width, r in zip(cut, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()
