"""What must hold of every model in either framework, whatever its weights."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import (
    BODY,
    CASES,
    CLASSIFIER,
    EVERYTHING_READ,
    HEADS,
    KERAS,
    LM,
    TORCH,
    XLNET,
    Case,
    assert_close,
    each_head,
    each_side,
    far,
    flat,
    inputs_for,
    random_weights,
    rows_of,
)
from xlcore import TransfoXLConfig
from xlcore.errors import ConfigError, ShapeError


def lm(variant):
    """Return the language model in a variant."""
    return Case(LM.family, LM.head, variant)


def each_variant(*names):
    """Run a test for these variants of the language model."""
    return pytest.mark.parametrize("case", [lm(name) for name in names], ids=str)


# ------------------------------------------------------------------------------------------------ rows and positions


@each_head
@each_side
def test_a_row_does_not_depend_on_its_batch(side, case):
    config, everything = case.config(), {"output_hidden_states": True, "output_attentions": True}
    inputs = inputs_for(case, config, *EVERYTHING_READ[:2], "token_type_ids", "attention_mask", B=3)
    model = side.model(case, config)
    together = side.run(model, {**inputs, **everything})
    for row in range(3):
        alone = side.run(model, {**rows_of(case.head.inputs, inputs, [row]), **everything})
        assert_close(alone, rows_of(case.head.output.fields, together, [row]), "equal")


@pytest.mark.parametrize("case", [BODY, LM], ids=str)
@each_side
def test_right_padding_changes_nothing_before_it(side, case):
    config = case.config()
    inputs = inputs_for(case, config, "input_ids")
    padded = np.pad(inputs["input_ids"], ((0, 0), (0, 4)), constant_values=config.pad_token_id)
    model = side.model(case, config)
    plain, longer = (side.run(model, {"input_ids": ids}) for ids in (inputs["input_ids"], padded))
    name = next(iter(plain))
    assert_close(longer[name][:, :6], plain[name], "equal")


@each_side
def test_the_classifier_reads_each_text_where_it_ends(side):
    """Texts of 1, 4 and 6 words, padded to 6 and to 9: each as if it stood alone."""
    config = CLASSIFIER.config()
    model = side.model(CLASSIFIER, config)
    texts = [inputs_for(CLASSIFIER, config, "input_ids", B=1, T=T, seed=T)["input_ids"] for T in (1, 4, 6)]
    alone = [side.run(model, {"input_ids": text})["logits"] for text in texts]
    for width in (6, 9):
        batch = [np.pad(text, ((0, 0), (0, width - text.shape[1])), constant_values=1) for text in texts]
        together = side.run(model, {"input_ids": np.concatenate(batch)})["logits"]
        assert_close(together, np.concatenate(alone), "equal")
    assert far(alone[0], alone[1]) > 1e-2


@each_variant("default", "any_length", "no_memory", "tf1_window", "pre_lnorm", "empty_start", "no_cutoffs")
@each_side
def test_no_position_sees_a_later_one(side, case):
    """Also without memory but with `same_length`, where other implementations look ahead."""
    config = case.config()
    model, inputs = side.model(case, config), inputs_for(case, config, "input_ids")
    before = side.run(model, inputs)["prediction_scores"]
    for position in (1, 4):
        ids = inputs["input_ids"].copy()
        ids[:, position] = np.where(ids[:, position] == 5, 6, 5)
        after = side.run(model, {"input_ids": ids})["prediction_scores"]
        assert_close(after[:, :position], before[:, :position], "equal")
        assert far(after[:, position], before[:, position]) > 1e-2


@each_variant("default", "any_length", "tf1_window")
@each_side
def test_the_window(side, case):
    """Attention is zero exactly where the rule says so: ahead, and with `same_length` too far back."""
    config = case.config()
    inputs = inputs_for(case, config, "input_ids", "mems", M=7)
    attention = side.run(side.model(case, config), {**inputs, "output_attentions": True})["attentions.1"]
    behind = np.arange(7, 13)[:, None] - np.arange(13)[None, :]
    window = {"default": config.mem_len, "any_length": 99, "tf1_window": 7 + 1}[case.variant]
    visible = (behind >= 0) & (behind < window)
    np.testing.assert_array_equal(attention > 0, np.broadcast_to(visible, attention.shape))
    np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ memory


def in_segments(side, model, ids, lengths, mems=None):
    """Read a text segment by segment with its memory; return scores of all, and the last memory."""
    scores, start = [], 0
    for length in lengths:
        segment = {"input_ids": ids[:, start : start + length]}
        found = side.run(model, segment if mems is None else {**segment, "mems": mems})
        mems = [found[f"mems.{layer}"] for layer in range(model.config.num_layers)]
        scores.append(found["prediction_scores"])
        start += length
    return np.concatenate(scores, axis=1), mems


@pytest.mark.parametrize("keys", [{}, {"pre_lnorm": True}, {"untie_r": False}], ids=str)
@each_side
def test_one_long_segment_equals_several_with_enough_memory(side, keys):
    """Equality (a) of the specification: empty start, memory for the whole text, no window."""
    config = LM.config(initial_memory="empty", same_length=False, mem_len=12, **keys)
    model, ids = side.model(LM, config), inputs_for(LM, config, "input_ids", T=12)["input_ids"]
    whole, memory = in_segments(side, model, ids, [12])
    for lengths in ([5, 7], [1, 3, 8], [4, 4, 4]):
        parts, end = in_segments(side, model, ids, lengths)
        assert_close(parts, whole, "equal", str(lengths))
        assert_close(np.stack(end), np.stack(memory), "equal", str(lengths))
    shorter = side.model(LM, LM.config(initial_memory="empty", same_length=False, mem_len=2, **keys))
    assert far(in_segments(side, shorter, ids, [6, 6])[0], whole) > 1e-3, "two states of memory cannot be enough"


@pytest.mark.parametrize("variant", ["default", "pre_lnorm", "no_clamp"])
@each_side
def test_with_a_window_the_segment_length_does_not_matter(side, variant):
    """Equality (b) of the specification: `same_length` from a start of zeros, any segments, even T > mem_len."""
    config = lm(variant).config()
    model, ids = side.model(lm(variant), config), inputs_for(LM, config, "input_ids", T=12)["input_ids"]
    whole, memory = in_segments(side, model, ids, [12])
    for lengths in ([1] * 12, [2, 4, 6], [8, 4]):
        parts, end = in_segments(side, model, ids, lengths)
        assert_close(parts, whole, "equal", str(lengths))
        assert_close(np.stack(end), np.stack(memory), "equal", str(lengths))


@each_side
def test_init_mems_is_the_start(side):
    config = LM.config()
    model, inputs = side.model(LM, config), inputs_for(LM, config, "input_ids")
    zeros = [side.numpy(memory) for memory in model.init_mems(2)]
    assert [memory.shape for memory in zeros] == [(5, 2, 12)] * 2
    assert_close(side.run(model, {**inputs, "mems": zeros}), side.run(model, inputs), "equal")
    assert side.model(lm("no_memory")).init_mems(2) is None


@each_side
def test_carried_memory_equals_memory_handed_on(side):
    """And forgets when told, survives calls with memory of their own, refuses other batches, and ends."""
    config = LM.config()
    model, ids = side.model(LM, config), inputs_for(LM, config, "input_ids", T=12)["input_ids"]
    wanted, _ = in_segments(side, model, ids, [4, 4, 4])
    start = side.run(model, {"input_ids": ids[:, 4:8]})["prediction_scores"]
    names = side.weights(model).keys()
    model.carry_memory(2)

    def carried(first, last):
        return side.run(model, {"input_ids": ids[:, first:last]})["prediction_scores"]

    assert_close(carried(0, 4), wanted[:, :4], "equal")
    assert_close(carried(4, 8), wanted[:, 4:8], "equal")
    side.run(model, {**inputs_for(LM, config, "input_ids", "mems", seed=8)})
    with pytest.raises(ShapeError, match=r"TransfoXLModel: a batch must have the 2 rows whose memory .*, got 3"):
        side.run(model, inputs_for(LM, config, "input_ids", B=3))
    assert_close(carried(8, 12), wanted[:, 8:], "equal")
    model.reset_memory()
    assert_close(carried(4, 8), start, "equal")
    assert far(carried(4, 8), start) > 1e-3
    assert side.weights(model).keys() == names
    model.drop_memory()
    assert_close(carried(4, 8), start, "equal")
    with pytest.raises(ConfigError, match="carry_memory must have a memory that starts with mem_len zeros, got len"):
        side.model(lm("empty_start")).carry_memory(2)


@each_side
def test_reset_memory_length(side):
    """The model then computes as one whose config says so."""
    inputs = inputs_for(LM, LM.config(), "input_ids", T=9)
    model, short = side.model(LM), side.model(LM, LM.config(mem_len=2))
    model.reset_memory_length(2)
    assert_close(side.run(model, inputs), side.run(short, inputs), "equal")


# ---------------------------------------------------------------------------------------------------- probabilities


@pytest.mark.parametrize("case", [case for case in CASES if case.head is LM.head], ids=str)
@each_side
def test_probabilities_sum_to_one_and_give_the_losses(side, case):
    config = case.config()
    model = side.model(case, config, dtype="float64")
    inputs = inputs_for(case, config, "input_ids", "labels")
    with_scores = side.run(model, {**inputs, "output_scores": True})
    scores = with_scores["prediction_scores"]
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1.0, atol=1e-12)
    following = inputs["labels"][:, 1:]
    picked = np.take_along_axis(-scores[:, :-1], np.maximum(following, 0)[..., None], axis=-1)[..., 0]
    wanted = np.where(following >= 0, picked, 0.0)
    assert (following < 0).any()
    assert_close(with_scores["losses"], wanted, "float64")
    assert_close(with_scores["loss"], wanted.sum() / (following >= 0).sum(), "float64")


@each_side
def test_logits_to_keep(side):
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids")
    scores = side.run(model, inputs)["prediction_scores"]
    for count in (1, 3):
        kept = side.run(model, {**inputs, "logits_to_keep": count})["prediction_scores"]
        assert_close(kept, scores[:, -count:], "equal")


# -------------------------------------------------------------------------------------------------- save and load

STORED = ("default", "one_table", "no_cutoffs", "shared_biases", "untied", "tied_projections")


@pytest.mark.parametrize("case", [*(lm(name) for name in STORED), BODY, CLASSIFIER, *XLNET.values()], ids=str)
def test_one_folder_serves_both_frameworks(case, tmp_path):
    """Whoever saves, whoever loads: the same bits."""
    config, inputs = case.config(), inputs_for(case, case.config(), "input_ids", "mems")
    weights = random_weights(case, config)
    for saver in (TORCH, KERAS):
        model = saver.model(case, config)
        model.save_pretrained(tmp_path / str(saver))
        for loader in (TORCH, KERAS):
            loaded = loader.model_class(case).from_pretrained(tmp_path / str(saver))
            assert loader.weights(loaded).keys() == weights.keys()
            for name, value in loader.weights(loaded).items():
                np.testing.assert_array_equal(value, weights[name], name)
            if loader is saver:
                before, after = saver.run(model, inputs), saver.run(loaded, inputs)
                for name, value in before.items():
                    np.testing.assert_array_equal(after[name], value, name)
    files = [(tmp_path / str(side) / "model.safetensors").read_bytes() for side in (TORCH, KERAS)]
    assert files[0] == files[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@each_side
def test_save_and_load_keep_every_bit_of_a_dtype(side, dtype, tmp_path):
    model = side.model(LM, dtype=dtype)
    model.save_pretrained(tmp_path)
    loaded = side.model_class(LM).from_pretrained(tmp_path, dtype=side.dtype(dtype))
    for name, value in side.weights(model).items():
        np.testing.assert_array_equal(side.weights(loaded)[name], value, name)


# ------------------------------------------------------------------------------------------------- low precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", [*HEADS, lm("one_table"), lm("pre_lnorm")], ids=str)
@each_side
def test_low_precision_stays_near(side, case, dtype):
    """Weights and activations in the low precision; also after a long memory."""
    longest = {"mem_len": 40, "clamp_len": -1} if "mems" in case.head.inputs else {}
    config = case.config(**longest)
    inputs = inputs_for(case, config, "input_ids", "labels", T=10)
    weights = {name: value * 0.5 for name, value in random_weights(case, config).items()}
    wanted = side.run(side.model(case, config, weights=weights), inputs)
    got = side.run(side.model(case, config, dtype=dtype, weights=weights), inputs)
    assert_close(got, wanted, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_side
def test_encodings_are_computed_in_float32(side, dtype):
    """Half precision cannot tell positions beyond 2048 (bfloat16: 256) apart; the encodings must not notice."""
    encode = import_module(f"{side.towers.__name__}.layers.attention").distance_encodings
    like = side.native(np.zeros(1, "float32"), side.dtype(dtype))
    got = side.numpy(encode(3000, 8, -1, like)).astype("float64")
    angles = np.arange(2999, -1, -1)[:, None] * 10000.0 ** -(np.arange(0, 8, 2) / 8)
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert far(got, wanted) <= step + 1e-3


# ------------------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("keys", [{"dropout": 0.5}, {"dropout": 0.0, "dropatt": 0.5}], ids=str)
@pytest.mark.parametrize("attentions", [False, True])
@each_side
def test_dropout_is_for_training_only(side, keys, attentions):
    config = LM.config(**keys)
    model, inputs = side.model(LM, config), inputs_for(LM, config, "input_ids")
    inputs["output_attentions"] = attentions
    first, second = (side.run(model, inputs, training=True)["prediction_scores"] for _ in range(2))
    assert far(first, second) > 1e-2
    wanted = side.run(side.model(LM, LM.config(dropout=0.0, dropatt=0.0)), inputs, training=True)
    assert_close(side.run(model, inputs), wanted, "equal")


# ------------------------------------------------------------------------------------------------- only in PyTorch


@pytest.mark.parametrize("case", [*(lm(name) for name in ("default", "untied", "shared_biases")), CLASSIFIER], ids=str)
def test_state_dict_round_trip(case, tmp_path):
    torch = pytest.importorskip("torch")
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), "input_ids")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = TORCH.model(case, weights=random_weights(case, case.config(), seed=7))
    assert far(TORCH.run(other, inputs)["mems.1"], TORCH.run(model, inputs)["mems.1"]) > 1e-3
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for name, value in TORCH.run(model, inputs).items():
        np.testing.assert_array_equal(TORCH.run(other, inputs)[name], value, name)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("case", [LM, CLASSIFIER], ids=str)
def test_gradient_checkpointing(case, dropout):
    """The same loss and gradients, at the price of a second pass through each layer."""
    torch = pytest.importorskip("torch")
    config = case.config(dropout=dropout, dropatt=dropout)
    model, inputs = TORCH.model(case, config), inputs_for(case, config, "input_ids", "mems", "labels")
    passes = []
    model.transformer.blocks[1].attention.register_forward_hook(lambda *_: passes.append(1))

    def step(count):
        passes.clear()
        torch.manual_seed(3)
        found = TORCH.both(model, inputs, training=True)
        assert len(passes) == count
        return found

    outputs, gradients = step(1)
    model.gradient_checkpointing_enable()
    again, recomputed = step(2)
    assert_close(again, outputs, "equal")
    assert_close(recomputed, gradients, "equal")
    model.gradient_checkpointing_disable()
    step(1)


COMPILED = [
    *((case, "aot_eager", ()) for case in HEADS),
    *((case, "aot_eager", ("mems",)) for case in HEADS[:3]),
    *((case, "aot_eager", (*EVERYTHING_READ[1:], "labels")) for case in (XLNET["base"], XLNET["permutation_lm"])),
    (XLNET["beam_question_answering"], "aot_eager", ("labels",)),
    *((case, "aot_eager", names) for case in (LM, CLASSIFIER) for names in (("labels",), ("mems", "labels"))),
    (LM, "inductor", ("mems", "labels")),  # the real compiler for one only: it is slow, and the graphs are the same
]


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize(("case", "backend", "names"), COMPILED, ids=str)
def test_compiled_equals_eager(case, backend, names):
    """One graph without breaks, with and without memory and labels."""
    torch = pytest.importorskip("torch")
    torch.compiler.reset()
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), "input_ids", *names)
    wanted = TORCH.run(model, inputs)
    with torch.no_grad():
        output = torch.compile(model, fullgraph=True, backend=backend)(**TORCH.ready(model, inputs))
    assert_close(flat(output, TORCH.numpy), wanted, "equal")


# ------------------------------------------------------------------------------------------------ resizing


def moved(ids, config, new):
    """Return where old ids stand after a resize, and which of them are left."""
    old_ends, new_ends = [*config.cutoffs, config.vocab_size], [*new.cutoffs, new.vocab_size]
    number = np.searchsorted(old_ends, ids, side="right")
    places = ids + np.array([0, *new_ends])[number] - np.array([0, *old_ends])[number]
    return places, places < np.array(new_ends)[number]


RESIZES = [
    *(("default", layer, size) for layer in (0, 1, -1) for size in (36, 27)),
    ("one_table", -1, 36), ("one_table", 0, 27), ("no_projection", -1, 35), ("no_cutoffs", 0, 36), ("untied", 1, 36),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "layer", "size"), RESIZES)
@each_side
def test_resize_token_embeddings(side, variant, layer, size):
    """Old ids keep embedding and output row; probabilities still sum to one; the model still trains."""
    case, config = lm(variant), lm(variant).config()
    model = side.model(case, config)
    ids = np.arange(config.vocab_size)
    before = side.numpy(model.get_input_embeddings()(side.native(ids)))
    text = np.array([[0, 3, 9, 12, 17, 20]])  # ids that every resize leaves
    scores = side.run(model, {"input_ids": text})["prediction_scores"]
    model.resize_token_embeddings(size, layer)
    assert model.config.vocab_size == size
    assert config.vocab_size == 31, "the caller's config"
    places, left = moved(ids, config, model.config)
    assert left.sum() == min(size, 31)
    after = side.numpy(model.get_input_embeddings()(side.native(places[left])))
    np.testing.assert_array_equal(after, before[left])
    found = side.run(model, {"input_ids": places[text]})["prediction_scores"]
    assert found.shape == (1, 6, size)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1.0, rtol=1e-5)
    number = np.searchsorted([*config.cutoffs, 31], ids, side="right")
    same = number != (layer % (len(config.cutoffs) + 1) if config.div_val > 1 else len(config.cutoffs))
    for each in np.unique(number[same]):  # within a bin that kept its size all differences of scores stay
        inside = (number == each) & left
        got, wanted = found[..., places[inside]], scores[..., ids[inside]]
        assert_close(got - got[..., :1], wanted - wanted[..., :1], "equal")
    inputs = inputs_for(case, model.config, "input_ids", "labels", T=12)
    gradients = side.gradients(model, inputs)
    assert gradients.keys() == side.weights(model).keys() == random_weights(case, model.config).keys()
    assert all(value.any() for value in gradients.values())


@pytest.mark.parametrize("case", [BODY, CLASSIFIER], ids=str)
@each_side
def test_resize_without_an_output_table(side, case):
    model = side.model(case)
    before = side.run(model, {"input_ids": np.array([[2, 3, 4]])})
    table = model.resize_token_embeddings(40)
    assert table is model.get_input_embeddings()
    assert_close(side.run(model, {"input_ids": np.array([[2, 3, 4]])}), before, "equal")
    assert np.isfinite(side.run(model, {"input_ids": np.array([[39, 31]])})["mems.1"]).all()


@each_side
def test_resize_keeps_how_the_model_was_set(side):
    """Memory length, and what was frozen, are no matter of the vocabulary."""
    model = side.model(LM)
    model.reset_memory_length(2)
    attention = model.transformer.blocks[0].attention
    if side is TORCH:
        attention.requires_grad_(False)
        model.gradient_checkpointing_enable()
    else:
        attention.trainable = False
    model.resize_token_embeddings(40)
    assert model.transformer.mem_len == 2
    if side is TORCH:
        assert not any(value.requires_grad for value in model.transformer.blocks[0].attention.parameters())
        assert model.transformer.gradient_checkpointing
    else:
        assert not model.transformer.blocks[0].attention.trainable


# ----------------------------------------------------------------------------------------------- any valid config


@st.composite
def configs(draw):
    """Draw any small valid config of Transformer-XL."""
    vocab_size = draw(st.integers(4, 20))
    cutoffs = sorted(draw(st.sets(st.integers(1, vocab_size - 1), max_size=2)))
    div_val = draw(st.integers(1, 3))
    return TransfoXLConfig(
        vocab_size=vocab_size,
        cutoffs=cutoffs,
        div_val=div_val,
        d_model=2 * draw(st.integers(1, 5)),
        d_embed=draw(st.integers(div_val ** len(cutoffs), 10)),
        n_head=draw(st.integers(1, 3)),
        d_head=draw(st.integers(1, 4)),
        d_inner=draw(st.integers(1, 9)),
        n_layer=draw(st.integers(1, 3)),
        mem_len=draw(st.integers(0, 5)),
        clamp_len=draw(st.integers(-1, 5)),
        same_length=draw(st.booleans()),
        pre_lnorm=draw(st.booleans()),
        untie_r=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        tie_projs=draw(st.lists(st.booleans(), max_size=len(cutoffs) + 1)),
        window_rule=draw(st.sampled_from(["hf", "tf1"])),
        initial_memory=draw(st.sampled_from(["zeros", "empty"])),
    )


@settings(max_examples=8, deadline=None)
@given(configs(), st.integers(1, 3), st.integers(2, 7), st.integers(0, 6))
def test_the_twins_agree_for_any_config(config, B, T, M):
    inputs = inputs_for(LM, config, "input_ids", "mems", "labels", B=B, T=T, M=M)
    inputs["output_scores"] = True
    found = [side.run(side.model(LM, config, dtype="float64"), inputs) for side in (TORCH, KERAS)]
    assert_close(*found, "float64")
    np.testing.assert_allclose(np.exp(found[0]["prediction_scores"]).sum(-1), 1.0, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(configs(), st.integers(2, 7), st.integers(0, 6), st.data())
def test_rows_and_positions_are_independent_for_any_config(config, T, M, data):
    """Other rows, and later words, change nothing."""
    inputs = inputs_for(LM, config, "input_ids", "mems", B=2, T=T, M=M)
    model = TORCH.model(LM, config, dtype="float64")
    before = TORCH.run(model, inputs)["prediction_scores"]
    cut = data.draw(st.integers(1, T - 1))
    inputs["input_ids"][0, cut:] = (inputs["input_ids"][0, cut:] + 1) % config.vocab_size
    after = TORCH.run(model, inputs)["prediction_scores"]
    assert_close(after[1], before[1], "float64")
    assert_close(after[0, :cut], before[0, :cut], "float64")
