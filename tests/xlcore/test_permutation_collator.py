"""The rules of HuggingFace's collator for permutation language modelling, and what mends them.

`tests/models/test_pretraining.py` holds the same against transformers itself.
"""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from xlcore.errors import ConfigError, ShapeError, TokenizerError
from xlcore.tasks.permutation_collator import PermutationCollator

MASK, PAD, SEP, CLS = 6, 5, 4, 3


@dataclass
class Vocabulary:
    """Of a tokenizer what the collator looks at."""

    mask_token_id: int | None = MASK
    pad_token_id: int | None = PAD
    padding_side: str = "left"
    all_special_ids: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)


def texts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [[*rng.integers(9, 60, length - 2).tolist(), SEP, CLS] for length in lengths]


def collate(features, seed=0, tokenizer=None, **keys):
    return PermutationCollator(tokenizer or Vocabulary(), **keys).collate(features, np.random.default_rng(seed))


class Script:
    """Draws written down: what was asked for, and what comes."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def integers(self, low, high):
        self.asked.append((low, high))
        return self.answers.pop(0)

    def permutation(self, n):
        self.asked.append(n)
        return np.array(self.answers.pop(0))


def test_worked_by_hand():
    """Two rows; in the first a span of 1 at 2 and one of 2 from 8 on; in the second one of 2 from 0 on."""
    rows = [[11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [21, 22, SEP, 24, 25, 26, 27, 28, 29, CLS]]
    draws = Script(1, 2, 2, 2, 2, 0, [1, 0, 4, 3, 2], [0, 1, 2, 3, 4])
    batch = PermutationCollator(Vocabulary(), max_span_length=3).collate(rows, draws)
    # A span of 1 is asked a place in 6, one of 2 in 12; the second row is full after one.
    assert draws.asked == [(1, 4), (0, 6), (1, 4), (0, 11), (1, 4), (0, 11), 5, 5]
    assert batch["input_ids"].tolist() == [
        [11, 12, MASK, 14, 15, 16, 17, 18, MASK, MASK],
        [MASK, MASK, SEP, 24, 25, 26, 27, 28, 29, CLS],
    ]
    none = -100
    assert batch["labels"].tolist() == [
        [none, none, 13, none, none, none, none, none, 19, 20],
        [21, 22, none, none, none, none, none, none, none, none],
    ]
    first = np.zeros((10, 10), int)
    first[:, [2, 8, 9]] = 1  # nobody sees a target ...
    first[8, 2] = first[9, 2] = first[8, 9] = 0  # ... but those later in the order: 2 at 4, 9 at 7, 8 at 8
    second = np.zeros((10, 10), int)
    second[:, [0, 1]] = 1
    second[1, 0] = second[[2, 9], :2] = 0  # special tokens have a place in the order, too
    np.testing.assert_array_equal(batch["perm_mask"], [first, second])
    np.testing.assert_array_equal(batch["target_mapping"], [np.eye(10)] * 2)
    assert {name: array.dtype.name for name, array in batch.items()} == {
        "input_ids": "int64", "perm_mask": "float32", "target_mapping": "float32", "labels": "int64",
    }  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(side):
    rows = texts(6, 10, 3)
    batch = collate(rows, tokenizer=Vocabulary(padding_side=side), emit_attention_mask=True)
    for number, row in enumerate(rows):
        own = slice(10 - len(row), None) if side == "left" else slice(None, len(row))
        ids, labels = batch["input_ids"][number], batch["labels"][number]
        np.testing.assert_array_equal(np.where(labels == -100, ids, labels)[own], row)
        assert batch["attention_mask"][number].sum() == batch["attention_mask"][number][own].sum() == len(row)
        rest = np.delete(ids, np.arange(10)[own])
        assert (rest == PAD).all()
    assert "attention_mask" not in collate(rows)


def test_what_comes_in_stays():
    rows = [np.array(row) for row in texts(8, 8)]
    before = [row.copy() for row in rows]
    one = collate(np.stack(rows))
    for given in (rows, [row.tolist() for row in rows], [{"input_ids": row, "labels": 3} for row in rows]):
        assert all(np.array_equal(value, one[name]) for name, value in collate(given).items())
    np.testing.assert_array_equal(rows, before)


def test_statistics():
    """The share that was asked for, in spans of 1 to 5 with equal chances; spans that touch look longer."""
    rows = np.full((60, 600), 9)
    batch = collate(rows)
    targets = batch["labels"] != -100
    assert abs(targets.mean() - 1 / 6) < 0.01
    edges = np.diff(np.pad(targets.astype(int), ((0, 0), (1, 1))))
    lengths = np.nonzero(edges.ravel() == -1)[0] - np.nonzero(edges.ravel() == 1)[0]
    shares = np.bincount(lengths, minlength=12) / len(lengths)
    np.testing.assert_allclose(shares[1:6], 0.2, atol=0.04)
    assert 0 < shares[6:].sum() < 0.1
    share = (collate(rows, plm_probability=0.5, max_span_length=2)["labels"] != -100).mean()
    assert abs(share - 0.5) < 0.01
    assert (collate(rows, plm_probability=1.0)["labels"] != -100).all()


def test_special_tokens_are_never_predicted():
    rows = [[0, 1, 2, 3, 4, 5, 6, 3]] * 3
    for keys in ({}, {"corrupt_inputs": False}, {"compact": True}):
        batch = collate(rows, plm_probability=1.0, **keys)
        assert (batch["labels"] == -100).all()
        assert batch["input_ids"].tolist() == rows
        assert batch["labels"].shape == ((3, 1) if "compact" in keys else (3, 8))
        assert batch["target_mapping"].any() == ("compact" not in keys)


@pytest.mark.parametrize("seed", range(4))
def test_compact_is_the_same_at_fewer_positions(seed):
    rows = texts(40, 30, 36)
    whole, compact = (collate(rows, seed, compact=each) for each in (False, True))
    for number in range(3):
        counted = whole["labels"][number] != -100
        used = compact["labels"][number] != -100
        np.testing.assert_array_equal(compact["labels"][number][used], whole["labels"][number][counted])
        np.testing.assert_array_equal(compact["target_mapping"][number][used], np.eye(40)[counted])
        assert not compact["target_mapping"][number][~used].any()
    assert compact["labels"].shape[1] == (whole["labels"] != -100).sum(axis=1).max()
    np.testing.assert_array_equal(compact["perm_mask"], whole["perm_mask"])


def test_true_tokens_and_the_authors_visibility():
    """Without corruption: inputs as they were, the first half blind for the second, which sees all of the first."""
    rows = texts(40, 30, 36)
    plain, true = collate(rows), collate(rows, corrupt_inputs=False)
    np.testing.assert_array_equal(plain["labels"], true["labels"])
    for row, ids in zip(rows, true["input_ids"], strict=True):
        np.testing.assert_array_equal(ids[40 - len(row) :], row)
    mask, targets = true["perm_mask"], true["labels"] != -100
    assert mask[:, :20, 20:].all()
    assert not mask[:, 20:, :20].any()
    np.testing.assert_array_equal(np.einsum("bii->bi", mask), targets)
    np.testing.assert_array_equal(collate(rows, leak_safe=True)["perm_mask"], mask)
    np.testing.assert_array_equal(collate(rows, leak_safe=True)["input_ids"], plain["input_ids"])


def seen_after_layers(mask, layers=4):
    """Return whose tokens reach the query of each position: those it sees, those they see, and so on."""
    sees = mask == 0
    content = sees | np.eye(mask.shape[-1], dtype=bool)
    reach = content.copy()
    for _ in range(layers - 1):
        reach = np.einsum("bij,bjk->bik", content, reach)
    return np.einsum("bij,bjk->bik", sees, reach)


def test_no_target_sees_itself_by_way_of_others():
    """Which is why true tokens with the visibility of transformers are refused."""
    rows = texts(40, 30, 36)
    for seed in range(10):
        true = collate(rows, seed, corrupt_inputs=False)
        targets = true["labels"] != -100
        itself = np.einsum("bii->bi", seen_after_layers(true["perm_mask"]))
        assert targets.any()
        assert not (itself & targets).any()
    theirs = [collate(rows, seed) for seed in range(10)]
    leaks = [np.einsum("bii->bi", seen_after_layers(each["perm_mask"])) & (each["labels"] != -100) for each in theirs]
    assert any(each.any() for each in leaks)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"plm_probability": 0.0}, "plm_probability must lie in (0, 1], got 0.0"),
        ({"plm_probability": 1.5}, "plm_probability must lie in (0, 1], got 1.5"),
        ({"max_span_length": 0}, "max_span_length must be positive, got 0"),
        ({"seed": -3}, "seed must be at least 0, got -3"),
        (
            {"corrupt_inputs": False, "leak_safe": False},
            "leak_safe must be true where inputs are not corrupted, got False; "
            "targets would see themselves by way of special tokens",
        ),
    ],
)
def test_rules_that_cannot_be(keys, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'DataCollatorForPermutationLanguageModeling: {message}')}$"):
        PermutationCollator(Vocabulary(), **keys)


@pytest.mark.parametrize(
    ("features", "tokenizer", "kind", "message"),
    [
        (texts(7, 5), {}, ShapeError, "the longest text must have even length, got 7; pad or cut it"),
        ([], {}, ShapeError, "features must be rows of ids, got no texts"),
        ([[9, 9], []], {}, ShapeError, "features must be rows of ids, got float64 of shape [0]"),
        ([[0.5, 1.5]], {}, ShapeError, "features must be rows of ids, got float64 of shape [2]"),
        ([[[1, 2]]], {}, ShapeError, "features must be rows of ids, got int64 of shape [1, 2]"),
        (
            texts(6, 6),
            {"mask_token_id": None},
            TokenizerError,
            "tokenizer must have a mask token, got none; set tokenizer.mask_token",
        ),
        (
            texts(6, 4),
            {"pad_token_id": None},
            TokenizerError,
            "tokenizer must have a padding token for texts of unequal length, got none; set tokenizer.pad_token",
        ),
    ],
)
def test_texts_that_do_not_fit(features, tokenizer, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(f'DataCollatorForPermutationLanguageModeling: {message}')}$"):
        collate(features, tokenizer=Vocabulary(**tokenizer))


def test_tokens_that_are_not_needed():
    """No padding token for texts of one length; no mask token where nothing is masked."""
    rows = texts(6, 6)
    bare = Vocabulary(mask_token_id=None, pad_token_id=None)
    batch = collate(rows, tokenizer=bare, corrupt_inputs=False, emit_attention_mask=True)
    assert batch["input_ids"].tolist() == rows
    assert batch["attention_mask"].all()
    assert not (collate(rows, tokenizer=Vocabulary(pad_token_id=None))["input_ids"] == PAD).any()
