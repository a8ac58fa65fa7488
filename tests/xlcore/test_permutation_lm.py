"""Permutation language modelling by the authors' rules: targets, orders, who sees whom, windows, batches.

Each rule is held against the same rule written out in loops, one token at a time, on the same draws.
"""

import json
import pickle
import re

import numpy as np
import pytest

from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.permutation_lm import choose_targets, draw_order, join_halves, pick_targets, visibility
from xlcore.tasks.permutation_windows import (
    PermutationBatches,
    PermutationSettings,
    TokenStream,
    choose_segments,
    join_streams,
    token_stream,
    word_starts,
)

CLS, SEP, EOD = 3, 4, 7
V = 60
STARTS = np.arange(V) % 3 != 1  # two of three ids begin a word
SMALL = {"seq_len": 32, "reuse_len": 16, "perm_size": 16, "num_predict": 7}


def text(tokens=900, seed=0, longest=9):
    """Draw a text of sentences, each of 1 to `longest` tokens, documents of a few sentences each."""
    rng = np.random.default_rng(seed)
    ids, flags, flag = [], [], True
    while len(ids) < tokens:
        length = int(rng.integers(1, longest + 1))
        flag = not flag
        ids += rng.integers(9, V, length).tolist() + [EOD] * (rng.random() < 0.2)
        flags += [flag] * (len(ids) - len(flags))
    return TokenStream(np.array(ids[:tokens], "int32"), np.array(flags[:tokens]))


def batches(texts=None, batch_size=4, seed=0, starts=STARTS, **settings):
    return PermutationBatches(texts or [text()], starts, batch_size, PermutationSettings(**SMALL | settings), seed)


# ------------------------------------------------------------------------------------------------ choosing targets


class Dice:
    """A generator that hands out prepared numbers."""

    def __init__(self, *arrays):
        self.arrays = list(arrays)

    def random(self, shape):
        array = np.broadcast_to(self.arrays.pop(0), shape)
        assert array.shape == shape
        return array


def targets_by_loops(word_starts, spans, lots, goal, alpha=6, beta=1):
    """Choose the targets of one row a token at a time."""
    length, shares = len(word_starts), np.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    shares = shares / shares.sum()
    marked, place, done = [False] * length, 0, 0
    for share_of_length, share_of_context in spans:
        if place >= length or (goal is not None and done >= goal):
            break
        n = 1
        while share_of_length >= shares[:n].sum() and n < 5:
            n += 1
        n = n if goal is None else min(n, goal - done)
        context = n * alpha // beta
        before = int(share_of_context * context)
        begin = place + before
        while begin < length and not word_starts[begin]:
            begin += 1
        if begin >= length or begin + n >= length:
            break
        for position in range(begin, begin + n):
            marked[position] = True
        done += n
        place = begin + n + context - before
    while goal is not None and done < goal:
        free = [position for position in range(length) if not marked[position]]
        marked[min(free, key=lambda position: lots[position])] = True
        done += 1
    return marked


@pytest.mark.parametrize("goal", [None, 0, 1, 5, 12, 40])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_targets_are_those_of_the_rule_in_loops(goal, share):
    rng = np.random.default_rng(3)
    for alpha, beta in ((6, 1), (6, 1), (3, 2), (1, 1)):
        starts = rng.random((5, 40)) < share
        spans, lots = rng.random((5, 40, 2)), rng.random((5, 40))
        found = choose_targets(starts, goal, Dice(spans, lots), alpha, beta)
        rows = zip(starts, spans, lots, strict=True)
        wanted = [targets_by_loops(*row, goal, alpha, beta) for row in rows]
        np.testing.assert_array_equal(found, wanted)


def test_targets_worked_by_hand():
    """Two spans: of 2 in a context of 12, 5 before and 7 after; then of 1, 3 before; then one by lot."""
    starts = np.zeros((1, 24), bool)
    starts[0, [0, 4, 6, 9, 19, 23]] = True
    spans = np.full((1, 24, 2), 0.9)
    spans[0, :2] = [[0.5, 5 / 12 + 1e-9], [0.4, 3 / 6 + 1e-9]]  # up to 0.438 is a span of 1, up to 0.657 of 2
    lots = np.arange(24, 0, -1)[None] / 100
    # 6, 7 from the first word at 5 or later; 8 + 7 = 15; 19 from the first word at 18 or later; the last has most lots
    found = choose_targets(starts, 4, Dice(spans, lots))
    assert np.flatnonzero(found[0]).tolist() == [6, 7, 19, 23]


