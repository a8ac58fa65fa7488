"""What holds of XLNet alone: who sees what in either stream, what targets mean, memory, and what is not computed."""

import numpy as np
import pytest

from tests.helpers import (
    EVERYTHING_READ,
    KERAS,
    TORCH,
    XLNET,
    Case,
    assert_close,
    each_side,
    far,
    inputs_for,
    random_weights,
)
from xlcore import ShapeError

BODY, LM, TEXTS = XLNET["base"], XLNET["permutation_lm"], XLNET["sequence_classification"]
BEAM = XLNET["beam_question_answering"]


def one_way(**keys):
    """Make the config of a language model that reads in one direction and remembers all."""
    return LM.config(attn_type="uni", mem_len=None, **keys)


# ------------------------------------------------------------------------------------------------------- who sees what


@each_side
def test_attention_is_zero_exactly_where_masks_hide_a_key(side):
    """In the second stream; in the first a position sees itself all the same, padding too."""
    config = BODY.config()
    names = ("input_ids", "mems", "attention_mask", "perm_mask", "target_mapping")
    inputs = inputs_for(BODY, config, *names, B=4, M=2)
    found = side.run(side.model(BODY, config), {**inputs, "output_attentions": True})
    hidden = (inputs["attention_mask"][:, None] < 1) | (inputs["perm_mask"] > 0)  # [B, T, T]
    hidden = np.concatenate([np.zeros((4, 6, 2), bool), hidden], axis=-1)
    itself = np.eye(6, 8, 2, dtype=bool)
    for layer in range(2):
        first, second = found[f"attentions.{layer}.0"], found[f"attentions.{layer}.1"]
        np.testing.assert_array_equal(first > 0, np.broadcast_to(~hidden[:, None] | itself, first.shape))
        np.testing.assert_array_equal(second > 0, np.broadcast_to(~hidden[:, None], second.shape))
        np.testing.assert_allclose(first.sum(-1), 1.0, rtol=1e-5)
    assert (hidden & itself).any()


@pytest.mark.parametrize("same_length", [False, True])
@each_side
def test_one_way_attention(side, same_length):
    config = one_way(same_length=same_length)
    inputs = inputs_for(LM, config, "input_ids", "mems", M=2)
    attention = side.run(side.model(LM, config), {**inputs, "output_attentions": True})["attentions.1"]
    queries, keys = np.arange(6)[:, None], np.arange(8)
    hidden = (keys > queries + 2) | (same_length & (keys < 6) & (keys < queries))
    np.testing.assert_array_equal(attention > 0, np.broadcast_to(~hidden, attention.shape))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("asked", [False, True], ids=["fused", "with attentions"])
@each_side
def test_a_query_that_sees_nothing_attends_to_all_alike(side, asked, dtype):
    """As the first target does where everything is a target: memory too, whatever the dtype."""
    config = BODY.config(n_layer=1)
    inputs = inputs_for(BODY, config, "input_ids", M=2)
    inputs |= {"perm_mask": np.ones((2, 6, 6), "float32"), "target_mapping": np.eye(6, dtype="float32")[None, [1, 4]]}
    inputs["target_mapping"] = np.repeat(inputs["target_mapping"], 2, axis=0)
    model = side.model(BODY, config, dtype=dtype)
    found = side.run(model, {**inputs, "output_attentions": asked})
    if asked:
        tolerance = 1e-3 if dtype in ("float16", "bfloat16") else 1e-6
        np.testing.assert_allclose(found["attentions.0.1"].astype("float64"), 1 / 6, atol=tolerance)
    assert np.isfinite(found["last_hidden_state"]).all()
    wanted = side.run(side.model(BODY, config), {**inputs, "output_attentions": True})["last_hidden_state"]
    assert far(found["last_hidden_state"], wanted) < {"float16": 2e-2, "bfloat16": 1e-1}.get(dtype, 1e-5)
    spread = far(found["last_hidden_state"][:, 0], found["last_hidden_state"][:, 1])
    assert spread < 0.2 if dtype == "bfloat16" else spread < 1e-2  # nothing tells the two targets apart


