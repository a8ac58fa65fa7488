"""Where the tokens of an encoded text come from: characters, words, texts; and the questions about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from xlcore.errors import TokenizerError
from xlcore.tokenizers.batch import BatchEncoding
from xlcore.tokenizers.calls import Span
from xlcore.tokenizers.sentencepiece_files import SPACE

T = TypeVar("T")


class Found(NamedTuple):
    """The tokens of a text: their ids, what they are, where in the text they lie, and the numbers of their words."""

    ids: list[int]
    tokens: list[str]
    spans: list[Span | None]
    words: list[int | None]

    def add(self, ids: list[int], tokens: list[str], spans: Sequence[Span | None], words: Sequence[int | None]) -> None:
        """Put more tokens behind these."""
        self.ids.extend(ids)
        self.tokens.extend(tokens)
        self.spans.extend(spans)
        self.words.extend(words)

    def part(self, start: int, end: int) -> "Found":
        """Return some of the tokens, one behind the other."""
        return Found(self.ids[start:end], self.tokens[start:end], self.spans[start:end], self.words[start:end])


class CharSpan(NamedTuple):
    """Characters of a text, from `start` up to before `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens of a row, from `start` up to before `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Encoding:
    """The tokens of a row.

    row: -1, -2, ... for the first token of the texts, the second, ...; the id of each special token and filling.
    special: id -> token, for those.
    """

    row: Sequence[int]
    text: Found
    pair: Found | None
    special: Mapping[int, str]

    @property
    def ids(self) -> list[int]:
        """Return the id of each token."""
        known = [*self.text.ids, *(self.pair.ids if self.pair else [])]
        return [known[~name] if name < 0 else name for name in self.row]

    @property
    def tokens(self) -> list[str]:
        """Return each token."""
        known = [*self.text.tokens, *(self.pair.tokens if self.pair else [])]
        return [known[~name] if name < 0 else self.special[name] for name in self.row]

    @property
    def offsets(self) -> list[Span | None]:
        """Return where each token lies, (0, 0) for special tokens, None where it cannot be told."""
        known = [*self.text.spans, *(self.pair.spans if self.pair else [])]
        return [known[~name] if name < 0 else (0, 0) for name in self.row]

    @property
    def word_ids(self) -> list[int | None]:
        """Return the number of each token's word, None for special tokens."""
        known = [*self.text.words, *(self.pair.words if self.pair else [])]
        return [known[~name] if name < 0 else None for name in self.row]

    @property
    def sequence_ids(self) -> list[int | None]:
        """Return 0 for tokens of the text, 1 for those of its pair, None for special tokens."""
        first = len(self.text.ids)
        return [int(~name >= first) if name < 0 else None for name in self.row]

    @property
    def n_sequences(self) -> int:
        """Return how many texts are in the row."""
        return 1 if self.pair is None else 2

    def token_at(self, char: int, sequence: int) -> int | None:
        """Return the place of the token that holds a character."""
        for place, (of, span) in enumerate(zip(self.sequence_ids, self.offsets, strict=True)):
            if of == sequence and span is not None and span[0] <= char < span[1]:
                return place
        return None

    def tokens_of(self, word: int, sequence: int) -> TokenSpan | None:
        """Return the places of a word's tokens."""
        known = enumerate(zip(self.sequence_ids, self.word_ids, strict=True))
        places = [place for place, found in known if found == (sequence, word)]
        return TokenSpan(places[0], places[-1] + 1) if places else None

    def chars_of(self, word: int, sequence: int) -> CharSpan | None:
        """Return the characters of a word."""
        found = slice(*(self.tokens_of(word, sequence) or (0, 0)))
        known = zip(self.tokens[found], self.offsets[found], strict=True)
        spans = [span for token, span in known if span is not None and token != SPACE]
        return CharSpan(spans[0][0], spans[-1][1]) if spans else None


class FastEncoding(BatchEncoding):
    """What the call of a Fast tokenizer returns: its entries, and where their tokens come from.

    A row is named by its number in the batch, which may be left out where there is one: `token_to_chars(5)`,
    `token_to_chars(0, 5)`. Where tokens lie is worked out when it is first asked for.
    """

    _encodings: list[Encoding] | None
    _make: Callable[[], list[Encoding]] | None

    @classmethod
    def of(cls, entries: dict[str, Any], make: Callable[[], list[Encoding]]) -> "FastEncoding":
        """Return the entries; `make` tells where their tokens come from."""
        found = cls(entries)
        found._encodings, found._make = None, make
        return found

    def __getitem__(self, key: Any) -> Any:
        """Return an entry by its name, or what is known about a row by its number."""
        return self._row(key) if isinstance(key, int) else super().__getitem__(key)

    def __getstate__(self) -> dict[str, Any]:
        return {"_encodings": self.encodings, "_make": None}

    @property
    def is_fast(self) -> bool:
        """Return True: it is known where tokens come from."""
        return True

    @property
    def encodings(self) -> list[Encoding]:
        """Return the tokens of each row."""
        if self._encodings is None:
            assert self._make is not None  # one of the two is there
            self._encodings = self._make()
        return self._encodings

    @property
    def n_sequences(self) -> int:
        """Return 1 for texts, 2 for pairs."""
        return max((encoding.n_sequences for encoding in self.encodings), default=1)

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the number of each token's word, None for special tokens."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return 0 for tokens of the text, 1 for those of its pair, None for special tokens."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return 0 for a token of the text, 1 for one of its pair, None for a special token."""
        return self._of_token(batch_or_token_index, token_index, lambda row: row.sequence_ids)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the number of a token's word, None for a special token."""
        return self._of_token(batch_or_token_index, token_index, lambda row: row.word_ids)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return where in its text a token lies, None for a special token."""
        of = self.token_to_sequence(batch_or_token_index, token_index)
        span = self._of_token(batch_or_token_index, token_index, lambda row: row.offsets)
        return None if of is None or span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the place of the token that holds a character, None for white space between words."""
        row, char = self._one_of(batch_or_char_index, char_index)
        return row.token_at(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the number of the word that holds a character, None for white space between words."""
        row, char = self._one_of(batch_or_char_index, char_index)
        place = row.token_at(char, sequence_index)
        return None if place is None else row.word_ids[place]

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the places of a word's tokens, None if there is no such word."""
        row, word = self._one_of(batch_or_word_index, word_index)
        return row.tokens_of(word, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word, None if there is no such word."""
        row, word = self._one_of(batch_or_word_index, word_index)
        return row.chars_of(word, sequence_index)

    def _row(self, index: int) -> Encoding:
        if not -len(self.encodings) <= index < len(self.encodings):
            raise TokenizerError(f"FastEncoding: batch_index must be below {len(self.encodings)}, got {index}")
        return self.encodings[index]

    def _one_of(self, first: int, second: int | None) -> tuple[Encoding, int]:
        """Return a row and the number in it; a number alone is one in the first row."""
        return (self._row(0), first) if second is None else (self._row(first), second)

    def _of_token(self, first: int, second: int | None, known: Callable[[Encoding], list[T]]) -> T:
        """Return what is known about a token."""
        row, place = self._one_of(first, second)
        if not -len(row.row) <= place < len(row.row):
            raise TokenizerError(f"FastEncoding: token_index must be below {len(row.row)}, got {place}")
        return known(row)[place]
