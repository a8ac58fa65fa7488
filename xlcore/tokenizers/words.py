"""Words by the rules of the Moses decoder: split, join again, find a word in its text.

The rules are those of sacremoses 0.2.0 (a port of Moses' `tokenizer.perl` and `detokenizer.perl`), with its character
classes, and give the same words for every text but one: a text that itself holds sacremoses' internal mark
`DOTDOTMULTI` keeps it.

Almost every rule looks no further than one character to each side, so the words between two spaces are the same
wherever they stand. They are worked out once for each such chunk and kept; what does look further is handled where
it occurs: the start and the end of the text, a final dot (it depends on the next word), and two apostrophes that
share a space.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise

from xlcore.errors import TokenizerError
from xlcore.tokenizers import perl_properties as perl

_MAX_KEPT = 1 << 17
_MAX_PROTECTED = 1000
_MARK = "THISISPROTECTED"
_DOT_MARK = "\0"
_ALNUM = perl.ALNUM + " " + perl.VIRAMAS_AND_NUKTAS
_ALPHA = perl.ALPHA + " " + perl.VIRAMAS_AND_NUKTAS
_SPACES = re.compile(r"\s+")
_CONTROL = re.compile("[\x00-\x1f]")
_CONTROL_IN_WORD = re.compile("[\x00-\x08\x0e-\x1b]")
_SHARED_SPACE = re.compile(r"'\s+'")
_RUN = re.compile("  +")
_DOTS = re.compile(r"\.{2,}")
_NUMBER_SIGN = re.compile(r"(?<=\d)[,.](?=\d)")
_ASCII_WORD = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


@cache
def _regex(pattern: str, letters: str = "") -> re.Pattern[str]:
    """Compile a pattern in which {alnum} (with some letters more), {alpha} and {number} are the insides of classes."""
    classes = {"alnum": f"{_ALNUM} {letters}", "alpha": _ALPHA, "number": perl.NUMBER}
    for name, ranges in classes.items():
        if f"{{{name}}}" in pattern:
            pattern = pattern.replace(f"{{{name}}}", perl.regex_class(ranges))
    return re.compile(pattern)


@cache
def _set(ranges: str) -> frozenset[str]:
    return frozenset(perl.characters(ranges))


def lower(text: str) -> str:
    """Lower each character by itself, as the reference does: a final sigma stays an ordinary one."""
    return text.replace("Σ", "σ").lower()


def split_numbers(words: Iterable[str]) -> list[str]:
    """Split each number at the signs between its digits: "5,000" becomes "5", "@,@", "000"."""
    split: list[str] = []
    for word in words:
        if "," in word or "." in word:
            split += _NUMBER_SIGN.sub(r" @\g<0>@ ", word).split()
        else:
            split.append(word)
    return split


def join_numbers(text: str) -> str:
    """Join what `split_numbers` split."""
    return text.replace(" @,@ ", ",").replace(" @.@ ", ".")


# --- splitting ------------------------------------------------------------------------------------------------------

_PAD = r"[^{alnum}\s.'`,\-]"
_HYPHEN = r"(?<=[{alnum}])-(?=[{alnum}])"
#: Each rule: what it finds, and what it puts between the first and the last character found.
_COMMAS = [(r"[^{number}],", " , ", 1, 2), (r",[^{number}]", " , ", 0, 1), (r"[{number}],$", " , ", 1, 2)]
_APOSTROPHES = {
    "en": [
        (r"[^{alpha}]'[^{alpha}]", " ' ", 1, 2),
        (r"[^{alpha}{number}]'[{alpha}]", " ' ", 1, 2),
        (r"[{alpha}]'[^{alpha}]", " ' ", 1, 2),
        (r"[{alpha}]'[{alpha}]", " '", 1, 2),
        (r"[{number}]'s", " '", 1, 2),
    ],
    "fr": [
        (r"[^{alpha}]'[^{alpha}]", " ' ", 1, 2),
        (r"[^{alpha}]'[{alpha}]", " ' ", 1, 2),
        (r"[{alpha}]'[^{alpha}]", " ' ", 1, 2),
        (r"[{alpha}]'[{alpha}]", "' ", 1, 2),
    ],
}


def _replace(pattern: str, instead: str, start: int, end: int, text: str) -> str:
    """Put `instead` in the place of characters `start` to `end` of each match.

    Done by hand: before Python 3.12 a template with groups is several times slower.
    """
    return _regex(pattern).sub(lambda found: found[0][:start] + instead + found[0][end:], text)


class MosesTokenizer:
    """Split text into words and punctuation (Moses, `tokenizer.perl`).

    language: "en", or a language that Moses treats like English but for the apostrophe.
    hyphens: split "well-known" into "well", "@-@", "known".
    numbers: split "5,000" into "5", "@,@", "000" (`split_numbers`).
    protected: regular expressions, matched in any case, whose matches are never split.
    prefixes: words whose final dot stays attached, for a language whose list is not kept here; numeric_prefixes: those
    of them that keep it before a number only. letters: ranges of characters that are letters, too.
    """

    def __init__(
        self,
        language: str = "en",
        *,
        hyphens: bool = False,
        numbers: bool = False,
        protected: Sequence[str] = (),
        prefixes: Iterable[str] | None = None,
        numeric_prefixes: Iterable[str] = (),
        letters: str = "",
    ):
        if prefixes is None and language in perl.OTHER_LANGUAGES.split():
            raise TokenizerError(
                f"MosesTokenizer: language must be one whose abbreviations are known, got {language!r}; pass prefixes="
            )
        self.hyphens, self.numbers, self.letters = hyphens, numbers, letters
        self.apostrophes = _APOSTROPHES.get({"it": "fr"}.get(language, language), [("'", " ' ", 0, 1)])
        known = perl.NONBREAKING_PREFIXES["en"].split() if prefixes is None else prefixes
        self.prefixes = frozenset(known)
        self.numeric_prefixes = frozenset(perl.NUMERIC_PREFIXES["en"].split() if prefixes is None else numeric_prefixes)
        self.protected = protected
        self._plain: dict[str, list[str]] = {}
        self._dotted: dict[tuple[str, str], list[str]] = {}

    @property
    def protected(self) -> Sequence[str]:
        """Return the regular expressions whose matches are never split."""
        return [pattern.pattern for pattern in self._protected]

    @protected.setter
    def protected(self, patterns: Sequence[str]) -> None:
        try:
            self._protected = [re.compile(pattern, re.IGNORECASE) for pattern in patterns if pattern]
        except re.error as error:
            raise TokenizerError(
                f"MosesTokenizer: never_split must be regular expressions, got {list(patterns)!r:.200} ({error})"
            ) from error
        # one search tells that none of them matches, which is nearly always so
        together = "|".join(f"(?:{pattern})" for pattern in patterns if pattern)
        self._any_protected = re.compile(together, re.IGNORECASE) if together else None
        self._may_match_space = any(sign in together for sign in " \\.[")

    def __call__(self, text: str) -> list[str]:
        """Return the words of a text. Raises TokenizerError for more than 1000 protected matches."""
        if _CONTROL_IN_WORD.search(text) or self._may_match_space:
            text = _CONTROL.sub("", _SPACES.sub(" ", text))
        if self._any_protected is not None and self._any_protected.search(text):
            return self._protect(_CONTROL.sub("", _SPACES.sub(" ", text)))
        if _SHARED_SPACE.search(text):
            return self._numbers(self._words(_SPACES.sub(" ", text).strip(), "", at_end=True))
        return self._chunks(text.split())

    def _chunks(self, chunks: list[str]) -> list[str]:
        if not chunks:
            return []
        first, last = chunks[0], chunks[-1]
        if first[0] in ",'" or last[-1] in ",'":
            return self._edges(chunks)
        words: list[str] = []
        plain = self._plain
        for place, chunk in enumerate(chunks, 1):
            found = plain.get(chunk)
            if found is None:
                found = self._learn(chunk, chunks[place][0] if place < len(chunks) else "")
            words += found
        return words

    def _edges(self, chunks: list[str]) -> list[str]:
        """Split the first and the last chunk where they stand: the rules see that nothing is beside them."""
        if len(chunks) == 1:
            return self._numbers(self._words(chunks[0], "", at_end=True))
        words = self._numbers(self._words(f"{chunks[0]} ", chunks[1][0]))
        for chunk, following in pairwise(chunks[1:]):
            words += self._plain.get(chunk) or self._learn(chunk, following[0])
        return words + self._numbers(self._words(f" {chunks[-1]}", "", at_end=True))

    def _learn(self, chunk: str, following: str) -> list[str]:
        """Split a chunk between spaces and keep the result; with a final dot, a result for each kind of next word."""
        if len(self._plain) + len(self._dotted) > _MAX_KEPT:
            self._plain.clear()
            self._dotted.clear()
        if chunk.isalnum() and chunk.isascii():
            return self._plain.setdefault(chunk, [chunk])
        if chunk[-1] != ".":
            return self._plain.setdefault(chunk, self._numbers(self._words(f" {chunk} ", "")))
        kind = "a" if following in _set(perl.LOWER) else "0" if "0" <= following <= "9" else ""
        key = (chunk, kind)
        if key not in self._dotted:
            self._dotted[key] = self._numbers(self._words(f" {chunk} ", kind))
        return self._dotted[key]

    def _numbers(self, words: list[str]) -> list[str]:
        return split_numbers(words) if self.numbers else words

    def _words(self, text: str, following: str, at_end: bool = False) -> list[str]:
        """Apply the rules to a text. `following` is the first character after it; `at_end`: it ends the whole text."""
        text = _regex(_PAD, self.letters).sub(lambda sign: f" {sign[0]} ", text)
        if self.hyphens and "-" in text:
            text = _regex(_HYPHEN).sub(" @-@ ", text)
        if ".." in text:  # U+0000 cannot be in the text any more
            text = _DOTS.sub(lambda dots: " " + _DOT_MARK * len(dots[0]) + " ", text)
        for sign, rules in ((",", _COMMAS), ("'", self.apostrophes)):
            for rule in rules if sign in text else ():
                text = _replace(*rule, text)
        words = self._final_dots(text.split(), following)
        if at_end and words and words[-1].endswith(".'"):
            words[-1:] = [words[-1][:-2], ".", "'"] if len(words[-1]) > 2 else [".", "'"]
        return [word.replace(_DOT_MARK, ".") for word in words] if _DOT_MARK in text else words

    def _final_dots(self, words: list[str], following: str) -> list[str]:
        if "." not in "".join(words):
            return words
        split: list[str] = []
        for word, after in zip(words, [*words[1:], following], strict=True):
            if word[-1] == "." and len(word) > 1 and not self._keeps_dot(word[:-1], after[:1]):
                split += [word[:-1], "."]
            else:
                split.append(word)
        return split

    def _keeps_dot(self, word: str, after: str) -> bool:
        if "." in word and not _set(f"{_ALPHA} {self.letters}").isdisjoint(word):
            return True
        if (word in self.prefixes and word not in self.numeric_prefixes) or after in _set(perl.LOWER):
            return True
        return word in self.numeric_prefixes and "0" <= after <= "9"

    def _protect(self, text: str) -> list[str]:
        """Split a text with protected matches: a made-up word stands for each while the rules are applied."""
        found = [match[0] for pattern in self._protected for match in pattern.finditer(text) if match[0]]
        if len(found) > _MAX_PROTECTED:
            raise TokenizerError(
                f"MosesTokenizer: a text must have at most {_MAX_PROTECTED} matches of never_split, got {len(found)}; "
                "split it into smaller pieces"
            )
        mark = _MARK
        while mark in text:
            mark += "X"
        for place, match in sorted(enumerate(found), key=lambda entry: -len(entry[1])):
            text = text.replace(match, f"{mark}{place:03}")
        text = " ".join(self._words(text.strip(), "", at_end=True))
        for place, match in enumerate(found):
            text = text.replace(f"{mark}{place:03}", match)
        return self._numbers(text.split())


# --- joining --------------------------------------------------------------------------------------------------------

_ENTITIES = {"&bar;": "|", "&#124;": "|", "&lt;": "<", "&gt;": ">", "&bra;": "[", "&ket;": "]"} | {
    "&quot;": '"', "&apos;": "'", "&#91;": "[", "&#93;": "]", "&amp;": "&",
}  # fmt: skip
_CLOSING = frozenset(",.?!:;\\%}])")
_OPENING = frozenset("([{¿¡")
_QUOTE_SIGNS = frozenset("'\"„“`")
#: Languages for which Moses joins words by rules that are not kept here.
_OTHER_JOINS = ("fr", "it", "ga", "cs", "fi", "ko")


class MosesDetokenizer:
    """Join words and punctuation to text (Moses, `detokenizer.perl`). The way there and back is not exact."""

    def __init__(self, language: str = "en"):
        if language in _OTHER_JOINS:
            raise TokenizerError(
                f"MosesDetokenizer: language must be none of {', '.join(_OTHER_JOINS)}, got {language!r}"
            )
        self.language = language

    def __call__(self, words: Iterable[str]) -> str:
        """Return the words as one text."""
        text = f" {' '.join(words)} ".replace(" @-@ ", "-")
        if "&" in text:
            for entity, sign in _ENTITIES.items():
                text = text.replace(entity, sign)
        return _RUN.sub(" ", "".join(self._parts(text.split()))).strip()

    def _parts(self, words: list[str]) -> list[str]:
        """Return the words with the space, or none, before each."""
        parts: list[str] = []
        space, open_quotes = " ", dict[str, bool]()
        for place, word in enumerate(words):
            before, space_after = space, " "
            if word[0] not in _ASCII_WORD:
                before, space_after = self._spaces(word, words[place - 1] if place else "", space, open_quotes)
            parts += (before, word)
            space = space_after
        return parts

    def _spaces(self, word: str, previous: str, space: str, open_quotes: dict[str, bool]) -> tuple[str, str]:
        """Return what stands before and after a word that may be a sign."""
        if word[0] in _set(perl.CJK):
            return ("" if previous and previous[-1] in _set(perl.CJK) else space), " "
        signs = set(word)
        if signs <= _OPENING | _set(perl.CURRENCY):
            return space, ""
        if signs <= _CLOSING:
            return "", " "
        if self.language == "en" and previous and word[0] == "'" and word[1:2] and word[1] in _set(perl.ALPHA):
            return "", " "
        if signs <= _QUOTE_SIGNS:
            return self._quote(word, previous, space, open_quotes)
        return space, " "

    def _quote(self, word: str, previous: str, space: str, open_quotes: dict[str, bool]) -> tuple[str, str]:
        kind = '"' if set(word) <= {"„", "“"} else word
        if open_quotes.get(kind, False):
            open_quotes[kind] = False
            return "", " "
        if self.language == "en" and word == "'" and previous.endswith("s"):
            return "", " "  # the owners' house
        open_quotes[kind] = True
        return space, ""


# --- finding words in their text ------------------------------------------------------------------------------------

#: What normalising may have made a character of.
_ALIKE = {'"': "„“”«»", "'": "`´‘‚’", "-": "–—", ".": "\u00a0", ",": "\u00a0"}
_PAIRS = frozenset(a + b for a in "'`´‘‚’" for b in "'`´‘‚’")
_SIGNS = {"@-@": "-", "@,@": ",", "@.@": "."}
_NEAR = 8


def _end_of(word: str, text: str, start: int, lowered: bool) -> int:
    """Return where `word` ends if it stands at `start`, else -1."""
    at, place = start, 0
    while place < len(word):
        char = text[at : at + 1]
        here = lower(char) if lowered else char
        if char and word.startswith(here, place):
            place, at = place + len(here), at + 1
        elif word[place] == '"' and text[at : at + 2] in _PAIRS:
            place, at = place + 1, at + 2
        elif char and char in _ALIKE.get(word[place], ""):
            place, at = place + 1, at + 1
        elif char == "…" and word.startswith("...", place):
            place, at = place + 3, at + 1
        elif char and place and (char == "\r" or _CONTROL_IN_WORD.match(char)):
            at += 1  # deleted before the words were split
        else:
            return -1
    return at


def align(words: Iterable[str], text: str, lowered: bool = False) -> list[tuple[int, int] | None]:
    """Return the span of each word in the text it was split from; None where it cannot be told.

    lowered: the words were split from the text in lower case. A sign that normalising changed or moved is found too.
    """
    spans: list[tuple[int, int] | None] = []
    at, passed = 0, list[int]()  # passed: places that no word has claimed, for a sign that was moved back
    for word in words:
        surface = _SIGNS.get(word, word)
        while at < len(text) and text[at].isspace() and surface not in ".,":
            at += 1
        after_space = at
        while after_space < len(text) and text[after_space].isspace():
            after_space += 1
        near = [*passed, at, *range(after_space, min(after_space + _NEAR, len(text)))]
        start, end = next(((s, e) for s in near if (e := _end_of(surface, text, s, lowered)) > s), (-1, -1))
        spans.append((start, end) if start >= 0 else None)
        if start in passed:
            passed.remove(start)
        elif start >= 0:
            passed = [place for place in range(at, start) if not text[place].isspace()]
            at = end
    return spans
