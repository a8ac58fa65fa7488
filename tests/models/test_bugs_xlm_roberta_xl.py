"""Bugs that users of other XLM-RoBERTa-XLs met, each by its number in the collection of reports or of quirks.

R8 and Q18 concern the tokenizer: `tests/xlcore/test_xlm_roberta_tokenizer.py`.
"""

import json
import math
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import ROBERTA, TORCH, assert_close, each_side, far, inputs_for, random_weights
from xlcore import WeightError, XLMRobertaTokenizer, XLMRobertaXLConfig
from xlcore.families.xlm_roberta_xl import RELEASED

BODY, MASKED, LM, TEXTS, CHOICES = (
    ROBERTA[kind] for kind in ("base", "masked_lm", "decoder_lm", "sequence_classification", "multiple_choice")
)
DECODER = {"is_decoder": True}


def rewritten(folder, change):
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


# ------------------------------------------------------------------------------------------------- reports of users


@each_side
def test_r1_a_file_without_the_last_norm_is_refused_by_name(side, tmp_path):
    """Nothing is left as it started: the norm of the wrong place is named, too, and words differ in what they give."""
    side.model(BODY).save_pretrained(tmp_path)
    hidden = side.run(side.model_class(BODY).from_pretrained(tmp_path), inputs_for(BODY, BODY.config(), "input_ids"))
    assert len(np.unique(hidden["last_hidden_state"].round(3), axis=1)[0]) > 1

    def misname(tensors):
        for last in ("weight", "bias"):
            tensors[f"embeddings.LayerNorm.{last}"] = tensors.pop(f"encoder.LayerNorm.{last}")

    rewritten(tmp_path, misname)
    with pytest.raises(
        WeightError, match=r"missing: .*encoder\.LayerNorm\.weight.*unexpected: .*embeddings\.LayerNorm"
    ):
        side.model_class(BODY).from_pretrained(tmp_path)


def test_r2_scores_do_not_differ_at_all_in_float64():
    """Differences of 2e-4 were taken for rounding; in float64 there are none, and parity's limit is measured."""
    config = MASKED.config()
    inputs = inputs_for(MASKED, config, "input_ids", "token_type_ids")
    from tests.helpers import KERAS

    torch_logits, keras_logits = (
        side.run(side.model(MASKED, config, dtype="float64"), inputs)["logits"] for side in (TORCH, KERAS)
    )
    assert far(torch_logits, keras_logits) < 1e-12 * np.abs(torch_logits).max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_side
def test_r3_training_in_half_precision_is_a_number(side, dtype):
    """With padding, with words that count for nothing, and with a text in which none counts."""
    config = MASKED.config()
    inputs = inputs_for(MASKED, config, "input_ids", "labels")
    inputs["labels"][1] = -100
    inputs["attention_mask"] = np.array([[1, 1, 1, 0, 0, 0], [0] * 6])
    outputs, gradients = side.both(side.model(MASKED, config, dtype=dtype), inputs)
    assert all(np.isfinite(value).all() for value in (*outputs.values(), *gradients.values()))
    nothing = side.run(side.model(MASKED, config, dtype=dtype), {**inputs, "labels": np.full((2, 6), -100)})
    assert nothing["loss"] == 0.0


def test_r4_r5_sizes_are_those_of_the_released_files():
    for name, keys in RELEASED.items():
        config = XLMRobertaXLConfig(**keys)
        assert (config.vocab_size, config.layer_norm_eps) == (250880, 1e-5), name


def test_r6_generation_with_gradient_checkpointing():
    config = LM.config(**DECODER)
    model, ids = TORCH.model(LM, config), TORCH.native(np.array([[5, 6, 7]]))
    wanted = TORCH.towers.generate(model, ids, 5)
    model.gradient_checkpointing_enable()
    for training in (False, True):
        model.train(training)
        assert (TORCH.towers.generate(model, ids, 5) == wanted).all() or training
    assert model(ids, use_cache=True).past_key_values is not None


