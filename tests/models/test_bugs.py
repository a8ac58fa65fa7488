"""Bugs that users of other implementations met, each by its number in the collection of reports (T1 to T17), and the
quirks of those implementations that this one leaves out. T11 to T14 concern tokenizer and conversion."""

import numpy as np
import pytest

from tests.helpers import (
    BODY,
    CLASSIFIER,
    EVERYTHING_READ,
    GOLDEN,
    HEADS,
    IDLE,
    KERAS,
    LM,
    TORCH,
    Case,
    assert_close,
    each_head,
    each_side,
    far,
    flat,
    inputs_for,
    random_weights,
    read_golden,
)
from xlcore import ConfigError, ShapeError, TransfoXLConfig

each_plain_or_adaptive = pytest.mark.parametrize("variant", ["default", "one_table", "no_cutoffs"])


def lm(variant):
    """Return the language model in a variant."""
    return Case(LM.family, LM.head, variant)


def by_hand(side, model, ids, labels):
    """Return what the loss must be: the mean of -log p(next label) over labels that are not ignored, in numpy."""
    scores = side.run(model, {"input_ids": ids})["prediction_scores"][:, :-1]
    following = labels[:, 1:]
    picked = np.take_along_axis(-scores, np.maximum(following, 0)[..., None], axis=-1)[..., 0]
    return picked[following >= 0].mean()


# ---------------------------------------------------------------------------------------------------- T1 to T10


class Watched:
    """A model that notes how many words each call reads."""

    def __init__(self, model):
        self.model, self.lengths = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, ids, **keys):
        self.lengths.append(int(ids.shape[1]))
        return self.model(ids, **keys)


@pytest.mark.parametrize("variant", ["default", "pre_lnorm", "no_clamp"])
@each_side
def test_t1_generation_reads_one_word_a_step(side, variant):
    """And continues as if it had read the whole text again at each."""
    model, ids = side.model(lm(variant)), inputs_for(LM, LM.config(), "input_ids", T=4)["input_ids"]
    watched = Watched(model)
    texts = side.numpy(side.towers.generate(watched, side.native(ids), 8, temperature=1.0, top_k=1))
    assert watched.lengths == [4] + [1] * (7 if side is TORCH else 1)  # there the second call is compiled, for all
    whole = ids
    for _ in range(8):
        chosen = side.run(model, {"input_ids": whole})["prediction_scores"][:, -1].argmax(-1)
        whole = np.concatenate([whole, chosen[:, None]], axis=1)
    np.testing.assert_array_equal(texts, whole)


@pytest.mark.parametrize("mem_len", [0, 1, 5])
@each_side
def test_t2_memory_never_exceeds_its_length(side, mem_len):
    """And holds the latest states, whatever segments and memories came in."""
    config = BODY.config(mem_len=mem_len)
    model = side.model(BODY, config)
    for T, M in ((1, 0), (1, 5), (9, 5), (3, 1), (2, 11)):
        inputs = inputs_for(BODY, config, "input_ids", "mems", T=T, M=M)
        found = side.run(model, {**inputs, "output_hidden_states": True})
        for layer in range(2):
            states = found[f"hidden_states.{layer}"].swapaxes(0, 1)
            both = np.concatenate([inputs["mems"][layer], states])
            wanted = both[max(0, len(both) - mem_len) :]
            np.testing.assert_array_equal(found[f"mems.{layer}"], wanted)
    assert ("mems.0" in side.run(model, {"input_ids": inputs["input_ids"]})) == (mem_len > 0)


@each_side
def test_t3_padded_batches(side):
    """Right padding with ignored labels: each row counts as if it stood alone."""
    model, config = side.model(LM), LM.config()
    rows = [inputs_for(LM, config, "input_ids", B=1, T=T, seed=T)["input_ids"] for T in (3, 5, 8)]
    ids = np.concatenate([np.pad(row, ((0, 0), (0, 8 - row.shape[1])), constant_values=1) for row in rows])
    labels = np.where(np.arange(8) < np.array([[3], [5], [8]]), ids, -100)
    together = side.run(model, {"input_ids": ids, "labels": labels})
    alone = [side.run(model, {"input_ids": row, "labels": row})["losses"][0] for row in rows]
    for row, losses in enumerate(alone):
        assert_close(together["losses"][row, : len(losses)], losses, "equal")
        assert not together["losses"][row, len(losses) :].any()
    assert_close(together["loss"], np.concatenate(alone).mean(), "equal")