@each_side
def test_a_target_does_not_know_its_word_but_what_is_visible_counts(side):
    """Through all layers: with the order of a permutation nothing leaks from what comes later."""
    config = LM.config(n_layer=3)
    model = side.model(LM, config)
    order = np.array([2, 0, 5, 1, 4, 3])
    inputs = inputs_for(LM, config, "input_ids")
    inputs["perm_mask"] = np.repeat((order[:, None] <= order[None]).astype("float32")[None], 2, axis=0)
    inputs["perm_mask"][:, :, 1] = 0  # the first in the order is seen by all: who sees nothing reads an even mixture
    inputs["target_mapping"] = np.repeat(np.eye(6, dtype="float32")[None], 2, axis=0)
    before = side.run(model, inputs)["logits"]
    for position in range(6):
        changed = inputs["input_ids"].copy()
        changed[:, position] = np.where(changed[:, position] == 7, 8, 7)
        after = side.run(model, {**inputs, "input_ids": changed})["logits"]
        moved = np.abs(after - before).max((0, 2)) > 1e-4
        np.testing.assert_array_equal(moved, (order > order[position]) | (position == 1))


@each_side
def test_no_position_sees_a_later_one_in_one_way_attention(side):
    model, inputs = side.model(LM, one_way()), inputs_for(LM, one_way(), "input_ids")
    before = side.run(model, inputs)["logits"]
    changed = inputs["input_ids"].copy()
    changed[:, 3] = np.where(changed[:, 3] == 7, 8, 7)
    after = side.run(model, {"input_ids": changed})["logits"]
    assert_close(after[:, :3], before[:, :3], "equal")
    assert far(after[:, 3:], before[:, 3:]) > 1e-2


@each_side
def test_segments_count_by_being_equal(side):
    """Names make no difference, nor does one segment for all; memory is of segment 0."""
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids", "token_type_ids")
    types = inputs["token_type_ids"]
    found = side.run(model, inputs)["logits"]
    assert_close(side.run(model, {**inputs, "token_type_ids": 7 - 3 * types})["logits"], found, "equal")
    plain = side.run(model, {"input_ids": inputs["input_ids"]})["logits"]
    assert far(found, plain) > 1e-2
    assert_close(side.run(model, {**inputs, "token_type_ids": 0 * types})["logits"], plain, "equal")
    read = inputs_for(LM, LM.config(), "input_ids", "mems")
    with_memory = side.run(model, read)["logits"]
    assert_close(side.run(model, {**read, "token_type_ids": 0 * types})["logits"], with_memory, "equal")
    assert far(side.run(model, {**read, "token_type_ids": 0 * types + 1})["logits"], with_memory) > 1e-2


@each_side
def test_a_text_that_runs_backwards_is_the_mirror_of_one_that_does_not(side):
    """The second half of a batch with `bi_data`: mirrored text, segments and masks give the mirrored result."""
    config = LM.config(bi_data=True, clamp_len=3)
    inputs = inputs_for(LM, config, "input_ids", "token_type_ids", "perm_mask", B=2)
    for value in inputs.values():
        value[1] = value[0, ::-1, ::-1] if value.ndim == 3 else value[0, ::-1]
    found = side.run(side.model(LM, config), inputs)["logits"]
    assert_close(found[1], found[0, ::-1], "equal")
    forward = side.run(side.model(LM, config.copy(bi_data=False)), inputs)["logits"]
    assert_close(found[0], forward[0], "equal")
    assert far(found[1], forward[1]) > 1e-2


# ------------------------------------------------------------------------------------------------------------- targets


def mapped(side, model, inputs, mapping):
    """Return the hidden states of the second stream, however the targets are named."""
    return side.run(model, {**inputs, "target_mapping": mapping})["last_hidden_state"]


@pytest.mark.parametrize("variant", ["default", "one_way", "backwards"])
@each_side
def test_targets_by_number_by_choice_and_by_mapping_are_one(side, variant):
    """Each with what the others do: only the predicted rows, or all rows (when attentions are asked for)."""
    case = Case(BODY.family, BODY.head, variant)
    config = case.config()
    inputs = inputs_for(case, config, *EVERYTHING_READ, "attention_mask", B=4)
    model, mapping = side.model(case, config), inputs.pop("target_mapping")
    dense = mapped(side, model, {**inputs, "output_attentions": True}, mapping)
    assert_close(mapped(side, model, inputs, mapping), dense, "equal")
    assert_close(mapped(side, model, inputs, mapping.argmax(-1)), dense, "equal")
    assert_close(mapped(side, model, {**inputs, "output_attentions": True}, mapping.argmax(-1)), dense, "equal")


