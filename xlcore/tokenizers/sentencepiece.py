"""The base of the tokenizers that split by SentencePiece: its model, its pieces, and where they lie in a text."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from xlcore.errors import TokenizerError
from xlcore.files import write_bytes
from xlcore.tokenizers import sentencepiece_files as files
from xlcore.tokenizers.added import EXTRA, ROLES, AddedToken
from xlcore.tokenizers.base import ADDED_FILE, Tokenizer
from xlcore.tokenizers.calls import Span
from xlcore.tokenizers.sentencepiece_files import SPACE, Piece, SavedUnigram

JSON_FILE = "tokenizer.json"
_EXTRA_5 = "extra_special_tokens"
_HALF = re.compile("[\ud800-\udfff]")


class SentencePieceTokenizer(Tokenizer):
    """Pieces of words by a SentencePiece model. See the family's tokenizer for how a text is prepared.

    vocab_file: the model. tokenizer_file: a `tokenizer.json` that counts where there is no model file; the model is
    made anew from it. sp_model_kwargs: options of the library, such as `enable_sampling`, `nbest_size`, `alpha`.
    """

    #: Name of the model file that is written.
    model_file: ClassVar[str]
    #: The special tokens of the family that have no role.
    extra_tokens: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        *,
        sp_model_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(sp_model_kwargs, Mapping | None):
            raise TokenizerError(f"{self._where}: sp_model_kwargs must be a dict, got {sp_model_kwargs!r:.60}")
        self.sp_model_kwargs = dict(sp_model_kwargs or {})
        self.vocab_file = vocab_file
        source = vocab_file if vocab_file is not None else tokenizer_file
        if source is None:
            raise TokenizerError(f"{self._where}: vocab_file must be a SentencePiece model, got None")
        self._source = Path(source)
        if vocab_file is not None:
            self._model = files.read(self._source)
        else:
            saved = files.read_json(self._source)
            self._model = files.build(self._pieces_of(saved), saved.table)
        self._load()
        mask = kwargs.get("mask_token")
        if isinstance(mask, str) and mask not in _saved_contents(kwargs.get("added_tokens_decoder")):
            kwargs["mask_token"] = AddedToken(mask, lstrip=True, normalized=False)  # the space before it is its own
        super().__init__(**kwargs)

    def _load(self) -> None:
        """Give the model to the library, and make the tables of ids."""
        self.sp_model, pieces = files.load(self._model, str(self._source), self.sp_model_kwargs)
        self._tokens = self._tokens_of(pieces)
        self._index = {token: index for index, token in reversed(list(enumerate(self._tokens)))}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"sp_model": None, "_tokens": None, "_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._load()

    # --- what a family says -----------------------------------------------------------------------------------------

    def _tokens_of(self, pieces: list[str]) -> list[str]:
        """Return the tokens in the order of their ids."""
        return pieces

    def _pieces_of(self, saved: SavedUnigram) -> list[Piece]:
        """Return the pieces of the model from which a `tokenizer.json` was made."""
        raise NotImplementedError

    def _segment_ids(self, text: str) -> list[int]:
        """Return the ids of a stretch of text without added tokens."""
        return self.convert_tokens_to_ids(self._tokenize(text))  # type: ignore[no-any-return]

    def _prepare(self, text: str) -> str:
        """Return a stretch of text as it is given to the model."""
        return text

    def _traced(self, text: str) -> "Traced":
        """Return the same, with where each character comes from."""
        return Traced(text)

    def _needed(self, role: str) -> int:
        """Return the id of a special token that stands around texts."""
        found: int | None = self._kept.get(role)
        if found is None:
            found = self._kept[role] = getattr(self, f"{role}_id")
        if found is None:
            raise TokenizerError(f"{self._where}: {role} must be set to stand around texts, got none")
        return found

    # --- vocabulary -------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Return the size of the vocabulary without added tokens."""
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id of the vocabulary and the added tokens."""
        return {token: index for index, token in enumerate(self._tokens)} | self.added_tokens_encoder

    def _vocabulary_id(self, token: str) -> int | None:
        return self._index.get(token)

    def _vocabulary_token(self, index: int) -> str:
        return self._tokens[index]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the model file into a folder, byte for byte as it was read."""
        folder = Path(save_directory)
        if not folder.is_dir():
            raise TokenizerError(f"{self._where}: save_directory must be a folder, got {save_directory!r}")
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        return (write_bytes(folder / f"{prefix}{self.model_file}", self._model),)

    def _config(self) -> dict[str, Any]:
        return {"sp_model_kwargs": self.sp_model_kwargs, EXTRA: self.additional_special_tokens}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the list of ids of a list; unknown tokens have the id of `unk_token`."""
        if tokens is None or isinstance(tokens, str) or not self._added_ids.keys().isdisjoint(tokens):
            return super().convert_tokens_to_ids(tokens)
        ids = list(map(self._index.get, tokens))
        return (
            [self._unknown_id(t) if i is None else i for i, t in zip(ids, tokens, strict=True)] if None in ids else ids
        )

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the list of tokens of a list. Raises TokenizerError for ids outside."""
        if isinstance(ids, int) or not len(ids):
            return super().convert_ids_to_tokens(ids, skip_special_tokens)
        skipped = self._is_special() if skip_special_tokens else frozenset()
        left = [index for index in map(int, ids) if index not in skipped]
        if left and (min(left) < 0 or max(left) >= self.vocab_size):
            return super().convert_ids_to_tokens(left)
        return [self._tokens[index] for index in left]

    # --- text to ids ------------------------------------------------------------------------------------------------

    def _text_ids(self, text: str, **options: Any) -> list[int]:
        self._refuse(options)
        ids: list[int] = []
        for start, end, added in self._split_added(text):
            if added is None:
                ids += self._segment_ids(text[start:end])
            else:
                ids.append(self._added_ids[added.content])
        return ids

    def _tokenize(self, text: str) -> list[str]:
        return self._mended(self._split(text, str))

    def _split(self, text: str, kind: type) -> list[Any]:
        """Return what the model makes of a stretch of text: ids of its own (int), or pieces (str)."""
        prepared = self._prepare(text)
        try:
            found: list[Any] = self.sp_model.encode(prepared, out_type=kind)
        except (RuntimeError, UnicodeEncodeError):
            self._refuse_halves(prepared)
            raise
        return found

    def _refuse_halves(self, text: str) -> None:
        self._require_text(text)
        half = _HALF.search(text)
        if half is not None:
            raise TokenizerError(f"{self._where}: a text must be whole characters, got half of one ({half[0]!r})")

    def _mended(self, pieces: list[str]) -> list[str]:
        """Return the pieces as the family has them."""
        return pieces

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[Span | None]]:
        pieces = self._tokenize(text)
        joined = "".join(pieces)
        normalized, offsets = self.sp_model.normalize(text, with_offsets=True)
        if normalized == joined:  # the model itself takes out what the preparation does
            return pieces, Traced(text).spans(pieces, offsets)
        traced = self._traced(text)
        normalized, offsets = self.sp_model.normalize(traced.text, with_offsets=True)
        if normalized == joined:
            return pieces, traced.spans(pieces, offsets)
        return pieces, [None] * len(pieces)  # a piece that was split anew reads otherwise

    # --- ids to text ------------------------------------------------------------------------------------------------

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text."""
        return "".join(tokens).replace(SPACE, " ").strip()

    # --- folders ----------------------------------------------------------------------------------------------------

    @classmethod
    def _read_config(cls, folder: Path) -> dict[str, Any]:
        """Return what the files say; transformers 5 writes the added tokens into `tokenizer.json` alone."""
        config = super()._read_config(folder)
        known = "added_tokens_decoder" in config or (folder / ADDED_FILE).is_file()
        if known or not (folder / JSON_FILE).is_file():
            return config
        saved = files.read_json(folder / JSON_FILE)
        # where it had the model alone, transformers 5 lists the model's own symbols as if somebody had added them
        own = {text for text, score in saved.vocabulary if score == 0} - {*cls.extra_tokens, *_contents(config)}
        added = [token for token in saved.added if token["content"] not in own]
        extra = config.get(_EXTRA_5)
        if isinstance(extra, list) and EXTRA not in config:
            del config[_EXTRA_5]
            listed = [token for token in extra if str(token) not in (*own, *_contents(config))]
            first = [token for token in cls.extra_tokens if token in listed]
            config[EXTRA] = first + [token for token in listed if token not in first]
        return config | {"added_tokens_decoder": {str(token["id"]): token for token in added}}


def _saved_contents(added: Mapping[Any, Any] | None) -> set[str]:
    return {AddedToken.of(token, "an added token").content for token in (added or {}).values()}


def _contents(config: Mapping[str, Any]) -> set[str]:
    """Return the tokens that have a role."""
    tokens = (config.get(role) for role in ROLES)
    return {str(token.get("content")) if isinstance(token, dict) else str(token) for token in tokens if token}


class Traced:
    """A text that is changed step by step, and where in the first text each of its characters comes from."""

    def __init__(self, text: str):
        self.text = text
        self.starts: Sequence[int] = range(len(text))
        self.ends: Sequence[int] = range(1, len(text) + 1)
        self.changed = False

    def change(self, pattern: re.Pattern[str], new: Callable[[str], str]) -> None:
        """Put `new` of it in the place of each match."""
        texts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        done = 0
        for match in pattern.finditer(self.text):
            first, last = match.span()
            other = new(match[0])
            texts += self.text[done:first], other
            starts += self.starts[done:first]
            ends += self.ends[done:first]
            starts += [self.starts[first]] * len(other)
            ends += [self.ends[last - 1]] * len(other)
            done = last
        if texts:
            self.changed = True
            self.text = "".join([*texts, self.text[done:]])
            self.starts, self.ends = [*starts, *self.starts[done:]], [*ends, *self.ends[done:]]

    def cut(self, start: int, end: int) -> None:
        """Keep only a stretch of the text."""
        self.changed = self.changed or end - start < len(self.text)
        self.text, self.starts, self.ends = self.text[start:end], self.starts[start:end], self.ends[start:end]

    def spans(self, pieces: Sequence[str], offsets: Sequence[int]) -> list[Span | None]:
        """Return where each piece of the text comes from, without the space before a word.

        offsets: for each character of the pieces where it begins in the text, and where the last one ends. A lone
        space lies where it stands in the first text; the one that is put before a text has no width.
        """
        ends = [0, *offsets[1:]]  # of the characters, counted from 1
        if len(set(offsets)) < len(offsets) - 1:  # a character became several, which all lie where it does
            for place in range(len(ends) - 2, 0, -1):
                if ends[place] == offsets[place - 1]:
                    ends[place] = ends[place + 1]
        stops = list(accumulate(map(len, pieces)))
        first = [start + (piece[0] == SPACE != piece) for piece, start in zip(pieces, [0, *stops], strict=False)]
        starts, lasts = map(offsets.__getitem__, first), map(ends.__getitem__, stops)
        if self.changed:
            starts, lasts = map(self.starts.__getitem__, starts), map([0, *self.ends].__getitem__, lasts)
        found: list[Span | None] = list(zip(starts, lasts, strict=True))
        if pieces and pieces[0] == SPACE:
            found[0] = (self.starts[offsets[0]],) * 2 if self.starts else (0, 0)
        return found