@each_plain_or_adaptive
@each_side
def test_t4_labels_are_shifted(side, variant):
    """Position t predicts label t + 1, as documented; labels are the input itself."""
    model, ids = side.model(lm(variant)), inputs_for(LM, LM.config(), "input_ids")["input_ids"]
    loss = side.run(model, {"input_ids": ids, "labels": ids})["loss"]
    assert_close(loss, by_hand(side, model, ids, ids), "equal")
    unshifted = np.take_along_axis(side.run(model, {"input_ids": ids})["prediction_scores"], ids[..., None], axis=-1)
    assert abs(loss + unshifted.mean()) > 1e-2


@each_side
def test_t5_the_loss_is_a_scalar_called_loss(side):
    """Read by name, key, or first in a tuple for trainers that take the first."""
    config = LM.config(trainer_compatible=True)
    model, inputs = side.model(LM, config), inputs_for(LM, config, "input_ids", "labels")
    output = side.call(model, inputs)
    assert tuple(output.loss.shape) == tuple(output["loss"].shape) == ()
    first = side.call(model, {**inputs, "return_dict": False})[0]
    assert side.numpy(first) == side.numpy(output["loss"]) == side.numpy(output.loss)


@each_plain_or_adaptive
@each_side
def test_t6_losses_of_exactly_zero_count(side, variant):
    """A word that is certain has loss 0; it is no padding."""
    case = lm(variant)
    weights = random_weights(case, case.config())
    weights["crit.bins.0.bias"][3] = 500.0
    model = side.model(case, weights=weights)
    ids = np.array([[2, 3, 3, 4, 3], [3, 3, 5, 3, 6]])
    labels = ids.copy()
    labels[1, 3:] = -100
    found = side.run(model, {"input_ids": ids, "labels": labels})
    assert (found["losses"][labels[:, 1:] == 3] == 0.0).all()
    assert_close(found["loss"], found["losses"].sum() / 6, "equal")
    certain = np.full((2, 5), 3)
    assert side.run(model, {"input_ids": certain, "labels": certain})["loss"] == 0.0


@pytest.mark.parametrize("case", [lm("default"), lm("no_cutoffs"), CLASSIFIER], ids=str)
@each_side
def test_t6_nothing_to_predict_is_a_loss_of_zero(side, case):
    """No NaN, and a gradient that is zero."""
    model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels")
    inputs["labels"] = np.full_like(inputs["labels"], -100)
    outputs, gradients = side.both(model, inputs)
    assert outputs["loss"] == 0.0
    assert all(np.array_equal(value, np.zeros_like(value)) for value in gradients.values())


@each_plain_or_adaptive
@each_side
def test_t7_ignored_labels(side, variant):
    """-100 counts for nothing, with and without clusters; losses stand by position."""
    case = lm(variant)
    model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels", T=9)
    assert (inputs["labels"] == -100).sum() > 1
    found = side.run(model, inputs)
    assert_close(found["loss"], by_hand(side, model, inputs["input_ids"], inputs["labels"]), "equal")
    np.testing.assert_array_equal(found["losses"] == 0.0, inputs["labels"][:, 1:] == -100)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", [*HEADS, lm("div_val_4"), lm("one_table")], ids=str)
