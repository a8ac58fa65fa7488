"""HTML and SVG from nested calls: what is not markup yet is escaped, and every tag that opens closes."""

import re
from html import escape

from conversion.parity.reports.summary import clean


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Return `<tag attribute="...">content</tag>`.

    Attributes of None are left out; a trailing underscore goes (`class_`), inner ones become hyphens (`stroke_width`).
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(clean(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>{join(*content)}</{tag}>")


def join(*content: object) -> Html:
    """Return contents one after the other; numbers and text are escaped, None is nothing."""
    parts = (part for part in content if part is not None)
    return Html("".join(part if isinstance(part, Html) else escape(clean(part)) for part in parts))


def breakable(name: object) -> Html:
    """Return a long name that may be broken after a dot, a slash, an underscore, or before a capital."""
    parts = re.sub(r"(?<=[._/])(?=[^._/])|(?<=[a-z])(?=[A-Z])", "\x00", clean(name)).split("\x00")
    return Html("<wbr>".join(escape(part) for part in parts))
