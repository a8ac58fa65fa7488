"""The adaptive softmax: what it costs nothing to leave out is left out, and nothing else."""

from importlib import import_module

import numpy as np
import pytest
from helpers import LM, assert_close, each_side, random_weights

from xlcore.errors import ShapeError

CUTOFFS, V, D = [9, 17], 31, 12
# d_embed, cutoffs, div_val: bins of different widths; one table, projected and not; no bins.
LAYOUTS = {
    "bins": (16, CUTOFFS, 2),
    "one table": (10, CUTOFFS, 1),
    "no projection": (12, CUTOFFS, 1),
    "plain": (12, [], 1),
}
# -100 and words of all bins; all words in one bin, none in the others; nothing to predict.
LABELS = {
    "all": [3, 30, -100, 9, 16, 17, 0, 8, -100, 22],
    "frequent": [0, 8, 3, 3, -100, 1, 2, 8, 5, 7],
    "one tail": [9, 16, 12, 9, 10, -100, 11, 16, 13, 14],
    "nothing": [-100] * 10,
}
WEIGHTED = np.linspace(0.5, 2.0, 10)  # what the loss of each position counts


def softmax_of(side, layout, dtype="float64"):
    """Return a model's softmax with random weights, the model, and hidden states [10, D]."""
    d_embed, cutoffs, div_val = LAYOUTS[layout]
    config = LM.config(d_embed=d_embed, cutoffs=cutoffs, div_val=div_val, n_layer=1)
    model = side.model(LM, config, dtype=dtype, weights=random_weights(LM, config))
    return model.crit, model, np.random.default_rng(3).standard_normal((10, D))


def plain(weights, layout):
    """Return a function from hidden states [P, D] to all log-probabilities [P, V], in numpy, written out."""
    _, cutoffs, div_val = LAYOUTS[layout]
    borders = [0, *cutoffs, V]

    def of(name):
        return weights.get(f"crit.{name}", weights.get(f"embedding.{name}"))

    def scores(hidden, number, clusters=()):
        table, rows = (number, slice(None)) if div_val > 1 else (0, slice(borders[number], borders[number + 1]))
        matrix, bias = of(f"bins.{table}.weight")[rows], of(f"bins.{table}.bias")[rows]
        for more, also in clusters:
            matrix, bias = np.concatenate([matrix, more]), np.concatenate([bias, also])
        projection = of(f"bins.{number}.projection")
        projection = weights.get("embedding.bins.0.projection") if projection is None else projection
        hidden = hidden if projection is None else hidden @ projection
        logits = hidden @ matrix.T + bias
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def computed(hidden):
        clusters = [(of("cluster.weight"), of("cluster.bias"))] if cutoffs else []
        head, first = scores(hidden, 0, clusters), borders[1]
        tails = [head[:, first + n - 1, None] + scores(hidden, n) for n in range(1, len(cutoffs) + 1)]
        return np.concatenate([head[:, :first], *tails], axis=-1)

    return computed


def losses_and_gradients(side, softmax, model, hidden, labels):
    """Return losses [P] and the gradients of their weighted sum by hidden states and parameters."""
    values = model.canonical_parameters()
    if str(side) == "torch":
        torch = import_module("torch")
        states = torch.tensor(hidden, requires_grad=True)
        losses = softmax.token_losses(states, torch.tensor(labels))
        found = torch.autograd.grad(
            (losses * torch.tensor(WEIGHTED)).sum(), [states, *values.values()], materialize_grads=True
        )
        return side.numpy(losses), dict(zip(["hidden", *values], map(side.numpy, found), strict=True))
    tf = import_module("tensorflow")
    states = tf.constant(hidden)
    with tf.GradientTape() as tape:
        tape.watch(states)
        losses = softmax.token_losses(states, tf.constant(labels))
        total = tf.reduce_sum(losses * WEIGHTED)
    found = tape.gradient(total, [states, *(each.value for each in values.values())], unconnected_gradients="zero")
    arrays = [tf.convert_to_tensor(each).numpy() for each in found]
    return losses.numpy(), dict(zip(["hidden", *values], arrays, strict=True))