@each_side
def test_r9_a_tied_table_is_not_reported_as_missing(side, tmp_path):
    side.model(MASKED).save_pretrained(tmp_path)
    assert "lm_head.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = side.model_class(MASKED).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(vars(info).values())


# ------------------------------------------------------------------------------------- names of the scores, section 2.4


@pytest.mark.parametrize("untied", [False, True])
@each_side
def test_any_of_the_names_of_table_and_bias_will_do(side, untied, tmp_path):
    """As all versions of transformers write them: each alone, or both."""
    config = MASKED.config(tie_word_embeddings=not untied)
    model, inputs = side.model(MASKED, config), inputs_for(MASKED, config, "input_ids")
    wanted = side.run(model, inputs)
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    bias = written["lm_head.decoder.bias" if untied else "lm_head.bias"]
    table = "roberta.embeddings.word_embeddings.weight"
    for names in (["lm_head.bias"], ["lm_head.decoder.bias"], ["lm_head.bias", "lm_head.decoder.bias"]):
        tensors = {name: value for name, value in written.items() if not name.startswith("lm_head.") or "." in name[8:]}
        tensors.pop("lm_head.decoder.bias", None)
        tensors |= dict.fromkeys(names, bias)
        if not untied and len(names) == 2:
            tensors["lm_head.decoder.weight"] = tensors[table]
        save_file({name: value.copy() for name, value in tensors.items()}, tmp_path / "model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again, info = side.model_class(MASKED).from_pretrained(tmp_path, output_loading_info=True)
        assert not any(vars(info).values())
        assert_close(side.run(again, inputs), wanted, "equal")


@each_side
def test_a_dead_bias_beside_the_one_that_counts(side, tmp_path):
    """Transformers 5 writes both of an untied model, and reads the second: so do we, and say so."""
    config = MASKED.config(tie_word_embeddings=False)
    model, inputs = side.model(MASKED, config), inputs_for(MASKED, config, "input_ids")
    model.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda tensors: tensors.update({"lm_head.bias": tensors["lm_head.decoder.bias"] + 1}))
    with pytest.warns(UserWarning, match=r"'lm_head\.bias' must equal 'lm_head\.decoder\.bias', its tied copy, got"):
        again = side.model_class(MASKED).from_pretrained(tmp_path)
    assert not again.config.tie_word_embeddings
    assert_close(side.run(again, inputs), side.run(model, inputs), "equal")


@each_side
def test_old_names_of_norms(side, tmp_path):
    """Of every norm, also those that transformers 5 leaves unread."""
    model = side.model(MASKED)
    model.save_pretrained(tmp_path)

    def older(tensors):
        for name in [name for name in tensors if "norm" in name.lower()]:
            new = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[new] = tensors.pop(name)

    rewritten(tmp_path, older)
    again = side.model_class(MASKED).from_pretrained(tmp_path)
    assert_close(side.weights(again), side.weights(model), "equal")


@each_side
def test_distances_in_a_file_for_absolute_positions_are_refused(side, tmp_path):
    """Other implementations read such a file with a warning, and compute from an untrained table (Q3)."""
    config = BODY.config(position_embedding_type="relative_key")
    model, inputs = side.model(BODY, config), inputs_for(BODY, config, "input_ids")
    model.save_pretrained(tmp_path)
    again = side.model_class(BODY).from_pretrained(tmp_path)
    assert_close(side.run(again, inputs), side.run(model, inputs), "equal")
    with pytest.raises(WeightError, match=r"unexpected: .*layer\.0\.attention\.self\.distance_embedding\.weight"):
        side.model_class(BODY).from_pretrained(tmp_path, position_embedding_type="absolute")


# ---------------------------------------------------------------------------------------------------- quirks, section 6