def test_t8_autocast(case, dtype):
    """Automatic mixed precision on weights in float32, with `div_val` other than 1, forward and back."""
    torch = pytest.importorskip("torch")
    config = case.config()
    weights = {name: value * 0.5 for name, value in random_weights(case, config).items()}
    model, inputs = TORCH.model(case, weights=weights), inputs_for(case, config, *EVERYTHING_READ, "labels")
    wanted = TORCH.run(model, inputs)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        got, gradients = TORCH.both(model, inputs)
    assert_close(got, wanted, dtype)
    assert all(np.isfinite(value).all() for value in gradients.values())
    assert all(gradients[name].any() for name in weights.keys() - IDLE.get(case.head.name, set()))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_side
def test_t8_training_in_low_precision(side, dtype):
    """Weights in the low precision: loss and gradients are finite for every `div_val`."""
    for variant in ("default", "div_val_4", "one_table"):
        case = lm(variant)
        weights = {name: value * 0.5 for name, value in random_weights(case, case.config()).items()}
        model = side.model(case, dtype=dtype, weights=weights)
        outputs, gradients = side.both(model, inputs_for(case, case.config(), "input_ids", "labels"))
        assert np.isfinite(outputs["loss"])
        assert all(np.isfinite(value).all() for value in gradients.values())


def test_t9_sampled_softmax_is_refused():
    """Not accepted and then wrong; what switches it off is accepted."""
    message = "TransfoXLConfig: sample_softmax must be at most 0, the sampled softmax is not supported, got 8"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        TransfoXLConfig(sample_softmax=8)
    assert TransfoXLConfig(sample_softmax=0).sample_softmax == 0


def replica(module, known=None):
    """Copy a module as `nn.DataParallel` does for each device: with tensors where the parameters were."""
    known = {} if known is None else known
    copy = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        copy._modules[name] = child if child is None else replica(child, known)
    for name, value in module._parameters.items():
        if value is None:
            copy._parameters[name] = None
        else:
            setattr(copy, name, known.setdefault(value, value.detach().clone()))
    return copy


@pytest.mark.parametrize("case", [*HEADS, lm("shared_biases"), lm("untied"), lm("one_table")], ids=str)
def test_t10_replicas_of_data_parallel(case):
    """A replica has no parameters; it computes the same."""
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), "input_ids", "labels")
    copy = replica(model)
    assert not list(copy.parameters())
    ready = {name: TORCH.native(value) for name, value in inputs.items()}
    assert_close(flat(copy(**ready), TORCH.numpy), flat(model(**ready), TORCH.numpy), "equal")


# --------------------------------------------------------------------------------------------------- T15 to T17


def test_t15_keras_has_the_language_model():
    model = KERAS.model(LM)
    ids = inputs_for(LM, LM.config(), "input_ids")["input_ids"]
    assert_close(model(ids, labels=ids).loss, by_hand(KERAS, model, ids, ids), "equal")


@each_head
def test_t16_export(case):
    """`torch.export`, once for all batches, segments and memories; the exported program computes the same."""
    torch = pytest.importorskip("torch")
    model, config = TORCH.model(case), case.config()
    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    ready = TORCH.ready(model, inputs_for(case, config, "input_ids", "mems"))
    last = {ready["input_ids"].dim() - 1: torch.export.Dim.AUTO}  # choices stay two
    shapes = {"input_ids": {0: free[0]} | last} | ({"mems": [free, free]} if "mems" in ready else {})
    program = torch.export.export(model, (), ready, dynamic_shapes=shapes).module()
    for sizes in ({"B": 2, "T": 6, "M": 3}, {"B": 3, "T": 9, "M": 7}):
        inputs = TORCH.ready(model, inputs_for(case, config, "input_ids", "mems", **sizes))
        got, wanted = program(**inputs), model(**inputs)
        assert type(got) is type(wanted)
        assert_close(TORCH.numpy(got[0]), TORCH.numpy(wanted[0]), "equal")
        if "mems" in ready:
            assert_close(TORCH.numpy(got.mems[1]), TORCH.numpy(wanted.mems[1]), "equal")