@pytest.mark.parametrize("entries", [1, 60, 1 << 24], ids=["a row", "some rows", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
@each_side
def test_losses_and_gradients_are_the_plain_ones(side, layout, entries, monkeypatch):
    """Whatever the chunks and the labels: against differences of the plain way in float64, in a random direction."""
    room = import_module(f"{side.towers.__name__}.layers.word_loss")
    monkeypatch.setattr(room, "ENTRIES", entries)
    monkeypatch.setattr(room, "LEAST", 4 if entries == 60 else room.LEAST)  # several blocks of words, too
    softmax, model, hidden = softmax_of(side, layout)
    weights = {name: np.asarray(array, "float64") for name, array in random_weights(LM, model.config).items()}
    rng = np.random.default_rng(5)
    for labels in LABELS.values() if entries == 60 else (LABELS["all"],):
        labels = np.array(labels, "int64")
        losses, gradients = losses_and_gradients(side, softmax, model, hidden, labels)

        def loss_at(hidden, weights, labels=labels):
            picked = np.take_along_axis(plain(weights, layout)(hidden), np.maximum(labels, 0)[:, None], -1)[:, 0]
            return np.where(labels >= 0, -picked, 0.0)

        assert_close(losses, loss_at(hidden, weights), "float64")
        for name in ("hidden", *(name for name in weights if name.startswith(("crit.", "embedding.")))):
            array = hidden if name == "hidden" else weights[name]
            step = rng.standard_normal(array.shape) / array.size**0.5

            def at(distance, name=name, array=array, step=step, loss_at=loss_at):
                moved = array + distance * step
                given = (moved, weights) if name == "hidden" else (hidden, {**weights, name: moved})
                return (loss_at(*given) * WEIGHTED).sum()

            turned = turned_back(side, model, name, gradients[name])
            assert abs(slope(at) - (turned * step).sum()) < 1e-9, name


def turned_back(side, model, name, gradient):
    """Return a gradient in the layout of the table of parameters."""
    if str(side) == "torch" or name == "hidden":
        return gradient
    table = model.family.params(model.config, model.head)
    is_turned = import_module("xlcore.maps.keras").is_turned
    return gradient.T if is_turned(name, table[name]) else gradient


def slope(at, step=2e-2):
    """Return the derivative at 0, by differences of high order: 8 values leave an error of the order of step ** 8."""
    shares = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    return sum(share * (at(n * step) - at(-n * step)) for n, share in enumerate(shares, 1)) / step


# ------------------------------------------------------------------------------------------------------- the likeliest


def tails_computed(softmax, monkeypatch):
    """Return a list that grows by how many positions a tail is computed for."""
    seen, before = [], softmax._tail
    monkeypatch.setattr(softmax, "_tail", lambda hidden, number: seen.append(len(hidden)) or before(hidden, number))
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
@each_side
def test_the_likeliest_are_those_of_all_log_probabilities(side, layout):
    softmax, _, hidden = softmax_of(side, layout)
    for scale in (0.1, 1.0, 6.0):
        states = side.native(scale * hidden)
        scores = side.numpy(softmax.log_prob(states))
        wanted = np.argsort(-scores, axis=-1, kind="stable")
        for k in (1, 3, 12, V):
            values, ids = map(side.numpy, softmax.likeliest(states, k))
            np.testing.assert_array_equal(ids, wanted[:, :k])
            assert_close(values, np.take_along_axis(scores, wanted, -1)[:, :k], "float64")
    values, ids = softmax.likeliest(side.native(hidden.reshape(2, 5, D)), 2)
    assert tuple(values.shape) == tuple(ids.shape) == (2, 5, 2)
    values, ids = softmax.likeliest(side.native(hidden[0]), 2)
    assert tuple(values.shape) == tuple(ids.shape) == (2,)
    np.testing.assert_array_equal(side.numpy(ids), side.numpy(softmax.likeliest(side.native(hidden), 2)[1])[0])
    for k in (0, V + 1, 1.5, True, None, "2"):
        with pytest.raises(ShapeError, match=rf"likeliest: k must be a whole number in \[1, 31\], got {k!r}$"):
            softmax.likeliest(states, k)


@each_side
def test_no_tail_is_computed_where_the_shortlist_wins(side, monkeypatch):
    """A tail is looked into only where its cluster could hold one of the best."""
    softmax, model, hidden = softmax_of(side, "bins")
    weights = random_weights(LM, model.config)
    weights["crit.cluster.weight"][:], weights["crit.cluster.bias"][:] = 0.0, [-30.0, -30.0]
    side.set(model, weights)
    seen = tails_computed(softmax, monkeypatch)
    states = side.native(hidden)
    softmax.likeliest(states, 3)
    assert seen == []
    weights["crit.cluster.bias"][1] = 30.0
    side.set(model, weights)
    _, ids = softmax.likeliest(states, 3)
    assert seen == [10]
    assert side.numpy(ids).min() >= CUTOFFS[1]


def test_tails_are_computed_for_positions_that_need_them_only(monkeypatch):
    torch = pytest.importorskip("torch")
    from helpers import TORCH

    softmax, model, hidden = softmax_of(TORCH, "bins")
    weights = random_weights(LM, model.config)
    weights["crit.cluster.bias"][:] = -30.0
    weights["crit.cluster.weight"][:] = 0.0
    weights["crit.bins.0.projection"][:, 0] = 0.0
    weights["crit.bins.0.projection"][0, 0] = 1.0  # the first of a state decides
    weights["crit.cluster.weight"][0, 0] = 40.0
    TORCH.set(model, weights)
    hidden[:, 0] = 0.0
    hidden[[2, 7], 0] = 4.0
    seen = tails_computed(softmax, monkeypatch)
    softmax.likeliest(torch.tensor(hidden))
    assert seen == [2]


# ---------------------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("layout", ["bins", "no projection"])
@each_side
def test_scores_exist_for_a_chunk_of_the_positions_that_need_them(side, layout, monkeypatch):
    """Forth and back: so many at once and no more, and of a tail for its own words only (Keras fills up a chunk)."""
    room = import_module(f"{side.towers.__name__}.layers.word_loss")
    monkeypatch.setattr(room, "ENTRIES", 40)
    softmax, model, hidden = softmax_of(side, layout)
    seen, back = [], []

    def watched(function, found):
        def computed(*given):
            scores = function(*given)
            found.append(tuple(scores.shape))
            return scores

        return computed

    monkeypatch.setattr(room, "_scores", watched(room._scores, seen))
    monkeypatch.setattr(room, "_shares", watched(room._shares, back))  # by blocks of words
    monkeypatch.setattr(room, "LEAST", 1)
    labels = np.array(LABELS["all"], "int64")
    losses_and_gradients(side, softmax, model, hidden, labels)
    assert all(rows * width <= 40 for rows, width in seen + back)
    widths = (CUTOFFS[0] + 2, CUTOFFS[1] - CUTOFFS[0], V - CUTOFFS[1])
    needed = (8, 2, 3)  # words at all, and in the tails
    for width, count in zip(widths, needed, strict=True):
        rows = [size for size, each in seen if each == width]
        assert count <= sum(rows) <= count + (max(rows) - 1 if str(side) == "keras" else 0)
    assert len(back) > len(widths)
    if str(side) == "torch":
        again = (needed[0] - 40 // widths[0], *needed[1:])  # of the first chunk they are known still
        scores = {count: sum(width for rows, width in back if rows == count) for count in again}
        assert scores == dict(zip(again, widths, strict=True))
    seen.clear()
    losses_and_gradients(side, softmax, model, hidden, np.array(LABELS["frequent"], "int64"))
    assert {width for _, width in seen} == {widths[0]}
