"""Permutation language modelling by the rules of HuggingFace's collator, and what mends them.

These are not the authors' rules (`xlcore.tasks.permutation_windows`): here tokens to be predicted are replaced by
`<mask>`, so nothing is learnt about how they depend on each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xlcore.errors import ConfigError, ShapeError, TokenizerError
from xlcore.tasks.permutation_lm import join_halves, pick_targets, visibility

Array = np.ndarray[Any, Any]
WHERE = "DataCollatorForPermutationLanguageModeling"


class Draws(Protocol):
    """A source of chance; numpy's generators are such."""

    def integers(self, low: int, high: int) -> Any:
        """Draw a whole number from `low` to `high` - 1."""

    def permutation(self, n: int) -> Any:
        """Draw an order of 0 to n - 1."""


@dataclass
class PermutationCollator:
    """Texts of ids to a batch for permutation language modelling, by the rules of transformers' torch collator.

    Args:
        tokenizer: anything with `mask_token_id`, `pad_token_id`, `padding_side` and `all_special_ids`.
        plm_probability: the share of tokens to predict.
        max_span_length: the tokens of the longest span; spans that touch can look longer.
        return_tensors: "pt", "tf" or "np".
        seed: for batches that depend on seed and `step` alone; None to follow the global state of the framework.
        step: batches made so far; set it to go on where another run stopped.
        corrupt_inputs: put `<mask>` where a token is to be predicted. Without it the model learns to predict tokens
            from each other, as the authors' does.
        leak_safe: who sees whom by the authors' rules: the first half sees nothing of the second, the second sees all
            of the first, special tokens take part in the order. None is True exactly where inputs are not corrupted:
            there the rules of transformers would let targets see themselves by way of special tokens.
        emit_attention_mask: return `attention_mask`, without which padding is read as text.
        compact: predict at chosen positions only, as many as the row with most of them has.

    Raises:
        ConfigError: for values that the rules do not work with.
    """

    tokenizer: Any
    plm_probability: float = 1 / 6
    max_span_length: int = 5
    return_tensors: str = "np"
    seed: int | None = None
    corrupt_inputs: bool = True
    leak_safe: bool | None = None
    emit_attention_mask: bool = False
    compact: bool = False
    step: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.plm_probability <= 1:
            raise ConfigError(f"{WHERE}: plm_probability must lie in (0, 1], got {self.plm_probability}")
        if self.max_span_length < 1:
            raise ConfigError(f"{WHERE}: max_span_length must be positive, got {self.max_span_length}")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"{WHERE}: seed must be at least 0, got {self.seed}")
        if self.leak_safe is False and not self.corrupt_inputs:
            raise ConfigError(
                f"{WHERE}: leak_safe must be true where inputs are not corrupted, got False; "
                "targets would see themselves by way of special tokens"
            )

    def collate(self, features: Sequence[Any], draws: Draws) -> dict[str, Array]:
        """Make a batch.

        Args:
            features: texts of ids as lists, arrays or tensors, or mappings whose `input_ids` they are; all else in them
                is left out, as in transformers. They stay as they are.
            draws: drawn from in this order: for each row, for each span, its length and its place; then for each row
                one permutation, which both of its halves follow.

        Returns:
            input_ids [B, T], perm_mask [B, T, T], target_mapping [B, P, T], labels [B, P], with P = T unless `compact`;
            and attention_mask [B, T] if asked for.

        Raises:
            ShapeError: for no texts, or a longest text of odd length.
            TokenizerError: for a tokenizer without mask token, or without padding token where it is needed.
        """
        if self.corrupt_inputs and self.tokenizer.mask_token_id is None:
            raise TokenizerError(f"{WHERE}: tokenizer must have a mask token, got none; set tokenizer.mask_token")
        ids = self._padded(features)
        rows, length = ids.shape
        if length % 2:
            raise ShapeError(f"{WHERE}: the longest text must have even length, got {length}; pad or cut it")
        chosen = np.stack([self._spans(length, draws) for _ in range(rows)])
        padding = np.full(ids.shape, False) if (pad := self.tokenizer.pad_token_id) is None else ids == pad
        functional = np.isin(ids, self.tokenizer.all_special_ids) | padding
        chosen &= ~functional
        count = max(1, int(chosen.sum(axis=1).max())) if self.compact else None
        mapping, labels = pick_targets(ids, chosen, count)
        order = np.stack([_order(length, draws) for _ in range(rows)])
        batch = {
            "input_ids": np.where(chosen, self.tokenizer.mask_token_id, ids) if self.corrupt_inputs else ids,
            "perm_mask": self._perm_mask(chosen, functional, order),
            "target_mapping": mapping,
            "labels": labels,
        }
        return batch | ({"attention_mask": (~padding).astype("int64")} if self.emit_attention_mask else {})

    def _padded(self, features: Sequence[Any]) -> Array:
        """Return the texts as one new array, padded to the longest on the tokenizer's side."""
        texts = [np.asarray(each["input_ids"] if isinstance(each, Mapping) else each) for each in features]
        wrong = [text for text in texts if text.ndim != 1 or not len(text) or text.dtype.kind not in "iu"]
        if not texts or wrong:
            got = f"{wrong[0].dtype} of shape {list(wrong[0].shape)}" if wrong else "no texts"
            raise ShapeError(f"{WHERE}: features must be rows of ids, got {got}")
        longest = max(map(len, texts))
        if self.tokenizer.pad_token_id is None and any(len(text) < longest for text in texts):
            raise TokenizerError(
                f"{WHERE}: tokenizer must have a padding token for texts of unequal length, got none; "
                "set tokenizer.pad_token"
            )
        ids = np.full((len(texts), longest), self.tokenizer.pad_token_id or 0, "int64")
        for row, text in zip(ids, texts, strict=True):
            row[longest - len(text) if self.tokenizer.padding_side == "left" else 0 :][: len(text)] = text
        return ids

    def _spans(self, length: int, draws: Draws) -> Array:
        """Choose spans in one row: each stands anywhere within a context so long that the share is right."""
        chosen = np.zeros(length, bool)
        place = 0
        while place < length:
            span = int(draws.integers(1, self.max_span_length + 1))
            context = int(span / self.plm_probability)
            start = place + int(draws.integers(0, context - span + 1))
            chosen[start : start + span] = True
            place += context
        return chosen

    def _perm_mask(self, chosen: Array, functional: Array, order: Array) -> Array:
        """Return [B, T, T] float32, 1 where position i may not see position j."""
        if self.leak_safe or not self.corrupt_inputs:
            middle = chosen.shape[1] // 2
            halves = slice(None, middle), slice(middle, None)
            first, second = (visibility(chosen[:, h], functional[:, h], order[:, h])[0] for h in halves)
            return join_halves(first, second)
        place = np.where(chosen | functional, order, -1)
        return ((place[:, :, None] <= place[:, None, :]) & chosen[:, None, :]).astype("float32")


def _order(length: int, draws: Draws) -> Array:
    """Draw the order of one row: the same permutation in both halves, the first before the second."""
    one = np.asarray(draws.permutation(length // 2))
    return np.concatenate([one, one + length // 2])