@each_side
def test_t17_public_names(side):
    """Every head under the name that users know, beside the config: moving over changes the import line only."""
    prefix = "" if side is TORCH else "TF"
    names = {f"{prefix}{case.head.name}" for case in HEADS} | {case.family.config.__name__ for case in HEADS}
    names |= {f"{prefix}AdaptiveEmbedding", f"{prefix}ProjectedAdaptiveLogSoftmax"}
    assert names <= set(side.towers.__all__)
    assert all(getattr(side.towers, name).__name__ == name for name in names)


# ------------------------------------------------------------------------------------- quirks that are left out


@each_plain_or_adaptive
@each_side
def test_labels_are_never_changed(side, variant):
    """Others write an end token into the first row's labels if all of them are ignored, and train on it."""
    model, ids = side.model(lm(variant)), inputs_for(LM, LM.config(), "input_ids")["input_ids"]
    labels = ids.copy()
    labels[0] = -100
    given = side.native(labels)
    output = model(side.native(ids), labels=given)
    np.testing.assert_array_equal(side.numpy(given), labels)
    assert_close(side.numpy(output.loss), by_hand(side, model, ids, labels), "equal")
    assert not side.numpy(output.losses)[0].any()


@pytest.mark.parametrize("name", ["lm-loss", "lm-loss-ignore", "lm-loss-divval1", "lm-loss-untied", "lm-nocutoffs"])
@each_side
def test_the_layer_alone_has_the_known_order(side, name):
    """`ProjectedAdaptiveLogSoftmax` returns losses by bin, ignored ones last, exactly as the reference stores them."""
    golden = read_golden(GOLDEN / f"transfo_xl-{name}.safetensors")
    model = side.model(golden.case, golden.config, weights=golden.weights)
    labels = {"labels": golden.inputs["labels"]}
    text = {name: value for name, value in golden.inputs.items() if name != "labels"}
    hidden = side.call(model.transformer, text).last_hidden_state
    by_bin = side.numpy(model.crit(hidden, side.native(labels["labels"])))
    assert_close(by_bin, golden.outputs["losses"].ravel(), "golden")
    by_position = side.numpy(model.crit(hidden, side.native(labels["labels"]), keep_order=True))
    assert_close(by_position, side.run(model, golden.inputs)["losses"].ravel(), "equal")
    scores = side.numpy(model.crit(hidden))
    assert_close(scores, side.run(model, text)["prediction_scores"].reshape(scores.shape), "equal")


@each_side
def test_the_layers_stand_alone(side):
    """Embedding and softmax can be built without a model, with the arguments that users know."""
    prefix = "" if side is TORCH else "TF"
    sizes = (31, 16, 12, [9, 17])
    embedding = getattr(side.towers, f"{prefix}AdaptiveEmbedding")(*sizes, div_val=2)
    softmax = getattr(side.towers, f"{prefix}ProjectedAdaptiveLogSoftmax")(*sizes, div_val=2, keep_order=True)
    weights = random_weights(lm("untied"), lm("untied").config())
    model = side.model(lm("untied"), weights=weights)
    for layer, like in ((embedding, model.transformer.embedding), (softmax, model.crit)):
        if side is TORCH:
            layer.load_state_dict(like.state_dict())
        else:
            layer.set_weights(like.get_weights())
    ids = np.arange(30).reshape(2, 3, 5)
    embedded = side.numpy(embedding(side.native(ids)))
    assert embedded.shape == (2, 3, 5, 12)
    assert_close(embedded, side.numpy(model.transformer.embedding(side.native(ids))), "equal")
    hidden = side.native(np.random.default_rng(0).standard_normal((4, 12)).astype("float32"))
    np.testing.assert_allclose(np.exp(side.numpy(softmax(hidden))).sum(-1), 1.0, rtol=1e-5)


@each_side
def test_scores_come_with_labels_only_if_asked_for(side):
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids", "labels")
    plain = side.call(model, inputs)
    assert plain.prediction_scores == ()
    asked = side.call(model, {**inputs, "output_scores": True})
    wanted = side.run(model, {"input_ids": inputs["input_ids"]})["prediction_scores"]
    assert_close(side.numpy(asked.prediction_scores), wanted, "equal")
    assert side.numpy(asked.loss) == side.numpy(plain.loss)
    without = side.call(model, {"input_ids": inputs["input_ids"]})
    assert without.loss is None
    assert without.losses is None
    assert without.logits is without.prediction_scores