@each_side
def test_q5_no_attention_to_an_encoder_is_none(side):
    config = BODY.config(is_decoder=True, add_cross_attention=True)
    output = side.call(side.model(BODY, config), {**inputs_for(BODY, config, "input_ids"), "output_attentions": True})
    assert output.cross_attentions is None
    assert len(output.attentions) == 2


@each_side
def test_q12_labels_of_one_call_do_not_change_the_config(side):
    model = side.model(TEXTS)
    ids = inputs_for(TEXTS, TEXTS.config(), "input_ids")
    classes = side.run(model, {**ids, "labels": np.array([0, 2])})["loss"]
    each = side.run(model, {**ids, "labels": np.array([[1.0, 0, 0], [0, 0, 1]])})["loss"]
    assert model.config.problem_type is None
    assert far(classes, each) > 1e-3
    narrow = side.run(model, {**ids, "labels": np.array([0, 2], "int32")})["loss"]
    assert_close(narrow, classes, "equal")


@each_side
def test_q16_a_saved_config_says_whose_it_is(side, tmp_path):
    side.model(MASKED).save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    assert keys["model_type"] == "xlm-roberta-xl"
    assert keys["architectures"] == ["XLMRobertaXLForMaskedLM"]


@each_side
def test_q17_the_padding_row_learns_as_the_scores_of_its_word_only(side):
    """It starts as zeros, and takes no part where it is looked up."""
    config = MASKED.config()
    inputs = inputs_for(MASKED, config, "input_ids", "labels")
    inputs["input_ids"][:, 4:] = config.pad_token_id
    assert np.abs(side.gradients(side.model(MASKED, config), inputs)["embedding.weight"][1]).max() > 0
    body = {"input_ids": inputs["input_ids"]}
    gradients = side.gradients(side.model(BODY), body)
    for name in ("embedding.weight", "embedding_of_positions.weight"):
        assert not gradients[name][1].any()
        assert gradients[name][2:6].any()
    fresh = side.weights(side.model_class(BODY)(BODY.config(initializer_range=0.5)))
    assert not fresh["embedding.weight"][1].any()
    assert 0.3 < fresh["embedding.weight"].std() < 0.7


def test_q20_texts_are_cut_to_what_the_model_can_read():
    from pathlib import Path

    folder = Path(__file__).parents[1] / "golden" / "tokenizers" / "xlm_roberta_xl"
    tokenizer = XLMRobertaTokenizer(folder / "sentencepiece.bpe.model")
    assert tokenizer.model_max_length == XLMRobertaXLConfig().most_words


# ---------------------------------------------------------------------------------------------------- losses, section 4


@each_side
def test_an_answer_that_was_cut_off_does_not_count(side):
    """Behind the end, and -100; transformers counts every position below zero as the first one."""
    case = ROBERTA["question_answering"]
    model, ids = side.model(case), inputs_for(case, case.config(), "input_ids")
    found = side.run(model, {**ids, "start_positions": np.array([2, 9]), "end_positions": np.array([[4], [-100]])})
    shares = [found[name][0] - math.log(np.exp(found[name][0]).sum()) for name in ("start_logits", "end_logits")]
    assert_close(found["loss"], -(shares[0][2] + shares[1][4]) / 2, "equal")


@each_side
def test_a_chooser_reads_its_own_pooling_layer(side):
    """And is saved under the names that transformers has."""
    model = side.model(CHOICES)
    weights = random_weights(CHOICES, CHOICES.config())
    inputs = inputs_for(CHOICES, CHOICES.config(), "input_ids")
    hidden = side.run(model, {**inputs, "output_hidden_states": True})["hidden_states.2"]
    pooled = np.tanh(hidden[:, 0] @ weights["pooler.weight"].T + weights["pooler.bias"])
    scores = pooled @ weights["classifier.weight"].T + weights["classifier.bias"]
    assert_close(side.run(model, inputs)["logits"], scores.reshape(2, 2), "equal")