@each_side
def test_targets_that_name_nothing(side):
    """A row of zeros attends to nothing; so does the number -1; the others stay as they are."""
    config = BODY.config()
    inputs = inputs_for(BODY, config, *EVERYTHING_READ)
    model, mapping = side.model(BODY, config), inputs.pop("target_mapping")
    whole = mapped(side, model, inputs, mapping)
    mapping[:, 1] = 0
    rows = np.where(mapping.any(-1), mapping.argmax(-1), -1)
    dense = mapped(side, model, {**inputs, "output_attentions": True}, mapping)
    assert_close(dense[:, [0, 2]], whole[:, [0, 2]], "equal")
    assert far(dense[:, 1], whole[:, 1]) > 1e-2
    assert_close(mapped(side, model, inputs, mapping), dense, "equal")
    assert_close(mapped(side, model, inputs, rows), dense, "equal")


@each_side
def test_targets_that_share_a_position_are_summed_as_the_formula_says(side):
    """A mapping is a matrix, whatever stands in it; only numbers make each target stand for itself."""
    config = BODY.config()
    inputs = inputs_for(BODY, config, *EVERYTHING_READ)
    model, mapping = side.model(BODY, config), inputs.pop("target_mapping")
    mapping[:, 1] = mapping[:, 0]
    found = mapped(side, model, inputs, mapping)
    assert_close(found, mapped(side, model, {**inputs, "output_attentions": True}, mapping), "equal")
    apart = mapped(side, model, inputs, mapping.argmax(-1))
    assert far(found[:, 0], apart[:, 0]) > 1e-2
    assert_close(apart[:, 0], mapped(side, model, inputs, mapping[:, :1])[:, 0], "equal")
    mixed = np.random.default_rng(0).random(mapping.shape).astype("float32")
    assert_close(
        mapped(side, model, inputs, mixed), mapped(side, model, {**inputs, "output_attentions": True}, mixed), "equal"
    )


@each_side
def test_gradients_do_not_depend_on_how_targets_are_named(side):
    config = LM.config()
    inputs = inputs_for(LM, config, *EVERYTHING_READ, "labels")
    inputs["perm_mask"] *= 1 - np.eye(6, dtype="float32")[0]  # the first word is seen by all: nobody sees nothing
    model = side.model(LM, config)
    chosen = side.gradients(model, inputs)
    dense = side.gradients(model, {**inputs, "output_attentions": True})
    numbered = side.gradients(model, {**inputs, "target_mapping": inputs["target_mapping"].argmax(-1)})
    assert_close(chosen, dense, "equal")
    assert_close(numbered, dense, "equal")


@each_side
def test_targets_out_of_place_are_refused(side):
    model, inputs = side.model(BODY), inputs_for(BODY, BODY.config(), "input_ids")
    prefix = "" if side is TORCH else "TF"
    for mapping, message in (
        (np.array([[1], [6]]), rf"{prefix}XLNetModel: target_mapping must lie in \[0, 6\), got 6"),
        (np.ones((2, 1), "float32"), rf"{prefix}XLNetModel: target_mapping \[B, P\] must hold whole .*, got .*float32"),
        (
            np.ones((2, 1, 5), "float32"),
            r"target_mapping must have shape \[B=2, P\] or \[B=2, P, T=6\], got \[2, 1, 5\]",
        ),
    ):
        with pytest.raises(ShapeError, match=message):
            side.call(model, {**inputs, "target_mapping": mapping})


# ---------------------------------------------------------------------------------------------------- memory, padding


@each_side
def test_one_long_segment_equals_several_with_memory_in_one_way_attention(side):
    config = one_way()
    model, ids = side.model(LM, config), inputs_for(LM, config, "input_ids", T=9)["input_ids"]
    whole = side.run(model, {"input_ids": ids})
    for cuts in ((4, 9), (1, 2, 9)):
        mems, start, parts = None, 0, []
        for end in cuts:
            found = side.run(model, {"input_ids": ids[:, start:end], "mems": mems})
            mems, start = [found["mems.0"], found["mems.1"]], end
            parts.append(found["logits"])
        assert_close(np.concatenate(parts, axis=1), whole["logits"], "equal")
        assert_close(mems[1], whole["mems.1"], "equal")


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"mem_len": None}, range(9)), ({"mem_len": 0}, range(9)), ({"mem_len": 4}, range(5, 9)),
        ({"mem_len": 40}, range(9)), ({"mem_len": 4, "reuse_len": 3}, range(2, 6)),
        ({"mem_len": None, "reuse_len": 2}, range(5)), ({"mem_len": 5, "reuse_len": 40}, range(4, 9)),
    ],
)  # fmt: skip
@each_side
def test_what_is_kept(side, keys, wanted):
    """Of three states remembered and six read."""
    config = BODY.config(**keys)
    inputs = inputs_for(BODY, config, *EVERYTHING_READ)
    found = side.run(side.model(BODY, config), {**inputs, "output_hidden_states": True})
    for layer in range(2):
        states = found[f"hidden_states.{2 * layer}"].swapaxes(0, 1)  # of the first stream
        both = np.concatenate([inputs["mems"][layer], states])
        np.testing.assert_array_equal(found[f"mems.{layer}"], both[list(wanted)])