@each_side
def test_labels_one_longer_than_the_input(side):
    """Labels [B, T + 1]: the last position predicts, too; what is cut from a stream needs no word left out."""
    model, ids = side.model(LM), inputs_for(LM, LM.config(), "input_ids", T=7)["input_ids"]
    found = side.run(model, {"input_ids": ids[:, :6], "labels": ids})
    whole = side.run(model, {"input_ids": ids, "labels": ids})
    assert found["losses"].shape == (2, 6)
    assert_close(found["losses"], whole["losses"], "equal")
    assert_close(found["loss"], whole["loss"], "equal")


@each_side
def test_ids_out_of_range_are_refused(side):
    """Others embed them to zero, or drop such labels in silence."""
    model = side.model(LM)
    ids = np.array([[2, 3, 31]])
    with pytest.raises(ShapeError, match=r"AdaptiveEmbedding: ids must lie in \[0, 31\), got 31"):
        side.call(model, {"input_ids": ids})
    with pytest.raises(ShapeError, match=r"TransfoXLLMHeadModel: labels must lie in \[0, 31\) or be -100, got 31"):
        side.call(model, {"input_ids": ids - 2, "labels": ids})


@each_side
def test_memories_of_one_layer_too_many_are_accepted(side):
    """The authors' PyTorch code keeps the last output, too: it is of no use, and ignored."""
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids", "mems")
    wanted = side.run(model, inputs)
    more = [*inputs["mems"], np.full_like(inputs["mems"][0], 9.0)]
    found = side.run(model, {**inputs, "mems": more})
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("dtype", ["mixed_float16", "float16"])
def test_masks_in_half_precision_make_no_nan(dtype):
    """Others multiply a mask of zeros with 1e30, which is infinite in half precision."""
    model, inputs = KERAS.model(BODY, dtype=dtype), inputs_for(BODY, BODY.config(), "input_ids", "mems", M=9)
    found = KERAS.run(model, {**inputs, "output_attentions": True})
    assert found["attentions.0"].dtype == np.float16
    behind = np.arange(9, 15)[:, None] - np.arange(15)[None, :]
    hidden = np.broadcast_to((behind < 0) | (behind >= 5), found["attentions.0"].shape)
    assert not found["attentions.0"][hidden].any()
    np.testing.assert_allclose(found["attentions.0"].sum(-1, dtype="float32"), 1.0, atol=5e-3)


@each_side
def test_the_classifier_has_the_size_of_the_hidden_states(side):
    """Not of the embedding, which may be another."""
    for variant in ("default", "one_table"):
        case = Case(CLASSIFIER.family, CLASSIFIER.head, variant)
        model = side.model(case)
        weights = side.weights(model)
        assert weights["score.weight"].shape == (3, 12)
        ids = inputs_for(case, case.config(), "input_ids")["input_ids"]
        hidden = side.numpy(side.call(model.transformer, {"input_ids": ids}).last_hidden_state)
        assert_close(side.run(model, {"input_ids": ids})["logits"], hidden[:, -1] @ weights["score.weight"].T, "equal")


@each_side
def test_where_the_classifier_reads(side):
    """Before the first padding; at the end if there is none, or if padding comes first (padding on the left)."""
    model = side.model(CLASSIFIER)
    ids = np.array([[2, 3, 4, 5], [2, 3, 1, 1], [1, 1, 2, 3], [2, 1, 3, 4]])
    hidden = side.numpy(side.call(model.transformer, {"input_ids": ids}).last_hidden_state)
    read = hidden[np.arange(4), [3, 1, 3, 0]]
    wanted = read @ side.weights(model)["score.weight"].T
    assert_close(side.run(model, {"input_ids": ids})["logits"], wanted, "equal")
    assert far(wanted[2], wanted[0]) > 1e-2
