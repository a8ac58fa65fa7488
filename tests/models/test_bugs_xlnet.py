"""Bugs that users of other XLNets met, each by its number in the collection of reports, and quirks that are left out.

X3, X4, X6 and X13 concern generation and export formats, X10 and X14 the tasks and the tokenizer.
"""

import re
import warnings

import numpy as np
import pytest

from tests.helpers import (
    EVERYTHING_READ,
    KERAS,
    TORCH,
    XLNET,
    assert_close,
    each_side,
    far,
    flat,
    inputs_for,
    random_weights,
    rows_of,
)
from tests.models.test_bugs import replica
from xlcore import ShapeError, WeightError, XLNetConfig
from xlcore.families.xlnet import RELEASED

BODY, LM, TEXTS, BEAM = (
    XLNET[kind] for kind in ("base", "permutation_lm", "sequence_classification", "beam_question_answering")
)
each_model = pytest.mark.parametrize("case", XLNET.values(), ids=str)


@each_side
def test_x1_memory_of_a_default_config_can_be_used(side):
    """Not a tuple of None: the second call reads what the first one left."""
    config = XLNetConfig(vocab_size=31, d_model=12, n_head=3, d_inner=20, n_layer=2)
    model, ids = side.model(BODY, config), inputs_for(BODY, config, "input_ids", T=8)["input_ids"]
    first = side.call(model, {"input_ids": ids[:, :5]})
    assert [tuple(memory.shape) for memory in first.mems] == [(5, 2, 12)] * 2
    second = side.call(model, {"input_ids": ids[:, 5:], "mems": list(first.mems)})
    assert [tuple(memory.shape) for memory in second.mems] == [(8, 2, 12)] * 2
    alone = side.call(model, {"input_ids": ids[:, 5:]}).last_hidden_state
    assert far(side.numpy(second.last_hidden_state), side.numpy(alone)) > 1e-2


@each_side
def test_x2_released_configs_keep_all_of_their_memory(side):
    """`mem_len` null, not 0 positions; and `use_mems` decides for one call, whatever the config says."""
    assert {keys["mem_len"] for keys in RELEASED.values()} == {None}
    model = side.model(LM, LM.config(mem_len=None))
    ids, mems = inputs_for(LM, LM.config(), "input_ids", T=6)["input_ids"], None
    for length in (2, 4, 6):
        found = side.run(model, {"input_ids": ids[:, length - 2 : length], "mems": mems})
        mems = [found["mems.0"], found["mems.1"]]
        assert mems[0].shape == (length, 2, 12)
    assert "mems.0" not in side.run(model, {"input_ids": ids, "use_mems": False})


@each_side
def test_x5_each_row_of_a_batch_has_its_own_targets(side):
    config = LM.config()
    inputs = inputs_for(LM, config, *EVERYTHING_READ, B=3)
    assert len({row.tobytes() for row in inputs["target_mapping"]}) == 3
    model = side.model(LM, config)
    together = side.run(model, inputs)
    for row in range(3):
        alone = side.run(model, rows_of(LM.head.inputs, inputs, [row]))
        assert_close(alone, rows_of(LM.head.output.fields, together, [row]), "equal")


@each_side
def test_x7_a_last_batch_of_another_size(side):
    """Memory has its rows in the second axis; that of another batch is refused by name, not mixed up."""
    model, config = side.model(LM), LM.config()
    inputs = inputs_for(LM, config, "input_ids", B=5)
    whole = side.run(model, inputs)
    for rows in ([0, 1, 2, 3], [4]):
        part = side.run(model, rows_of(LM.head.inputs, inputs, rows))
        assert_close(part, rows_of(LM.head.output.fields, whole, rows), "equal")
    short = {"input_ids": inputs["input_ids"][:1], "mems": [whole["mems.0"], whole["mems.1"]]}
    with pytest.raises(ShapeError, match=r"XLNetModel: mems\[0\] must have shape \[M, B=1, D=12\], got \[5, 5, 12\]"):
        side.call(model, short)


