"""Punctuation in one form, by the rules of the Moses decoder (`normalize-punctuation.perl`, as sacremoses has it)."""

import re

_RUN = re.compile("  +")
_CLOSED = re.compile(r"\) (?=[.!:?;,])")
_PERCENT = re.compile(r"(?<=\d) %")
_BETWEEN_LETTERS = [re.compile("([a-zA-Z])‘([a-zA-Z])"), re.compile("([a-zA-Z])’([a-zA-Z])")]
_PSEUDO_SPACES = [(":", ":"), ("ºC", " ºC"), ("cm", " cm"), ("?", "?"), ("!", "!"), (";", ";")]


def _squeeze(text: str) -> str:
    return _RUN.sub(" ", text) if "  " in text else text


class PunctuationNormalizer:
    """Bring quotes, dashes and the spaces around punctuation to one form (Moses, `normalize-punctuation.perl`)."""

    def __init__(self, language: str = "en"):
        self.language = language

    def __call__(self, text: str) -> str:
        """Return the text with its punctuation normalised and the spaces around it removed."""
        text = self._brackets(text.replace("\r", ""))
        text = text.replace("`", "'").replace("''", ' " ')
        if not text.isascii():
            text = self._unicode(text)
        text = _squeeze(text)
        if not text.isascii():
            text = self._no_break_spaces(text)
        if '"' in text:
            text = self._quote_and_comma(text)
        return text.strip()

    def _brackets(self, text: str) -> str:
        if "(" in text or ")" in text:
            text = _squeeze(text.replace("(", " (").replace(")", ") "))
            text = _CLOSED.sub(")", text)
            text = text.replace("( ", "(").replace(" )", ")")
        text = _squeeze(text)
        if " %" in text:
            text = _PERCENT.sub("%", text)
        return text.replace(" :", ":").replace(" ;", ";")

    def _unicode(self, text: str) -> str:
        text = text.replace("„", '"').replace("“", '"').replace("”", '"').replace("–", "-").replace("—", " - ")
        text = _squeeze(text).replace("´", "'")
        for pattern in _BETWEEN_LETTERS:
            text = pattern.sub(r"\1'\2", text)
        text = text.replace("‘", "'").replace("‚", "'").replace("’", "'")
        return text.replace("''", '"').replace("…", "...")

    def _no_break_spaces(self, text: str) -> str:
        nbsp = "\u00a0"
        for quote in "«»":
            text = text.replace(f"{nbsp}{quote}{nbsp}", '"')
            text = text.replace(f"{quote}{nbsp}" if quote == "«" else f"{nbsp}{quote}", '"').replace(quote, '"')
        if nbsp not in text:
            return text
        text = text.replace(f"{nbsp}%", "%").replace(f"nº{nbsp}", "nº ")
        for after, instead in _PSEUDO_SPACES:
            text = text.replace(nbsp + after, instead)
        text = _squeeze(text.replace(f",{nbsp}", ", "))
        sign = "," if self.language in ("de", "es", "cz", "cs", "fr") else "."
        # the quote rule comes before this one in the original, but they touch different characters
        return re.sub("(\\d)\u00a0(\\d)", rf"\g<1>{sign}\g<2>", text)

    def _quote_and_comma(self, text: str) -> str:
        if self.language == "en":
            return re.sub(r'"([,.]+)', r'\1"', text)
        if self.language in ("de", "es", "fr"):
            return re.sub(r'(\.+)"(\s*[^<])', r'"\1\2', text.replace(',"', '",'))
        return text