@each_side
def test_memory_is_returned_when_asked_for_and_read_in_any_case(side):
    config = BODY.config(use_mems_train=True, use_mems_eval=False)
    model, inputs = side.model(BODY, config), inputs_for(BODY, config, "input_ids", "mems")
    assert "mems.0" not in side.run(model, inputs)
    assert "mems.0" in side.run(model, inputs, training=True)
    asked = side.run(model, {**inputs, "use_mems": True})
    assert "mems.0" in asked
    assert "mems.0" not in side.run(model, {**inputs, "use_mems": False}, training=True)
    assert_close(side.run(model, inputs)["last_hidden_state"], asked["last_hidden_state"], "equal")
    without = side.run(model, {"input_ids": inputs["input_ids"]})["last_hidden_state"]
    assert far(without, asked["last_hidden_state"]) > 1e-2
    empty = {"input_ids": inputs["input_ids"], "mems": [None, None]}
    assert_close(side.run(model, empty)["last_hidden_state"], without, "equal")


@each_side
def test_memory_of_no_length(side):
    """As a prompt of one word leaves for generation."""
    model, inputs = side.model(BODY), inputs_for(BODY, BODY.config(), "input_ids", "mems", "token_type_ids", M=0)
    found = side.run(model, inputs)["last_hidden_state"]
    inputs.pop("mems")
    assert_close(found, side.run(model, inputs)["last_hidden_state"], "equal")


# ------------------------------------------------------------------------------------------------ what is not computed


def counted(module, name, seen):
    """Note the shape of everything that a linear map gets."""
    return module.register_forward_pre_hook(lambda _, given: seen.append((name, tuple(given[0].shape))))


def test_positions_are_projected_once_a_layer_without_the_batch():
    pytest.importorskip("torch")
    for bi_data, variants in ((False, 1), (True, 2)):
        config = BODY.config(bi_data=bi_data)
        model, seen = TORCH.model(BODY, config), []
        for block in model.blocks:
            counted(block.attention.position, "position", seen)
        TORCH.run(model, inputs_for(BODY, config, *EVERYTHING_READ, B=4))
        assert seen == [("position", (variants, 3 + 6 + 6, 12))] * 2  # one distance more than there is


def test_the_second_stream_is_computed_for_what_is_predicted_only():
    """And the first one's last layer for nobody, unless its states are asked for."""
    pytest.importorskip("torch")
    config = BODY.config()
    model, seen, inputs = TORCH.model(BODY, config), [], inputs_for(BODY, config, *EVERYTHING_READ)
    for number, block in enumerate(model.blocks):
        counted(block.attention.out, f"{number}.out", seen)
        counted(block.feed_forward.inner, f"{number}.inner", seen)
    content, targets = (2, 6, 12), (2, 3, 12)
    first = [("0.out", content), ("0.out", targets), ("0.inner", content), ("0.inner", targets)]
    last = [("1.out", content), ("1.out", targets), ("1.inner", content), ("1.inner", targets)]
    TORCH.run(model, inputs)
    assert seen == [*first, ("1.out", targets), ("1.inner", targets)]
    seen.clear()
    TORCH.run(model, {**inputs, "output_hidden_states": True})
    assert seen == first + last


def test_memory_is_a_view():
    pytest.importorskip("torch")
    model = TORCH.model(BODY)
    output = TORCH.call(model, {**inputs_for(BODY, BODY.config(), "input_ids"), "output_hidden_states": True})
    for memory, hidden in zip(output.mems, output.hidden_states[:2], strict=True):
        assert memory.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr()
        assert not memory.requires_grad