def test_x7_keras_evaluates_and_predicts_a_short_last_batch():
    keras = pytest.importorskip("keras")
    case = XLNET["token_classification"]
    model = KERAS.model(case, case.config(dropout=0.0))
    drawn = inputs_for(case, model.config, "input_ids", "labels", B=5)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    got = model.predict({"input_ids": drawn["input_ids"]}, batch_size=4, verbose=0)
    assert_close(got.logits, KERAS.run(model, {"input_ids": drawn["input_ids"]})["logits"], "equal")
    assert "mems" not in got
    parts = [{name: value[cut] for name, value in drawn.items()} for cut in (slice(0, 4), slice(4, 5))]
    losses = [KERAS.run(model, part)["loss"] for part in parts]
    wanted = (4 * losses[0] + losses[1]) / 5
    assert_close(model.evaluate(drawn["input_ids"], drawn["labels"], batch_size=4, verbose=0), wanted, "equal")


@pytest.mark.parametrize("mask", ["attention_mask", "input_mask"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@each_side
def test_x8_padding_changes_nothing(side, left, mask):
    """On either side, with either mask, in both streams: each word as if the text stood alone."""
    config = LM.config(mem_len=None)
    model, plain = side.model(LM, config), inputs_for(LM, config, "input_ids", "token_type_ids")
    pads = [(0, 0), (4, 0) if left else (0, 4)]
    padded = {
        "input_ids": np.pad(plain["input_ids"], pads, constant_values=5),
        "token_type_ids": np.pad(plain["token_type_ids"], pads, constant_values=3),
        mask: np.pad(np.full((2, 6), float(mask == "attention_mask")), pads, constant_values=mask == "input_mask"),
    }
    words = slice(4, 10) if left else slice(0, 6)
    wanted = side.run(model, plain)
    found = side.run(model, padded)
    assert_close(found["logits"][:, words], wanted["logits"], "equal")
    assert_close(found["mems.1"][words], wanted["mems.1"], "equal")
    ignored = {name: value for name, value in padded.items() if name != mask}
    assert far(side.run(model, ignored)["logits"][:, words], wanted["logits"]) > 1e-2
    mapping = np.eye(6, dtype="float32")[None, [0, 5]].repeat(2, axis=0)
    second = side.run(model, {**plain, "target_mapping": mapping})["logits"]
    wide = np.pad(mapping, [(0, 0), *pads])
    assert_close(side.run(model, {**padded, "target_mapping": wide})["logits"], second, "equal")


@each_side
def test_x8_a_classifier_that_reads_the_last_position_wants_padding_on_the_left(side):
    model, config = side.model(TEXTS), TEXTS.config()
    text = inputs_for(TEXTS, config, "input_ids")["input_ids"]
    mask = np.pad(np.ones((2, 6), int), ((0, 0), (3, 0)))
    alone = side.run(model, {"input_ids": text})["logits"]
    left = {"input_ids": np.pad(text, ((0, 0), (3, 0)), constant_values=5), "attention_mask": mask}
    assert_close(side.run(model, left)["logits"], alone, "equal")
    right = {"input_ids": np.pad(text, ((0, 0), (0, 3)), constant_values=5), "attention_mask": mask[:, ::-1].copy()}
    assert far(side.run(model, right)["logits"], alone) > 1e-2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["bool", "int64", "dtype"])
@each_side
def test_x9_answers_in_half_precision_are_finite(side, dtype, kind):
    """The score of positions that cannot be answers does not overflow, whatever kind of numbers the mask has."""
    config = BEAM.config()
    weights = {name: value * 0.5 for name, value in random_weights(BEAM, config).items()}
    inputs = inputs_for(BEAM, config, *EVERYTHING_READ[:2], "token_type_ids", "attention_mask", "labels")
    inputs["p_mask"] = np.tile(np.array([0, 0, 1, 1, 1, 1], "float32"), (2, 1))
    inputs |= {name: np.array([0, 1]) for name in ("start_positions", "end_positions")}
    model, exact = (side.model(BEAM, config, dtype=each, weights=weights) for each in (dtype, "float32"))
    wanted = side.run(exact, inputs)["loss"]
    if kind != "dtype":
        inputs |= {name: inputs[name].astype(kind) for name in ("p_mask", "is_impossible", "attention_mask")}
    outputs, gradients = side.both(model, inputs)
    assert abs(outputs["loss"] - wanted) < {"float16": 2e-2, "bfloat16": 1e-1}[dtype] * max(1, wanted)
    assert all(np.isfinite(value).all() for value in gradients.values())
    found = side.run(model, {name: value for name, value in inputs.items() if name not in BEAM.head.targets})
    assert all(np.isfinite(value).all() for value in found.values())
    assert (found["start_top_index"][:, :2] < 2).all()


@each_model
def test_x11_replicas_of_data_parallel(case):
    """A replica has no parameters, in which nobody then looks for a dtype; both streams compute the same."""
    torch = pytest.importorskip("torch")
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), *EVERYTHING_READ, "labels")
    copy = replica(model)
    assert not list(copy.parameters())
    ready = {name: TORCH.native(value) for name, value in inputs.items()}
    with torch.no_grad():
        assert_close(flat(copy(**ready), TORCH.numpy), flat(model(**ready), TORCH.numpy), "equal")


