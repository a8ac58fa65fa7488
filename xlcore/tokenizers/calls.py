"""The calls of a tokenizer: one text, a pair, a batch; cut, filled and made tensors."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from xlcore.errors import TokenizerError
from xlcore.tokenizers import batch
from xlcore.tokenizers.added import SpecialTokens
from xlcore.tokenizers.batch import BatchEncoding, Lengths

Span = tuple[int, int]
Item = tuple[Any, Any]  # a text, and its pair or None
log = logging.getLogger(__name__)


@dataclass
class Arguments:
    """The arguments that all calls take. `options` are those that go on to `tokenize`."""

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Arguments":
        """Return the arguments of a call; what is not one of them is an option of `tokenize`."""
        known = {name: value for name, value in values.items() if name in ARGUMENTS}
        return cls(**known, options={name: value for name, value in values.items() if name not in ARGUMENTS})


ARGUMENTS = [entry.name for entry in fields(Arguments) if entry.name != "options"]


class Calls(SpecialTokens):
    """What a tokenizer can be called for; a base of `Tokenizer`, which splits the texts."""

    model_input_names: Sequence[str]
    model_max_length: int
    padding_side: str
    truncation_side: str
    truncation_empties = False  # what is to be cut more than it has is emptied, not left whole
    pad_token_type_id: int
    _told = False  # whether it was said that a text is too long

    # --- what Tokenizer and the family say --------------------------------------------------------------------------

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """Split a text into tokens."""
        raise NotImplementedError

    def tokenize_with_offsets(self, text: str, **options: Any) -> tuple[list[str], list[Span | None]]:
        """Split a text into tokens, and say where each lies."""
        raise NotImplementedError

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the ids of tokens."""
        raise NotImplementedError

    def _text_ids(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text; for a family that has a shorter way than by its tokens."""
        ids: list[int] = self.convert_tokens_to_ids(self.tokenize(text, **options))
        return ids

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return a text, or a pair, with the special tokens that the model wants around it."""
        return [*token_ids_0, *(token_ids_1 or [])]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for each token of the first text and 1 for each of the second, special tokens included."""
        return [0] * len(token_ids_0) + [1] * len(token_ids_1 or [])

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 where `build_inputs_with_special_tokens` puts a special token, else 0.

        already_has_special_tokens: `token_ids_0` is what that function returned; special ids are looked up.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise TokenizerError("get_special_tokens_mask: finished ids must be one list, got two")
            special = self._is_special()
            return [int(index in special) for index in token_ids_0]
        return self._special_mask(len(token_ids_0), None if token_ids_1 is None else len(token_ids_1))

    def _special_mask(self, first: int, second: int | None) -> list[int]:
        return [0] * (first + (second or 0))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens stand around a text, or a pair."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    # --- calls ------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        **options: Any,
    ) -> BatchEncoding:
        """Encode a text, a pair, a list of texts or pairs, or two lists of the same length.

        padding: True or "longest", "max_length", False. truncation: True or "longest_first", "only_first",
        "only_second", False. `max_length` alone cuts. stride: how many tokens `overflowing_tokens` repeats.
        is_split_into_words: a text is a list of words. return_tensors: "np", "pt" or "tf".
        return_offsets_mapping: where in its text (or word) each token lies; (0, 0) for special tokens, None where it
        cannot be told. return_length: the length of each row before it is filled. `options` go to `tokenize`.
        Returns lists, or lists of lists for a batch. Raises TokenizerError for what is none of these.
        """
        given = locals()
        arguments = {name: given[name] for name in ARGUMENTS} | options
        many = isinstance(text, list | tuple)
        if is_split_into_words:
            many = many and bool(text) and isinstance(text[0], list | tuple)
        if not many:
            return self.encode_plus(text, text_pair, **arguments)
        if text_pair is None:
            return self.batch_encode_plus(text, **arguments)
        if not isinstance(text_pair, list | tuple) or len(text_pair) != len(text):
            raise TokenizerError(f"{self._where}: text_pair must be a list of {len(text)} texts, got {text_pair!r:.60}")
        how = Arguments.of(arguments)
        return self._finish(how, list(zip(text, text_pair, strict=True)))

    def encode(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        """Return only the ids of a text or a pair; arguments as for a call."""
        only_ids = {"return_token_type_ids": False, "return_attention_mask": False}
        return self.encode_plus(text, text_pair, **(only_ids | kwargs))["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **kwargs: Any) -> BatchEncoding:
        """Encode one text or pair; a list is one text of tokens, words (`is_split_into_words`) or ids."""
        return self._finish(Arguments.of(kwargs), [(text, text_pair)], alone=True)

    def batch_encode_plus(self, batch_text_or_text_pairs: Iterable[Any], **kwargs: Any) -> BatchEncoding:
        """Encode a list of texts, or of pairs given as tuples or lists of two."""
        how = Arguments.of(kwargs)
        return self._finish(how, [self._one_or_two(item, how) for item in batch_text_or_text_pairs])

    def prepare_for_model(self, ids: list[int], pair_ids: list[int] | None = None, **kwargs: Any) -> BatchEncoding:
        """Put special tokens around ids, cut and fill them; arguments as for a call."""
        return self.encode_plus(ids, pair_ids, **kwargs)

    @staticmethod
    def _one_or_two(item: Any, how: Arguments) -> tuple[Any, Any]:
        if not isinstance(item, list | tuple) or (
            how.is_split_into_words and not any(type(x) in (list, tuple) for x in item)
        ):
            return item, None
        return (item[0], item[1]) if len(item) == 2 and not isinstance(item[0], int) else (item, None)

    def _ids(self, text: Any, how: Arguments) -> tuple[list[int], list[Span | None]]:
        """Return the ids of a text, of words, of tokens or of ids, and where they lie if that is asked for."""
        if isinstance(text, str):
            if not how.return_offsets_mapping:
                return self._text_ids(text, **how.options), []
            tokens, spans = self.tokenize_with_offsets(text, **how.options)
            return self.convert_tokens_to_ids(tokens), spans
        if not isinstance(text, list | tuple):
            raise TokenizerError(
                f"{self._where}: a text must be a string, or a list of strings or ids, got {text!r:.60}"
            )
        if all(isinstance(item, int) for item in text) and not (how.return_offsets_mapping and text):
            return list(text), []
        if not all(isinstance(item, str) for item in text):
            raise TokenizerError(f"{self._where}: a list must hold strings only, or ids only, got {text!r:.60}")
        if not how.is_split_into_words:
            return self.convert_tokens_to_ids(text), [None] * len(text)
        parts = [self._ids(word, how) for word in text]  # spans are counted from the start of each word
        return [i for ids, _ in parts for i in ids], [s for _, spans in parts for s in spans]

    # --- rows -------------------------------------------------------------------------------------------------------

    def _rows(self, items: Sequence[Item], how: Arguments, lengths: Lengths) -> list[dict[str, Any]]:
        """Return the entries of each text or pair, cut but not filled."""
        return [self._row(text, pair, how, lengths) for text, pair in items]

    def _require_stride(self, stride: Any, room: int) -> None:
        """Refuse to repeat more tokens than there is room for, or none that can be counted."""
        most = max(0, room - 1)
        if not isinstance(stride, int) or not 0 <= stride <= most:
            raise TokenizerError(f"{self._where}: stride must be from 0 to {most}, got {stride!r}")

    def _truncate(self, ids: Any, pair: Any, remove: int, cuts: batch.Truncation, stride: int = 0) -> Any:
        return batch.truncate_pair(ids, pair, remove, cuts, self.truncation_side, stride, self.truncation_empties)

    def _row(self, text: Any, pair: Any, how: Arguments, lengths: Lengths) -> dict[str, Any]:
        """Return the entries of one text or pair, cut but not filled."""
        ids, spans = self._ids(text, how)
        pair_ids, pair_spans = (None, []) if pair is None else self._ids(pair, how)
        total = len(ids) + len(pair_ids or [])
        total += self.num_special_tokens_to_add(pair is not None) if how.add_special_tokens else 0
        remove = max(0, total - lengths.max_length) if lengths.max_length else 0
        cuts = lengths.truncation
        stride = how.stride if how.return_overflowing_tokens else 0
        if stride and remove and cuts != "do_not_truncate":
            self._require_stride(stride, len(pair_ids or [] if cuts == "only_second" else ids) - remove)
        ids_left, pair_left, over = self._truncate(ids, pair_ids, remove, cuts, stride)
        row: dict[str, Any] = {"input_ids": self._joined(ids_left, pair_left, how)}
        if how.return_overflowing_tokens:
            if pair is not None and cuts == "longest_first":
                raise TokenizerError(
                    "return_overflowing_tokens: a pair must be cut 'only_first' or 'only_second', got 'longest_first'"
                )
            row |= {"overflowing_tokens": over, "num_truncated_tokens": total - len(row["input_ids"])}
        if self._wants(how.return_token_type_ids, "token_type_ids"):
            row["token_type_ids"] = self._types(ids_left, pair_left, how)
        if not (how.return_special_tokens_mask or how.return_offsets_mapping):
            return row
        mask = (
            self.get_special_tokens_mask(ids_left, pair_left) if how.add_special_tokens else [0] * len(row["input_ids"])
        )
        if how.return_special_tokens_mask:
            row["special_tokens_mask"] = mask
        if how.return_offsets_mapping:
            left, pair_of = self._truncate(spans, pair_spans if pair is not None else None, remove, cuts)[:2]
            places = iter([*left, *(pair_of or [])])
            row["offset_mapping"] = [(0, 0) if is_special else next(places) for is_special in mask]
        return row

    def _joined(self, ids: list[int], pair: list[int] | None, how: Arguments) -> list[int]:
        return self.build_inputs_with_special_tokens(ids, pair) if how.add_special_tokens else [*ids, *(pair or [])]

    def _types(self, ids: list[int], pair: list[int] | None, how: Arguments) -> list[int]:
        if how.add_special_tokens:
            return self.create_token_type_ids_from_sequences(ids, pair)
        if how.return_token_type_ids:
            raise TokenizerError("return_token_type_ids: add_special_tokens must be True, got False")
        return [0] * (len(ids) + len(pair or []))

    def _wants(self, asked: bool | None, name: str) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _finish(self, how: Arguments, items: Sequence[Item], alone: bool = False) -> BatchEncoding:
        """Return the columns, those of one text as rows where it stands alone, as tensors where asked for."""
        columns = self._columns(how, items)
        found = BatchEncoding({key: value[0] for key, value in columns.items()} if alone else columns)
        return found.convert_to_tensors(how.return_tensors, prepend_batch_axis=alone)

    def _columns(self, how: Arguments, items: Sequence[Item]) -> dict[str, Any]:
        """Make the rows, turn them into columns, and fill them."""
        lengths = self._lengths(how.padding, how.truncation, how.max_length, how.pad_to_multiple_of)
        rows = self._rows(items, how, lengths)
        columns: dict[str, Any] = {key: [row[key] for row in rows] for key in rows[0]} if rows else {"input_ids": []}
        sizes = [len(row) for row in columns["input_ids"]]
        if how.verbose and not self._told and max(sizes, default=0) > self.model_max_length:
            self._told = True  # once is enough
            log.warning(
                "%s: a text of %d tokens is longer than the model takes (%d)",
                self._where,
                max(sizes),
                self.model_max_length,
            )
        if how.return_length:
            columns["length"] = sizes
        if self._wants(how.return_attention_mask, "attention_mask"):
            columns["attention_mask"] = [[1] * size for size in sizes]
        return self._filled(columns, sizes, lengths)

    def _lengths(self, padding: Any, truncation: Any, max_length: int | None, multiple: int | None) -> Lengths:
        batch.require_sides(self._where, self.padding_side, self.truncation_side)
        lengths = batch.resolve(padding, truncation, max_length, multiple, self.model_max_length)
        if lengths.padding != "do_not_pad" and self.pad_token is None:
            raise TokenizerError(
                f"{self._where}: padding must have a pad_token, got none; set tokenizer.pad_token = '<eos>', "
                "or add one with add_special_tokens({'pad_token': '<pad>'})"
            )
        return lengths

    def _filled(self, columns: dict[str, Any], sizes: list[int], lengths: Lengths) -> dict[str, Any]:
        length = batch.padded_length(sizes, lengths)
        if length is None:
            return columns
        return batch.pad_rows(columns, self._fillings(), length, self.padding_side)

    def _fillings(self) -> dict[str, Any]:
        """Return what the rows of each entry are filled with."""
        fill: dict[str, Any] = {"input_ids": self.pad_token_id, "attention_mask": 0}
        return fill | {
            "token_type_ids": self.pad_token_type_id, "special_tokens_mask": 1, "offset_mapping": (0, 0)
        }  # fmt: skip

    # --- finished rows ----------------------------------------------------------------------------------------------

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Fill encoded texts to one length: an encoding, or a list of encodings (for a data loader).

        Arrays and tensors come back as what they were, unless `return_tensors` says otherwise.
        """
        if isinstance(encoded_inputs, list | tuple) and encoded_inputs:
            encoded_inputs = {key: [entry[key] for entry in encoded_inputs] for key in encoded_inputs[0]}
        if not isinstance(encoded_inputs, Mapping) or "input_ids" not in encoded_inputs:
            raise TokenizerError(
                f"{self._where}: pad must be given encodings with input_ids, got {encoded_inputs!r:.60}"
            )
        columns = {key: batch.to_lists(value) for key, value in encoded_inputs.items()}
        return_tensors = return_tensors or batch.kind_of(encoded_inputs["input_ids"])
        ids = columns["input_ids"]
        alone = not ids or not isinstance(ids[0], list)
        if alone:
            columns = {key: [value] for key, value in columns.items()}
        sizes = [len(row) for row in columns["input_ids"]]
        for key, value in columns.items():
            if len(value) != len(sizes):
                raise TokenizerError(
                    f"{self._where}: {key} must have {len(sizes)} rows as input_ids has, got {len(value)}"
                )
        if self._wants(return_attention_mask, "attention_mask") and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * size for size in sizes]
        filled = self._filled(columns, sizes, self._lengths(padding, False, max_length, pad_to_multiple_of))
        found = BatchEncoding({key: value[0] for key, value in filled.items()} if alone else filled)
        return found.convert_to_tensors(return_tensors)

    def truncate_sequences(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: bool | str = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Return a text and its pair without some tokens, and the removed ones with `stride` more beside them."""
        strategy = batch.resolve(False, truncation_strategy, None, None, self.model_max_length).truncation
        cut: tuple[list[int], list[int] | None, list[int]]
        cut = self._truncate(ids, pair_ids, num_tokens_to_remove, strategy, stride)
        return cut

    truncate = truncate_sequences
