"""What the Fast tokenizers have beyond the others: where each token lies, windows over long texts, `tokenizer.json`."""

import importlib
import json
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from xlcore.errors import TokenizerError
from xlcore.files import write_text
from xlcore.tokenizers import batch, sentencepiece_files
from xlcore.tokenizers.added import AddedToken
from xlcore.tokenizers.batch import BatchEncoding, Lengths
from xlcore.tokenizers.calls import Arguments, Item, Span
from xlcore.tokenizers.encodings import Encoding, FastEncoding, Found
from xlcore.tokenizers.sentencepiece import JSON_FILE, SentencePieceTokenizer
from xlcore.tokenizers.sentencepiece_files import SPACE

_ROW, _FOUND = "_row", "_found"  # columns of what is known about the tokens; they do not leave this file
_METASPACE = {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}


class FastTokenizer(SentencePieceTokenizer):
    """A tokenizer that knows where each token lies: in which characters, in which word, in which of two texts.

    A call returns a `FastEncoding`, which answers `char_to_token`, `word_ids` and the like.
    `return_overflowing_tokens=True` returns a row for each window over a text that is too long (windows share
    `stride` tokens), and `overflow_to_sample_mapping`, the number of the text that a row is of.

    exact: split as the tokenizer without Fast in its name, as the models were trained. False: as the Fast class of
    transformers 4.34, by the library tokenizers; numbers before commas and spaces around added tokens come out
    otherwise.
    """

    is_fast = True
    #: What stands around a text and around a pair: roles, `$A`, `$B`, each with its token type behind a colon.
    single_template: ClassVar[str]
    pair_template: ClassVar[str]

    def __init__(self, *args: Any, exact: bool = True, **kwargs: Any):
        self.exact = exact
        self._backend: Any = None
        super().__init__(*args, **kwargs)
        if not sentencepiece_files.is_unigram(self._model):
            name = type(self).__name__.removesuffix("Fast")
            raise TokenizerError(f"{self._where}: the model must be a unigram model, got another; use {name}")
        if not exact and self.mask_token is not None and "added_tokens_decoder" not in kwargs:
            self._add(replace(self._added[self._known_id(self.mask_token)], normalized=True))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_backend": None}

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"exact": self.exact}

    def _register(self, index: int, token: AddedToken) -> None:
        super()._register(index, token)
        self._backend = None

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens behind the vocabulary and return how many are new.

        Strings take the white space around them with them; not so with `exact=False`, as in transformers.
        """
        if not self.exact:
            listed = [new_tokens] if isinstance(new_tokens, str | AddedToken) else new_tokens
            new_tokens = [AddedToken(t, normalized=not special_tokens) if isinstance(t, str) else t for t in listed]
        return super().add_tokens(new_tokens, special_tokens)

    @property
    def backend_tokenizer(self) -> Any:
        """Return the same as a tokenizer of the library tokenizers, which splits as with `exact=False`."""
        if self._backend is None:
            try:
                library = importlib.import_module("tokenizers")
            except ImportError as error:
                raise TokenizerError(
                    f"{self._where}: exact=False must have the library tokenizers, got none; "
                    "pip install 'xlbridge[fast]'"
                ) from error
            self._backend = library.Tokenizer.from_str(json.dumps(self.to_json()))
        return self._backend

    # --- text to tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """Split a text into tokens; added tokens are found first, anywhere in it."""
        if self.exact:
            return super().tokenize(text, **options)
        return self._found(text, **options).tokens

    def _text_ids(self, text: str, **options: Any) -> list[int]:
        if self.exact:
            return super()._text_ids(text, **options)
        return self._found(text, **options).ids

    def _found(self, text: str, **options: Any) -> Found:
        """Return the tokens of a text, with where they lie and the numbers of their words."""
        self._refuse(options)
        if not self.exact:
            self._refuse_halves(text)
            known = self.backend_tokenizer.encode(text, add_special_tokens=False)
            return Found(known.ids, known.tokens, known.offsets, known.word_ids)
        found = Found([], [], [], [])
        for start, end, added in self._split_added(text):
            if added is not None:
                tokens: list[str] = [added.content]
                spans: list[Span | None] = [(start, end)]
            else:
                tokens, spans = self._tokenize_with_spans(text[start:end])
                spans = [span and (span[0] + start, span[1] + start) for span in spans] if start else spans
            word = (found.words[-1] or 0) + 1 if found.words else 0
            words = list(accumulate([token[0] == SPACE for token in tokens[1:]], initial=word)) if tokens else []
            found.add(self.convert_tokens_to_ids(tokens), tokens, spans, words)
        return found

    def _tokens_in(self, text: Any, how: Arguments) -> Found:
        """Return the tokens of a text, of words, of tokens or of ids."""
        if isinstance(text, str):
            return self._found(text, **how.options)
        if how.is_split_into_words and isinstance(text, list | tuple) and all(isinstance(w, str) for w in text):
            parts = [self._found(word, **how.options) for word in text]
            found = Found([], [], [], [])
            for number, part in enumerate(parts):
                found.add(part.ids, part.tokens, part.spans, [number] * len(part.ids))
            return found
        ids, _ = self._ids(text, replace(how, return_offsets_mapping=False))
        return Found(ids, self.convert_ids_to_tokens(ids), [None] * len(ids), [None] * len(ids))

    # --- rows -------------------------------------------------------------------------------------------------------

    def _rows(self, items: Sequence[Item], how: Arguments, lengths: Lengths) -> list[dict[str, Any]]:
        samples = self.sp_model_kwargs.get("enable_sampling")  # then a second split may be another
        if not (how.return_offsets_mapping or how.return_overflowing_tokens or samples):
            return super()._rows(items, how, lengths)
        rows: list[dict[str, Any]] = []
        for number, (text, pair) in enumerate(items):
            first, second = self._tokens_in(text, how), None if pair is None else self._tokens_in(pair, how)
            of = {"overflow_to_sample_mapping": number} if how.return_overflowing_tokens else {}
            rows += [self._entries(*part, how) | of for part in self._windows(first, second, how, lengths)]
        return rows

    def _windows(
        self, first: Found, second: Found | None, how: Arguments, lengths: Lengths
    ) -> list[tuple[Found, Found | None]]:
        """Return the text and its pair, cut; or, where what is cut off is asked for, each window over the longer."""
        sizes = len(first.ids), None if second is None else len(second.ids)
        total = sizes[0] + (sizes[1] or 0)
        total += self.num_special_tokens_to_add(second is not None) if how.add_special_tokens else 0
        remove = max(0, total - lengths.max_length) if lengths.max_length else 0
        how_cut, side = lengths.truncation, self.truncation_side
        cut = second if how_cut == "only_second" and second is not None else first
        room = len(cut.ids) - remove
        if how.return_overflowing_tokens and second is not None and how_cut == "longest_first":
            raise TokenizerError(
                "return_overflowing_tokens: a pair must be cut 'only_first' or 'only_second', got 'longest_first'"
            )
        if not how.return_overflowing_tokens or not remove or how_cut == "do_not_truncate" or room <= 0:
            counts = batch.cuts(*sizes, remove, how_cut, self.truncation_empties)
            kept = None if second is None else _without(second, counts[1], side)
            return [(_without(first, counts[0], side), kept)]
        self._require_stride(how.stride, room)
        parts = [cut.part(*place) for place in windows(len(cut.ids), room, how.stride, side)]
        return [(first, part) if cut is second else (part, second) for part in parts]

    def _entries(self, first: Found, second: Found | None, how: Arguments) -> dict[str, Any]:
        """Return the entries of a row, with special tokens around its texts."""
        ids, pair = first.ids, None if second is None else second.ids
        # the tokens of the texts are named by numbers below 0, so that they can be told from special ones
        size = len(ids)
        names = list(range(-1, -1 - size, -1))
        more = None if pair is None else list(range(-1 - size, -1 - size - len(pair), -1))
        row = self._joined(names, more, how)
        entries: dict[str, Any] = {"input_ids": self._joined(ids, pair, how), _ROW: row, _FOUND: (first, second)}
        if self._wants(how.return_token_type_ids, "token_type_ids"):
            entries["token_type_ids"] = self._types(ids, pair, how)
        if how.return_special_tokens_mask:
            entries["special_tokens_mask"] = [int(name >= 0) for name in row]
        if how.return_offsets_mapping:
            entries["offset_mapping"] = Encoding(row, first, second, {}).offsets
        return entries

    def _fillings(self) -> dict[str, Any]:
        return super()._fillings() | {_ROW: self.pad_token_id}

    def _finish(self, how: Arguments, items: Sequence[Item], alone: bool = False) -> BatchEncoding:
        columns = self._columns(how, items)
        rows, found = columns.pop(_ROW, None), columns.pop(_FOUND, None)
        make = self._later(how, items, columns) if rows is None else partial(self._encodings, rows, found)
        alone = alone and not how.return_overflowing_tokens
        entries = {key: value[0] for key, value in columns.items()} if alone else columns
        return FastEncoding.of(entries, make).convert_to_tensors(how.return_tensors, prepend_batch_axis=alone)

    def _encodings(self, rows: list[list[int]], found: list[tuple[Found, Found | None]]) -> list[Encoding]:
        special = {name: self._token_of(name) for row in rows for name in set(row) if name >= 0}
        return [Encoding(row, *texts, special) for row, texts in zip(rows, found, strict=True)]

    def _later(self, how: Arguments, items: Sequence[Item], columns: dict[str, Any]) -> Callable[[], list[Encoding]]:
        """Return what finds the tokens of the rows when they are asked for, which most callers never do."""
        ids = [tuple(row) for row in columns["input_ids"]]

        def make() -> list[Encoding]:
            again = self._columns(replace(how, return_offsets_mapping=True, verbose=False), items)
            if [tuple(row) for row in again["input_ids"]] != ids:
                raise TokenizerError(
                    f"{self._where}: the tokenizer must be as it was at the call, got a changed one; ask for the "
                    "encodings before it is changed"
                )
            return self._encodings(again.get(_ROW, []), again.get(_FOUND, []))

        return make

    # --- ids to text ------------------------------------------------------------------------------------------------

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to text: only the space that is put before a text goes."""
        return "".join(tokens[:1]).replace(SPACE, "") + "".join(tokens[1:]).replace(SPACE, " ")

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """Return the text of ids, with the spaces around added tokens that the text had."""
        tokens = self.convert_ids_to_tokens(self._listed(token_ids), skip_special_tokens)
        text = self.convert_tokens_to_string(tokens)
        tidy = clean_up_tokenization_spaces
        return (
            self.clean_up_tokenization(text) if (self.clean_up_tokenization_spaces if tidy is None else tidy) else text
        )

    # --- tokenizer.json ---------------------------------------------------------------------------------------------

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, `tokenizer.json` too, and return the paths of its files."""
        written = super().save_pretrained(save_directory, filename_prefix)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        text = json.dumps(self.to_json(), ensure_ascii=False)
        return (*written, write_text(Path(save_directory) / f"{prefix}{JSON_FILE}", text))

    def to_json(self) -> dict[str, Any]:
        """Return what `tokenizer.json` holds, as transformers 4.34 makes it from the model."""
        added = [{"id": index} | token.to_json() for index, token in self.added_tokens_decoder.items()]
        template: dict[str, Any] = {"type": "TemplateProcessing", "single": self._template(self.single_template)}
        template |= {"pair": self._template(self.pair_template), "special_tokens": self._template_tokens()}
        model = {"type": "Unigram", "unk_id": self.unk_token_id, "byte_fallback": False}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": self._json_normalizers()},
            "pre_tokenizer": _METASPACE,
            "post_processor": template,
            "decoder": _METASPACE,
            "model": model | {"vocab": [list(entry) for entry in self._json_vocabulary()]},
        }

    def _json_vocabulary(self) -> list[tuple[str, float]]:
        """Return each piece of the model with its score."""
        ids = list(range(len(self.sp_model)))
        return list(zip(self.sp_model.id_to_piece(ids), self.sp_model.get_score(ids), strict=True))

    def _json_normalizers(self) -> list[dict[str, Any]]:
        """Return the steps of normalization."""
        table = sentencepiece_files.charsmap(self._model)
        steps: list[dict[str, Any]] = []
        if table:
            steps.append({"type": "Precompiled", "precompiled_charsmap": b64encode(table).decode()})
        return [*steps, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]

    def _template(self, template: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for part in template.split():
            name, _, kind = part.partition(":")
            if name[0] == "$":
                parts.append({"Sequence": {"id": name[1:], "type_id": int(kind or 0)}})
            else:
                parts.append({"SpecialToken": {"id": getattr(self, name), "type_id": int(kind or 0)}})
        return parts

    def _template_tokens(self) -> dict[str, Any]:
        parts = (part.partition(":")[0] for part in self.pair_template.split())
        roles = sorted({getattr(self, part): self._needed(part) for part in parts if part[0] != "$"}.items())
        return {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in roles}


def windows(length: int, room: int, stride: int, side: str) -> list[tuple[int, int]]:
    """Return where the parts of a row begin and end, each of at most `room` tokens, that share `stride` with the next.

    The part that is kept where only one is wanted comes first.
    """
    found: list[tuple[int, int]] = []
    for start in range(0, length, room - stride):
        end = min(start + room, length)
        found.append((start, end) if side == "right" else (length - end, length - start))
        if end == length:
            break
    return found


def _without(found: Found, count: int, side: str) -> Found:
    size = len(found.ids)
    return (found.part(count, size) if side == "left" else found.part(0, size - count)) if count else found