def test_logits_are_computed_where_they_are_kept():
    pytest.importorskip("torch")
    model, seen, inputs = TORCH.model(LM), [], inputs_for(LM, LM.config(), "input_ids", "labels")
    counted(model.lm_head, "words", seen)
    whole = TORCH.run(model, inputs)
    text = {"input_ids": inputs["input_ids"], "logits_to_keep": 2}
    assert_close(TORCH.run(model, text)["logits"], whole["logits"][:, -2:], "equal")
    kept = TORCH.run(model, {**inputs, "logits_to_keep": 2})
    assert_close(kept["logits"], whole["logits"][:, -2:], "equal")
    assert kept["loss"] == whole["loss"]
    assert seen == [("words", (2, 6, 12)), ("words", (2, 2, 12)), ("words", (2, 6, 12))]


# ------------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize(
    ("keys", "moves"),
    [
        ({"dropout": 0.5}, True), ({"dropout": 0.0, "dropatt": 0.5}, True), ({"dropout": 0.0}, False),
        ({"dropout": 0.0, "summary_last_dropout": 0.5}, True), ({"dropout": 0.0, "summary_first_dropout": 0.5}, True),
    ],
)  # fmt: skip
@each_side
def test_dropout_is_for_training_only(side, keys, moves):
    config = TEXTS.config(**{"summary_last_dropout": 0.0, **keys})
    model, inputs = side.model(TEXTS, config), inputs_for(TEXTS, config, *EVERYTHING_READ)
    first, second = (side.run(model, inputs, training=True)["logits"] for _ in range(2))
    assert (far(first, second) > 1e-3) == moves
    np.testing.assert_array_equal(side.run(model, inputs)["logits"], side.run(model, inputs)["logits"])


@each_side
def test_distances_drop_out_as_one_table_and_keep_their_mean(side):
    """Rows of a batch that hold one text differ by their other dropout only; the table's is the same for all."""
    config = BODY.config(dropout=0.5, n_layer=1)
    model = side.model(BODY, config)
    seen = []
    attention = model.blocks[0].attention
    if side is TORCH:
        counted(attention.position, "position", seen)
        attention.position.register_forward_pre_hook(lambda _, given: seen.append(side.numpy(given[0])))
    else:
        inner = attention.position.call
        attention.position.call = lambda given, **more: (seen.append(side.numpy(given)), inner(given))[1]
    inputs = inputs_for(BODY, config, "input_ids", B=3, T=60)
    side.run(model, inputs)
    side.run(model, inputs, training=True)
    plain, dropped = (each for each in seen if isinstance(each, np.ndarray))
    left = dropped != 0
    assert 0.4 < left.mean() < 0.6
    assert_close(dropped[left], 2 * plain[left], "equal")


@pytest.mark.parametrize("names", [(), EVERYTHING_READ[1:]], ids=["one stream", "two"])
def test_gradient_checkpointing(names):
    """The same loss and gradients, at the price of a second pass through each layer."""
    torch = pytest.importorskip("torch")
    config = LM.config(dropout=0.4)
    model, inputs = TORCH.model(LM, config), inputs_for(LM, config, "input_ids", *names, "labels")
    passes, found = [], []
    model.transformer.blocks[1].attention.register_forward_hook(lambda *_: passes.append(1))
    for count in (1, 2):
        passes.clear()
        torch.manual_seed(3)
        found.append(TORCH.both(model, inputs, training=True))
        assert len(passes) == count
        model.gradient_checkpointing_enable()
    assert_close(found[1][0], found[0][0], "equal")
    assert_close(found[1][1], found[0][1], "equal")


# ------------------------------------------------------------------------------------------------------------- answers


@each_side
def test_ends_lie_by_rank_or_by_start(side):
    """`start_major` orders the same pairs the other way."""
    inputs = inputs_for(BEAM, BEAM.config(), "input_ids", B=3)
    by_rank = side.run(side.model(BEAM, BEAM.config()), inputs)
    by_start = side.run(side.model(BEAM, BEAM.config(start_major=True)), inputs)
    for name in ("end_top_index", "end_top_log_probs"):
        assert by_rank[name].shape == (3, 6)
        np.testing.assert_array_equal(by_rank[name].reshape(3, 2, 3).swapaxes(1, 2), by_start[name].reshape(3, 3, 2))
    assert far(by_rank["end_top_log_probs"], by_start["end_top_log_probs"]) > 0