@each_model
def test_x12_tracing(case):
    """A tuple holds no None; a traced model computes the same for other texts."""
    torch = pytest.importorskip("torch")
    config = case.config(use_mems_eval=False, return_dict=False)
    model, inputs = TORCH.model(case, config), inputs_for(case, config, "input_ids")
    ready = TORCH.ready(model, inputs)
    assert all(each is not None for each in model(**ready))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is out of fashion, and says what it takes for fixed
        traced = torch.jit.trace(model, (ready["input_ids"],), check_trace=False)
    other = TORCH.ready(model, inputs_for(case, config, "input_ids", seed=5))["input_ids"]
    for got, wanted in zip(traced(other), model(other), strict=True):
        assert_close(TORCH.numpy(got), TORCH.numpy(wanted), "equal")


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of a stream not switched on
@pytest.mark.parametrize("named", [False, True], ids=["as y", "in the inputs"])
@pytest.mark.parametrize("kind", ["permutation_lm", "sequence_classification", "beam_question_answering"])
def test_x15_fit(kind, named):
    """Labels beside the inputs or among them, padding with its mask, a short last batch."""
    keras = pytest.importorskip("keras")
    case = XLNET[kind]
    model = KERAS.model(case, case.config(dropout=0.0, summary_last_dropout=0.0))
    drawn = inputs_for(case, model.config, "input_ids", "attention_mask", "labels", B=5)
    text = {name: drawn.pop(name) for name in ("input_ids", "attention_mask")}
    first = KERAS.run(model, {**text, **drawn})["loss"]
    model.compile(keras.optimizers.SGD(0.02), jit_compile=False)
    data = ({**text, **drawn},) if named else (text, drawn.get("labels", drawn))
    history = model.fit(*data, batch_size=4, epochs=3, shuffle=False, verbose=0)
    losses = history.history["loss"]
    assert abs(losses[0] - first) < 0.3
    assert losses[0] > losses[1] > losses[2]