def test_exactly_the_goal_is_chosen():
    rng = np.random.default_rng(0)
    for goal in (0, 1, 43, 256):
        found = choose_targets(rng.random((20, 256)) < 0.7, goal, rng)
        assert found.sum(axis=1).tolist() == [goal] * 20
    with pytest.raises(
        ShapeError, match=re.escape("choose_targets: goal must be at most the 8 tokens of a row, got 9")
    ):
        choose_targets(np.ones((1, 8), bool), 9, rng)


def runs(row):
    """Return start and length of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True))


def test_statistics_of_spans():
    """Without a goal: lengths with a probability proportional to 1/n, each span at a word's start."""
    rng = np.random.default_rng(1)
    starts = rng.random((200, 1000)) < 0.7
    found = choose_targets(starts, None, rng)
    spans = [(row, start, length) for row in range(200) for start, length in runs(found[row])]
    shares = np.bincount([length for *_, length in spans], minlength=7) / len(spans)
    assert len(spans) > 8000
    np.testing.assert_allclose(shares[1:6], [0.438, 0.219, 0.146, 0.109, 0.088], atol=0.015)
    assert shares[0] == shares[6:].sum() == 0
    assert all(starts[row, start] for row, start, _ in spans)
    assert 0.13 < found.mean() < 0.142


def test_the_share_of_spans():
    """Where every token begins a word, a span of n stands in n + 6 n tokens."""
    found = choose_targets(np.ones((100, 2000), bool), None, np.random.default_rng(2))
    assert abs(found.mean() - 1 / 7) < 0.003


# ------------------------------------------------------------------------------------------- orders and visibility


def test_an_order_repeats_a_permutation_in_chunks():
    order = draw_order(50, 12, 4, np.random.default_rng(0))
    chunks = order.reshape(50, 3, 4)
    np.testing.assert_array_equal(np.sort(chunks), np.arange(12).reshape(3, 4) + np.zeros((50, 1, 1)))
    np.testing.assert_array_equal(chunks - chunks[:, :1], np.array([0, 4, 8])[:, None] + np.zeros((50, 1, 4)))
    assert len({tuple(row) for row in order[:, :4].tolist()}) > 10


def visibility_by_loops(chosen, functional, order):
    """Say who may not see whom in one row, pair by pair, in the words of the specification."""
    length = len(order)
    hidden = np.zeros((length, length), bool)
    for i in range(length):
        for j in range(length):
            plain_i, plain_j = (not (chosen[k] or functional[k]) for k in (i, j))
            if plain_j:
                continue
            target_i = chosen[i] and not functional[i]
            before = not plain_i and order[j] < order[i]
            itself = i == j and functional[i]
            hidden[i, j] = not (before or itself)
            assert not (target_i and i == j) or hidden[i, j]
    return hidden


def test_the_worked_example():
    """a b c SEP d CLS with a, c, d chosen and the order 3 0 5 1 2 4."""
    chosen, functional = np.array([[1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]], bool)
    hidden, targets = visibility(chosen[None], functional[None], np.array([[3, 0, 5, 1, 2, 4]]))
    rows = ["101001", "101111", "001000", "101011", "101011", "001000"]
    np.testing.assert_array_equal(hidden[0], [[int(digit) for digit in row] for row in rows])
    np.testing.assert_array_equal(targets[0], chosen)


def test_visibility_is_that_of_the_rule_in_loops():
    rng = np.random.default_rng(5)
    chosen, functional = rng.random((30, 10)) < 0.4, rng.random((30, 10)) < 0.2
    order = draw_order(30, 10, 5, rng)
    hidden, targets = visibility(chosen, functional, order)
    wanted = [visibility_by_loops(*row) for row in zip(chosen, functional, order, strict=True)]
    np.testing.assert_array_equal(hidden, wanted)
    np.testing.assert_array_equal(targets, chosen & ~functional)
    assert (chosen & functional).any()