@each_side
def test_what_the_search_finds_is_what_is_likeliest(side):
    """Against all pairs in numpy, by the formula."""
    config = BEAM.config()
    model, inputs = side.model(BEAM, config), inputs_for(BEAM, config, "input_ids", "p_mask")
    inputs["p_mask"][:, :4] = 0
    hidden = side.run(model.transformer, {"input_ids": inputs["input_ids"]})["last_hidden_state"].astype("float64")
    weights = {name: value.astype("float64") for name, value in side.weights(model).items()}

    def softmax(scores, axis):
        shifted = np.exp(scores - scores.max(axis, keepdims=True))
        return shifted / shifted.sum(axis, keepdims=True)

    low = np.where(inputs["p_mask"] > 0, -1e30, 0.0)
    starts = softmax(hidden @ weights["start.score.weight"][0] + weights["start.score.bias"] + low, -1)
    pairs = np.concatenate(
        [np.broadcast_to(hidden[:, :, None], (2, 6, 6, 12)), np.broadcast_to(hidden[:, None], (2, 6, 6, 12))], axis=-1
    )  # [B, ends, starts, 2 D]
    inner = np.tanh(pairs @ weights["end.inner.weight"].T + weights["end.inner.bias"])
    inner = (inner - inner.mean(-1, keepdims=True)) / inner.std(-1, keepdims=True)
    inner = inner * weights["end.norm.weight"] + weights["end.norm.bias"]
    ends = softmax(inner @ weights["end.score.weight"][0] + weights["end.score.bias"] + low[..., None], 1)
    found = side.run(model, inputs)
    for row in range(2):
        best = np.argsort(-starts[row], kind="stable")[:3]
        np.testing.assert_array_equal(found["start_top_index"][row], best)
        assert_close(found["start_top_log_probs"][row], starts[row, best], "golden")
        for place, start in enumerate(best):
            after = np.argsort(-ends[row, :, start], kind="stable")[:2]
            np.testing.assert_array_equal(found["end_top_index"][row].reshape(2, 3)[:, place], after)
    expected = np.einsum("bp,bpd->bd", starts, hidden)
    inner = np.tanh(np.concatenate([expected, hidden[:, -1]], -1) @ weights["answer.inner.weight"].T
                    + weights["answer.inner.bias"])  # fmt: skip
    assert_close(found["cls_logits"], inner @ weights["answer.score.weight"][0], "golden")


@each_side
def test_more_answers_than_positions_are_refused(side):
    model, inputs = side.model(BEAM), inputs_for(BEAM, BEAM.config(), "input_ids", T=2)
    with pytest.raises(ShapeError, match=r"start_n_top and end_n_top must be at most the 2 positions, got 3"):
        side.call(model, inputs)


@pytest.mark.parametrize("kind", ["question_answering", "beam_question_answering"])
@each_side
def test_answers_that_were_cut_off_count_for_nothing(side, kind):
    """Positions behind the end and -100: the loss of the other row alone; with none left it is zero."""
    case = XLNET[kind]
    model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels")
    alone = side.run(model, {name: value[:1] for name, value in inputs.items()})["loss"]
    for outside in (6, 99, -100):
        for name in ("start_positions", "end_positions"):
            inputs[name][1] = outside
        assert_close(side.run(model, inputs)["loss"], alone, "equal")
    inputs["start_positions"][0] = inputs["end_positions"][0] = -100
    outputs, gradients = side.both(model, inputs)
    assert outputs["loss"] == 0.0
    assert all(not value.any() for value in gradients.values())
    with pytest.raises(ShapeError, match=r"start_positions must lie in \[0, 6\) or be -100, got -3"):
        side.call(model, {**inputs, "start_positions": np.array([1, -3])})


@each_side
def test_a_soft_start_learns_from_the_expected_state(side):
    """The term of `is_impossible` then is that of what the search returns."""
    inputs = inputs_for(BEAM, BEAM.config(), "input_ids", "labels")
    model = side.model(BEAM, BEAM.config(soft_start=True))
    spans = {name: value for name, value in inputs.items() if name != "is_impossible"}
    score = side.run(model, {name: inputs[name] for name in ("input_ids", "cls_index")})["cls_logits"]
    truth = inputs["is_impossible"]
    term = (np.log1p(np.exp(-np.abs(score))) + np.maximum(score, 0) - score * truth).mean()
    assert_close(side.run(model, inputs)["loss"], side.run(model, spans)["loss"] + term / 2, "golden")
    hard = side.run(side.model(BEAM), inputs)["loss"]
    assert abs(hard - side.run(model, inputs)["loss"]) > 1e-3