def test_x15_fit_with_targets_and_everything_that_can_be_read():
    """Pretraining by `fit`: every parameter learns, so Keras finds nothing to warn of."""
    keras = pytest.importorskip("keras")
    model = KERAS.model(LM, LM.config(dropout=0.0))
    before = KERAS.weights(model)
    data = inputs_for(LM, model.config, "input_ids", "perm_mask", "target_mapping", "token_type_ids", "labels", B=4)
    model.compile(keras.optimizers.SGD(0.02), jit_compile=False)
    losses = model.fit(data, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    assert losses[0] > losses[1] > losses[2]
    assert all(far(value, before[name]) > 0 for name, value in KERAS.weights(model).items())


@each_side
def test_x16_a_model_is_never_random_in_silence(side, tmp_path):
    """A file that lacks weights is refused; a head that the file was saved without is told; all else is exact."""
    model, inputs = side.model(TEXTS), inputs_for(TEXTS, TEXTS.config(), "input_ids", "token_type_ids")
    model.save_pretrained(tmp_path / "texts")
    loaded = side.model_class(TEXTS).from_pretrained(tmp_path / "texts")
    for name, value in side.run(model, inputs).items():
        np.testing.assert_array_equal(side.run(loaded, inputs)[name], value, name)
    with pytest.warns(UserWarning, match=r"the file lacks its head; newly initialised.*lm_loss\.bias"):
        side.model_class(LM).from_pretrained(tmp_path / "texts")
    deeper = TEXTS.config(n_layer=3)
    with pytest.raises(WeightError, match=re.escape("missing: transformer.layer.2.rel_attn.q")):
        side.model_class(TEXTS).from_pretrained(tmp_path / "texts", config=deeper)


def test_x17_evaluate_and_predict_agree():
    keras = pytest.importorskip("keras")
    case = XLNET["sequence_classification"]
    model = KERAS.model(case)
    drawn = inputs_for(case, model.config, "input_ids", "labels", B=5)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    logits = model.predict(drawn["input_ids"], batch_size=2, verbose=0).logits.astype("float64")
    shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.take_along_axis(shifted, drawn["labels"][:, None], axis=-1).mean()
    assert_close(model.evaluate(drawn["input_ids"], drawn["labels"], batch_size=2, verbose=0), wanted, "golden")


# ------------------------------------------------------------------------------------------- quirks that are left out


@each_side
def test_masks_of_any_kind_of_number(side):
    """Truth values, whole and real numbers: others fail on some of them."""
    names = ("attention_mask", "perm_mask", "target_mapping")
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids", *names)
    wanted = side.run(model, inputs)
    for kind in ("bool", "int32", "int64"):
        masks = {name: inputs[name].astype(kind) for name in names}
        assert_close(side.run(model, {**inputs, **masks}), wanted, "equal")
    other = {**inputs, "input_mask": 1 - inputs["attention_mask"]}
    other.pop("attention_mask")
    assert_close(side.run(model, other), wanted, "equal")


@each_side
def test_both_masks_of_padding_are_refused(side):
    inputs = inputs_for(BODY, BODY.config(), "input_ids", "attention_mask", "input_mask")
    with pytest.raises(ShapeError, match=r"XLNetModel: padding must be told by attention_mask or .*, got both"):
        side.call(side.model(BODY), inputs)


@each_side
def test_an_odd_batch_is_refused_where_half_of_it_runs_backwards(side):
    config = BODY.config(bi_data=True)
    with pytest.raises(ShapeError, match=r"XLNetModel: a batch must have an even number of .* bi_data, got 3"):
        side.call(side.model(BODY, config), inputs_for(BODY, config, "input_ids", B=3))


@each_side
def test_a_head_mask_is_never_ignored(side):
    inputs = inputs_for(LM, LM.config(), *EVERYTHING_READ)
    model = side.model(LM)
    plain = side.run(model, inputs)["logits"]
    assert_close(side.run(model, {**inputs, "head_mask": np.ones((2, 3), "float32")})["logits"], plain, "equal")
    assert far(side.run(model, {**inputs, "head_mask": np.array([1, 0, 1], "float32")})["logits"], plain) > 1e-2


@each_side
def test_an_unknown_argument_is_refused(side):
    with pytest.raises((TypeError, ValueError), match="use_cache"):
        side.call(side.model(LM), {"input_ids": np.array([[2, 3]]), "use_cache": True})


@each_side
def test_the_problem_is_decided_anew_in_each_call_and_never_written_down(side):
    """Others remember what the first batch looked like, and write it into the config."""
    model, ids = side.model(TEXTS), inputs_for(TEXTS, TEXTS.config(), "input_ids")["input_ids"]
    before = model.config.to_dict()
    logits = side.run(model, {"input_ids": ids})["logits"].astype("float64")
    classes = side.run(model, {"input_ids": ids, "labels": np.array([0, 2])})["loss"]
    independent = side.run(model, {"input_ids": ids, "labels": np.eye(3, dtype="float32")[[0, 2]]})["loss"]
    scores = np.log(np.exp(logits).sum(-1)) - logits[[0, 1], [0, 2]]
    assert_close(classes, scores.mean(), "golden")
    each = np.log1p(np.exp(logits)) - logits * np.eye(3)[[0, 2]]
    assert_close(independent, each.mean(), "golden")
    assert model.config.problem_type is None
    assert model.config.to_dict() == before


@pytest.mark.parametrize("kind", ["question_answering", "beam_question_answering"])
@each_side
def test_positions_in_a_column_are_accepted_and_left_alone(side, kind):
    """Others take the axis out of the tensors of their caller."""
    case = XLNET[kind]
    model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels")
    wanted = side.run(model, inputs)["loss"]
    columns = {name: side.native(inputs[name][:, None]) for name in case.head.targets}
    output = model(side.native(inputs["input_ids"]), **columns)
    assert_close(side.numpy(output.loss), wanted, "equal")
    for name, column in columns.items():
        assert tuple(column.shape) == (2, 1)
        np.testing.assert_array_equal(side.numpy(column)[:, 0], inputs[name])


@pytest.mark.parametrize("case", [LM, TEXTS, XLNET["token_classification"], XLNET["multiple_choice"]], ids=str)
@each_side
def test_nothing_to_predict_is_a_loss_of_zero(side, case):
    """Not NaN, and a gradient of zero; and labels are never changed."""
    model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels")
    inputs["labels"] = np.full_like(inputs["labels"], -100)
    labels = inputs["labels"].copy()
    outputs, gradients = side.both(model, inputs)
    assert outputs["loss"] == 0.0
    assert all(not value.any() for value in gradients.values())
    np.testing.assert_array_equal(inputs["labels"], labels)


@each_side
def test_labels_of_other_shapes_or_values_are_refused(side):
    prefix = "" if side is TORCH else "TF"
    for case, labels, message in (
        (LM, np.ones((2, 5), int), r"XLNetLMHeadModel: labels must have shape \[B=2, P=6\], got \[2, 5\]"),
        (LM, np.full((2, 6), 31), r"XLNetLMHeadModel: labels must lie in \[0, 31\) or be -100, got 31"),
        (
            XLNET["token_classification"],
            np.full((2, 6), 3),
            r"Classification: labels must lie in \[0, 3\) or be .*, got 3",
        ),
        (XLNET["multiple_choice"], np.array([0, 2]), r"MultipleChoice: labels must lie in \[0, 2\) or be -100, got 2"),
        (XLNET["multiple_choice"], np.array([0]), r"MultipleChoice: labels must have shape \[B=2\], got \[1\]"),
    ):
        inputs = inputs_for(case, case.config(), "input_ids")
        with pytest.raises(ShapeError, match=message) as caught:
            side.call(side.model(case), {**inputs, "labels": labels})
        assert str(caught.value).startswith(f"{prefix}XLNet")


@each_side
def test_choices_want_an_axis_of_their_own(side):
    case = XLNET["multiple_choice"]
    ids = inputs_for(LM, LM.config(), "input_ids")["input_ids"]
    with pytest.raises(ShapeError, match=r"MultipleChoice: input_ids must have shape \[B, C, T\], got \[2, 6\]"):
        side.call(side.model(case), {"input_ids": ids})