def test_halves_joined():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 3, 3)) < 0.5, rng.random((2, 4, 4)) < 0.5
    joined = join_halves(first, second)
    assert (joined.shape, joined.dtype) == ((2, 7, 7), np.float32)
    np.testing.assert_array_equal(joined[:, :3, :3], first)
    np.testing.assert_array_equal(joined[:, 3:, 3:], second)
    assert joined[:, :3, 3:].all()
    assert not joined[:, 3:, :3].any()


def test_targets_picked():
    ids = np.array([[11, 12, 13, 14], [21, 22, 23, 24]])
    targets = np.array([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    mapping, labels = pick_targets(ids, targets, 3)
    assert labels.tolist() == [[12, 14, -100], [-100] * 3]
    assert mapping[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert not mapping[1].any()
    mapping, labels = pick_targets(ids, targets, None)
    assert labels.tolist() == [[-100, 12, -100, 14], [-100] * 4]
    np.testing.assert_array_equal(mapping, [np.eye(4)] * 2)
    for count, wanted in ((3, [[1, 3, -1], [-1] * 3]), (None, [[0, 1, 2, 3]] * 2)):
        places, same = pick_targets(ids, targets, count, one_hot=False)
        assert places.tolist() == wanted
        np.testing.assert_array_equal(same, pick_targets(ids, targets, count)[1])


# ----------------------------------------------------------------------------------------------------------- the text


def test_a_text_of_lines():
    lines = ["ab", "c", "", "", "def", "\x00", "  ", "g"]
    stream = token_stream(lines, lambda line: [ord(each) for each in line if each.isalpha()])
    assert stream.ids.tolist() == [97, 98, 99, EOD, EOD, 100, 101, 102, EOD, 103]
    # ab | c and two ends of documents | def and one | g: the line without a token is no sentence
    assert stream.flags.astype(int).tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 0]
    without = token_stream(lines, lambda line: [ord(each) for each in line if each.isalpha()], eod_id=None)
    assert without.ids.tolist() == [97, 98, 99, 100, 101, 102, 103]
    assert without.flags.astype(int).tolist() == [1, 1, 0, 1, 1, 1, 0]
    assert len(token_stream([], list).ids) == 0


def test_texts_meet_at_the_end_of_a_sentence():
    one, other = token_stream(["ab", "c"], lambda line: [9] * len(line)), token_stream(["de"], lambda line: [8] * 2)
    nothing = token_stream([], list)
    for streams in ([one, other], [one, nothing, other], [other, one], [other, other], [one, one, one], [nothing, one]):
        joined = join_streams(streams)
        np.testing.assert_array_equal(joined.ids, np.concatenate([each.ids for each in streams]))
        ends = np.cumsum([len(each.ids) for each in streams if len(each.ids)])[:-1]
        inside = [(joined.flags[end - 1] != joined.flags[end]) for end in ends]
        assert all(inside)
        assert (np.diff(joined.flags.astype(int)) != 0).sum() == len(ends) + sum(
            (np.diff(each.flags.astype(int)) != 0).sum() for each in streams
        )
    assert join_streams([one]) is one


def test_starts_of_words():
    tokens = ["▁a", "b", "▁", "<eod>", ",", "'", "...", "=", "~", "é"]
    assert word_starts(tokens).astype(int).tolist() == [1, 0, 1, 1, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("ids", "flags", "got"),
    [
        (np.ones(3), np.ones(3, bool), "float64 [3] and bool [3]"),
        (np.ones(3, int), np.ones(2, bool), "int64 [3] and bool [2]"),
        (np.ones(3, int), np.ones(3, int), "int64 [3] and int64 [3]"),
        (np.ones((3, 1), int), np.ones((3, 1), bool), "int64 [3, 1] and bool [3, 1]"),
    ],
)
def test_no_stream(ids, flags, got):
    message = f"TokenStream: ids and flags must be a row of whole numbers and a bool for each, got {got}"
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        TokenStream(ids, flags)


# ------------------------------------------------------------------------------------------------------- the windows


def segments_by_loops(flags, begin, total, draws):
    """Choose A and B, one token at a time."""
    length = len(flags)
    if begin + total >= length:
        return None
    cut_points, far = [], begin + 1
    while far < length:
        if flags[far] != flags[far - 1]:
            if far - begin >= total:
                break
            cut_points.append(far)
        far += 1
    middle = cut_points[int(draws[1] * len(cut_points))] if cut_points else far
    if not cut_points or draws[0] < 0.5:
        size = max(1, total - (middle - begin))
        start = int(draws[2] * (length - size))
        stop = start + size
        while start > 0 and flags[start - 1] == flags[start]:
            start -= 1
        while stop < length - 1 and flags[stop - 1] == flags[stop]:
            stop += 1
    else:
        start, stop = middle, far
    while middle - begin + stop - start > total:
        if middle - begin > stop - start:
            middle -= 1
        else:
            stop -= 1
    return None if middle >= length or stop >= length else (begin, middle, start, stop)


@pytest.mark.parametrize("longest", [1, 4, 15, 60, 400])
def test_segments_are_those_of_the_rule_in_loops(longest):
    rng = np.random.default_rng(longest)
    kinds = set()
    for number in range(60):
        flags = text(150, number, longest).flags
        ends = 1 + np.flatnonzero(flags[1:] != flags[:-1])
        for begin in (0, 17, 80, *range(100, 150, 3)):
            total, draws = int(rng.integers(1, 50)), rng.random(3).tolist()
            found = choose_segments(ends, 150, begin, total, draws)
            assert found == segments_by_loops(flags, begin, total, draws)
            assert found is None or found[1] - found[0] + found[3] - found[2] == total
            kinds.add(None if found is None else found[2] == found[1])
    assert kinds == {None, False, True}


def test_half_of_the_second_segments_follow_the_first():
    ends, rng = np.arange(5, 2000, 5), np.random.default_rng(0)
    found = [choose_segments(ends, 2000, 100, 50, rng.random(3)) for _ in range(2000)]
    assert abs(np.mean([b_start == a_end for _, a_end, b_start, _ in found]) - 0.5) < 0.05
    assert {a_end for _, a_end, _, _ in found} >= set(range(105, 146, 5))


def unpacked(batch, row):
    """Return the stretch, A and B of a window after looking at what stands between them."""
    ids, types, half = batch["input_ids"][row], batch["token_type_ids"][row], 16
    a = ids[half:][types[half:] == 0]
    b = ids[half:][types[half:] == 1]
    assert (types[:half] == 0).all()
    assert (np.diff(types[half:]) >= 0).all()
    assert (ids[types == 2].tolist(), types[-1]) == ([CLS], 2)
    assert (a[-1], b[-1]) == (SEP, SEP)
    return ids[:half], a[:-1], b[:-1]


def rows_of(stream, batch_size, bi_data):
    """Cut a text into the rows of a batch, the second half of them turned round."""
    stored = batch_size // 2 if bi_data else batch_size
    length = len(stream.ids) // stored
    rows = list(stream.ids[: stored * length].reshape(stored, length))
    return rows + [row[::-1] for row in rows if bi_data]


def stands_in(part, row):
    return not len(part) or any((row[i : i + len(part)] == part).all() for i in range(len(row) - len(part) + 1))


@pytest.mark.parametrize("bi_data", [False, True])
def test_windows_read_on_row_by_row(bi_data):
    stream = text()
    data = batches([stream], bi_data=bi_data)
    rows = rows_of(stream, 4, bi_data)
    steps = data.steps(0)
    assert steps == (len(rows[0]) - 32) // 16 + 1 - (steps != (len(rows[0]) - 32) // 16 + 1)
    for step in range(steps):
        batch = data.batch(step)
        for number, row in enumerate(rows):
            stretch, a, b = unpacked(batch, number)
            np.testing.assert_array_equal(stretch, row[16 * step : 16 * step + 16])
            np.testing.assert_array_equal(a, row[16 * step + 16 :][: len(a)])
            assert len(a) + len(b) == 13
            assert stands_in(b, row)


@pytest.mark.parametrize(
    "settings", [{}, {"perm_size": 4}, {"num_predict": None}, {"num_predict": 1, "bi_data": False}]
)
def test_invariants_of_a_batch(settings):
    """Of the masks of a batch, of any settings."""
    data = batches(**settings)
    for number in range(6):
        batch = data.batch(number)
        ids, mask, mapping, labels = (batch[name] for name in ("input_ids", "perm_mask", "target_mapping", "labels"))
        counted = labels != -100
        if data.settings.num_predict is None:
            targets = counted
            np.testing.assert_array_equal(mapping, [np.eye(32)] * 4)
        else:
            assert mapping.shape == (4, data.settings.num_predict, 32)
            assert (mapping.sum(axis=2) == counted).all()
            places = mapping.argmax(axis=2)
            assert all((np.diff(row[on]) > 0).all() for row, on in zip(places, counted, strict=True))
            targets = mapping.any(axis=1)
            np.testing.assert_array_equal(np.take_along_axis(ids, places, axis=1)[counted], labels[counted])
        functional = np.isin(ids, (SEP, CLS))
        assert not (targets & functional).any()
        np.testing.assert_array_equal(np.einsum("bii->bi", mask)[:, :], targets)
        hideable = targets | functional
        within = mask.copy()
        within[:, :16, 16:] = 0
        assert mask[:, :16, 16:].all()
        assert not mask[:, 16:, :16].any()
        chosen = hideable | within.any(axis=1)  # a plain column is never hidden
        assert not within.swapaxes(1, 2)[~chosen].any()
        plain_rows = ~hideable
        for row, i in zip(*np.nonzero(plain_rows), strict=True):
            half = slice(0, 16) if i < 16 else slice(16, 32)
            assert within[row, i, half][hideable[row, half]].all()


@pytest.mark.parametrize("num_predict", [1, 2, 7, 32])
def test_targets_are_shared_by_the_halves(num_predict):
    """The first half has the odd one; separators may take the place of targets, so a few may lack."""
    data, counts = batches(num_predict=num_predict), []
    for number in range(20):
        batch = data.batch(number)
        targets = batch["target_mapping"].any(axis=1)
        counts.append((targets[:, :16].sum(axis=1), targets[:, 16:].sum(axis=1)))
    first, second = (np.concatenate(each) for each in zip(*counts, strict=True))
    assert set(first.tolist()) == {num_predict - num_predict // 2}
    assert second.max() <= num_predict // 2
    assert second.min() >= num_predict // 2 - 3
    assert num_predict != 32 or (second == 13).all()


def test_positions_in_place_of_ones():
    one, other = batches().batch(3), batches(one_hot=False).batch(3)
    places = other.pop("target_mapping")
    np.testing.assert_array_equal(one.pop("target_mapping"), places[:, :, None] == np.arange(32))
    assert same(one, other)


def test_each_step_draws_anew():
    data = batches(starts=np.ones(V, bool))
    masks = [data.batch(number)["perm_mask"][:, :16, :16] for number in range(4)]
    assert len({mask[row].tobytes() for mask in masks for row in range(4)}) == 16


def test_chunks_of_the_order_follow_each_other():
    """With a small perm_size a target sees all targets of earlier chunks, and none of later ones."""
    data, pairs = batches(perm_size=4, num_predict=16), [0, 0]
    for number in range(5):
        batch = data.batch(number)
        targets = batch["target_mapping"].any(axis=1)
        for row in range(4):
            for half in (0, 16):
                places = [place for place in range(half, half + 16) if targets[row, place]]
                for i in places:
                    for j in places:
                        if i // 4 != j // 4:
                            assert batch["perm_mask"][row, i, j] == (i // 4 < j // 4)
                            pairs[i // 4 < j // 4] += 1
    assert min(pairs) > 100


def test_the_share_of_context_is_a_setting():
    settings = {"num_predict": None, "seq_len": 256, "reuse_len": 128, "perm_size": 128, "bi_data": False}
    shares = []
    for alpha, beta in ((6, 1), (2, 1), (3, 1), (6, 2)):
        data = batches([text(6000)], starts=np.ones(V, bool), mask_alpha=alpha, mask_beta=beta, **settings)
        shares.append(np.mean([(data.batch(number)["labels"] != -100).mean() for number in range(8)]))
    np.testing.assert_allclose(shares, [1 / 7, 1 / 3, 1 / 4, 1 / 4], atol=0.02)


def test_words_read_backwards_are_words():
    """Spans of rows that lie backwards end, as they lie, where a word starts."""
    ids = np.tile([10, 11, 12, 13], 400)
    starts = np.zeros(V, bool)
    starts[[10, SEP, CLS]] = True
    flags = np.arange(1600) // 8 % 2 == 0
    data = batches(
        [TokenStream(ids, flags)], starts=starts, num_predict=None, seq_len=256, reuse_len=128, perm_size=128
    )
    seen = [0, 0]
    for number in range(3):
        batch = data.batch(number)
        targets = batch["labels"] != -100
        for row in range(4):
            line = batch["input_ids"][row, :128] if row < 2 else batch["input_ids"][row, :128][::-1]
            marks = targets[row, :128] if row < 2 else targets[row, :128][::-1]
            for start, _ in runs(marks):
                assert line[start] == 10
                seen[row // 2] += 1
    assert min(seen) > 10


def test_sizes_and_kinds_of_the_reference_data():
    """The sizes that the authors' model was run on: windows of 8 with 3 predictions, batches of 2."""
    data = batches(batch_size=2, seq_len=8, reuse_len=4, perm_size=4, num_predict=3)
    found = {name: (array.shape, array.dtype.name) for name, array in data.batch(0).items()}
    assert found == {
        "input_ids": ((2, 8), "int64"),
        "token_type_ids": ((2, 8), "int64"),
        "perm_mask": ((2, 8, 8), "float32"),
        "target_mapping": ((2, 3, 8), "float32"),
        "labels": ((2, 3), "int64"),
    }


# --------------------------------------------------------------------------------------------- seeds and going on


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_one_seed_one_sequence():
    texts = [text(900, seed) for seed in range(3)]
    data, again, other = batches(texts), batches(texts), batches(texts, seed=1)
    numbers = [0, 1, 7, 60, 130, 3]
    for number in numbers:
        assert same(data.batch(number), again.batch(number))
        assert not same(data.batch(number), other.batch(number))
    assert data.place(130)[0] >= 1


def test_each_pass_is_another():
    """Texts in another order, other segments, other targets."""
    texts = [text(900, seed) for seed in range(5)]
    data = batches(texts)
    starts = [data.steps(0), data.steps(0) + data.steps(1)]
    assert [data.place(number) for number in (0, starts[0] - 1, *starts)] == [
        (0, 0), (0, starts[0] - 1), (1, 0), (2, 0)
    ]  # fmt: skip
    first = [data.batch(number)["input_ids"][:, :16].tolist() for number in (0, *starts)]
    assert first[0] != first[1] or first[1] != first[2]
    alone = batches([text()])
    one, two = alone.batch(0), alone.batch(alone.steps(0))
    np.testing.assert_array_equal(one["input_ids"][:, :16], two["input_ids"][:, :16])
    assert not np.array_equal(one["perm_mask"], two["perm_mask"])


def test_going_on_from_a_step():
    texts = [text(400, seed) for seed in range(3)]
    data = batches(texts)
    for done in (0, 5, data.steps(0), data.steps(0) + data.steps(1) + 2):
        state = json.loads(json.dumps(data.state(done)))
        later = batches(texts)
        later.resume(state)
        for number in (0, 1, 40):
            assert same(later.batch(number), data.batch(done + number))
        assert later.state(3) == data.state(done + 3)
    assert len(json.dumps(state)) < 100


def test_a_state_of_something_else():
    state = batches().state(3)
    others = [
        batches(seed=1),
        batches(batch_size=2),
        batches(num_predict=6),
        batches([text(seed=1)]),
        batches(starts=~STARTS),
        batches([TokenStream(text().ids, ~text().flags[::-1])]),
    ]
    assert len({other.fingerprint for other in others} | {state["fingerprint"]}) == 7
    for other in others:
        message = (
            f"PermutationBatches: state must be of the same texts, settings and seed ({other.fingerprint}), "
            f"got {state['fingerprint']}"
        )
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            other.resume(state)
    with pytest.raises(ConfigError, match=r"got None$"):
        others[0].resume({})
    for wrong in ({"step": -1}, {"pass_number": None}, {"step": "3"}):
        place = tuple((state | wrong)[name] for name in ("pass_number", "step"))
        message = f"PermutationBatches: state must hold pass_number and step, each at least 0, got {place}"
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            batches().resume(state | wrong)


def test_data_travels_to_other_processes():
    data = batches()
    data.batch(0)
    assert same(pickle.loads(pickle.dumps(data)).batch(5), data.batch(5))


def test_what_was_given_stays():
    stream = text()
    stream.ids.flags.writeable = stream.flags.flags.writeable = False
    data = batches([stream])
    data.batch(0)["input_ids"][:] = 0
    assert data.batch(0)["input_ids"].any()


# ----------------------------------------------------------------------------------------------------- edges, errors


@pytest.mark.parametrize("longest", [1, 7, 100, 10_000])
@pytest.mark.parametrize("bi_data", [False, True])
def test_a_pass_ends_where_a_row_has_no_room(longest, bi_data):
    """Counted by trying each step."""
    stream = text(407, longest=longest, seed=2)
    for seed in range(4):
        data = batches([stream], seed=seed, bi_data=bi_data)
        rows, step = data._rows(0), 0
        while 16 * step + 32 <= rows.length and data._segments(rows, 0, step) is not None:
            step += 1
        assert data.steps(0) == step > 0


def test_a_text_of_one_sentence():
    """Without any end of a sentence, A and B are as long as each other, B from anywhere."""
    stream = TokenStream(text(600).ids, np.zeros(600, bool))
    data = batches([stream], bi_data=False)
    rows = rows_of(stream, 4, False)
    for step in range(data.steps(0)):
        for number in range(4):
            _, a, b = unpacked(data.batch(step), number)
            assert (len(a), len(b)) == (7, 6)
            assert stands_in(b, rows[number])


def test_everything_is_functional():
    """A text of separators only: nothing to predict, and still a batch."""
    data = batches([TokenStream(np.full(900, SEP), text().flags)])
    batch = data.batch(0)
    assert (batch["labels"] == -100).all()
    assert not batch["target_mapping"].any()
    assert not np.einsum("bii->bi", batch["perm_mask"]).any()


def test_no_token_begins_a_word():
    """Then all targets are drawn by lot."""
    batch = batches(starts=np.zeros(V, bool)).batch(0)
    assert batch["target_mapping"][:, :, :16].sum(axis=(1, 2)).tolist() == [4] * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"num_predict": 0}, "num_predict must be at least 1, got 0"),
        ({"mask_beta": -1}, "mask_beta must be at least 1, got -1"),
        ({"reuse_len": 15}, "reuse_len must be half of seq_len (16), got 15"),
        ({"seq_len": 33}, "reuse_len must be half of seq_len (16.5), got 16"),
        ({"seq_len": 6, "reuse_len": 3}, "seq_len must leave room for A, B and three separators, got 6"),
        ({"perm_size": 5}, "perm_size must divide reuse_len (16), got 5"),
        ({"perm_size": 32}, "perm_size must divide reuse_len (16), got 32"),
        ({"num_predict": 33}, "num_predict must be at most seq_len (32), got 33"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'PermutationSettings: {message}')}$"):
        PermutationSettings(**SMALL | settings)


@pytest.mark.parametrize(
    ("keys", "kind", "message"),
    [
        ({"batch_size": 3}, ConfigError, "batch_size must be even with bi_data, got 3"),
        ({"batch_size": 0, "bi_data": False}, ConfigError, "batch_size must be positive, got 0"),
        ({"seed": -1}, ConfigError, "seed must be at least 0, got -1"),
        ({"starts": STARTS[:20]}, ShapeError, "ids must lie in [0, 20), as word_starts does, got 7 to 59"),
        ({"sep_id": 60}, ConfigError, "sep_id, cls_id must lie in [0, 60), got 60, 3"),
        (
            {"texts": [text(64)]},
            ShapeError,
            "texts must fill a window of 32 in each of 2 rows and go on after it, got 64 tokens; "
            "take fewer rows or more text",
        ),
        (
            {"texts": [token_stream([], list)], "batch_size": 1, "bi_data": False},
            ShapeError,
            "texts must fill a window of 32 in each of 1 rows and go on after it, got 0 tokens; "
            "take fewer rows or more text",
        ),
    ],
)
def test_data_that_cannot_be(keys, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(f'PermutationBatches: {message}')}$"):
        batches(**keys)


def test_no_batch_before_the_first():
    with pytest.raises(IndexError, match=r"^PermutationBatches: the number of a batch must be at least 0, got -1$"):
        batches().batch(-1)