@each_side
def test_where_a_text_is_read(side):
    """Last, first, mean or, without an index, last; then projection and activation, each of which may be missing."""
    for variant, read in (("default", -1), ("one_way", 0), ("backwards", None), ("authors", -1)):
        case = Case(TEXTS.family, TEXTS.head, variant)
        model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids")
        weights = side.weights(model)
        hidden = side.run(model.transformer, inputs)["last_hidden_state"]
        vector = hidden.mean(1) if read is None else hidden[:, read]
        vector = np.tanh(vector @ weights["sequence_summary.projection.weight"].T
                         + weights["sequence_summary.projection.bias"])  # fmt: skip
        wanted = vector @ weights["score.weight"].T + weights["score.bias"]
        assert_close(side.run(model, inputs)["logits"], wanted, "equal")


# ------------------------------------------------------------------------------------------------------------ resizing


@pytest.mark.parametrize("size", [36, 27])
@pytest.mark.parametrize("variant", ["default", "untied"])
@each_side
def test_resize_token_embeddings(side, variant, size):
    """Old words keep their rows, in and out; new ones have a bias of zero; ties stay."""
    case = Case(LM.family, LM.head, variant)
    config = case.config()
    model, text = side.model(case, config), np.array([[2, 3, 9, 12], [20, 4, 5, 6]])
    before = side.run(model, {"input_ids": text})["logits"]
    weights = side.weights(model)
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert (model.config.vocab_size, config.vocab_size) == (size, 31)
    after, kept = side.weights(model), min(size, 31)
    assert after.keys() == weights.keys()
    assert_close(side.run(model, {"input_ids": text})["logits"][..., :kept], before[..., :kept], "equal")
    np.testing.assert_array_equal(after["lm_head.bias"], np.append(weights["lm_head.bias"], [0.0] * 5)[:size])
    inputs = inputs_for(case, model.config, *EVERYTHING_READ, "labels")
    gradients = side.gradients(model, inputs)
    assert all(gradients[name].any() for name in random_weights(case, model.config))
    assert model.get_output_embeddings() is model.lm_head


# --------------------------------------------------------------------------------------------------------- only Keras


def test_one_graph_for_texts_of_any_size():
    """Free batch and lengths, both streams and memory, traced once."""
    tf = pytest.importorskip("tensorflow")
    model, traced, free = KERAS.model(LM), [], tf.TensorSpec
    signature = {
        "input_ids": free((None, None), tf.int32), "perm_mask": free((None, None, None), tf.float32),
        "target_mapping": free((None, None, None), tf.float32), "token_type_ids": free((None, None), tf.int32),
        "mems": [free((None, None, 12), tf.float32)] * 2,
    }  # fmt: skip

    @tf.function(input_signature=[signature])
    def scores(inputs):
        traced.append(1)
        return model(inputs).logits

    for B, T, M in ((2, 4, 3), (3, 9, 0), (1, 3, 7)):
        inputs = inputs_for(LM, model.config, *EVERYTHING_READ, B=B, T=T, M=M)
        wanted = KERAS.run(model, inputs)["logits"]
        for name in ("input_ids", "token_type_ids"):
            inputs[name] = inputs[name].astype("int32")
        assert_close(KERAS.numpy(scores(KERAS.ready(model, inputs))), wanted, "equal")
    assert len(traced) == 1


def test_functional_model_around_it():
    """KerasTensors as inputs, of free length, with a mask of padding."""
    keras = pytest.importorskip("keras")
    body = KERAS.model(BODY)
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    mask = keras.Input((None,), dtype="int32", name="attention_mask")
    model = keras.Model([ids, mask], body(input_ids=ids, attention_mask=mask).last_hidden_state)
    for T in (6, 3):
        inputs = inputs_for(BODY, body.config, "input_ids", "attention_mask", T=T)
        given = [inputs["input_ids"].astype("int32"), inputs["attention_mask"].astype("int32")]
        assert_close(model.predict(given, verbose=0), KERAS.run(body, inputs)["last_hidden_state"], "equal")
