"""What holds of XLM alone: who sees what, caches, pruned heads, decoders, scores of many words, and its options."""

import gc
import math
import weakref
from importlib import import_module

import numpy as np
import pytest

from tests.helpers import KERAS, TORCH, XLM, Case, assert_close, each_side, far, flat, inputs_for, random_weights
from xlcore import ConfigError, ShapeError, XLMConfig
from xlcore.params import sinusoid

BODY, LM, TEXTS, BEAM = (
    XLM[kind] for kind in ("base", "word_lm", "sequence_classification", "beam_question_answering")
)
CAUSAL = {"causal": True, "gelu_activation": False}
DECODER = {"is_encoder": False, "causal": True}


# ------------------------------------------------------------------------------------- known numbers (appendix B)

SMALL = {
    "vocab_size": 20, "emb_dim": 8, "n_layers": 2, "n_heads": 2, "n_langs": 3, "max_position_embeddings": 8,
    "num_labels": 2, "start_n_top": 2, "end_n_top": 3,
}  # fmt: skip
IDS = np.array([[0, 14, 15, 16, 1], [0, 17, 18, 1, 2]])
LANGS = np.array([[1, 1, 1, 2, 2], [0, 0, 0, 0, 0]])
FIRST = {
    False: [-1.58238, -0.51498, 0.34815, 0.93344, 0.84675, 0.35139, -0.21683, -0.92115],
    True: [-1.54947, -0.54908, 0.36742, 0.94222, 0.84875, 0.36213, -0.24978, -0.91359],
}
LAST = {
    False: [-1.50687, -0.61291, 0.33943, 0.86152, 0.86312, 0.37209, -0.17680, -0.92658],
    True: [-1.50699, -0.61338, 0.33930, 0.86166, 0.86296, 0.37253, -0.17736, -0.92602],
}
TYPED = {
    False: [-1.50933, -0.60918, 0.33820, 0.86273, 0.85884, 0.37628, -0.17766, -0.92714],
    True: [-1.50922, -0.60931, 0.33824, 0.86259, 0.85893, 0.37620, -0.17753, -0.92718],
}


def waves(case, config):
    """Fill a model by the formula of the specification: sorted by their known names, body and head apart."""
    maps = import_module("xlcore.maps").HF["xlm"]
    params, body = case.family.params(config, case.head), case.family.body(config)
    filled = {}
    for names, start in ((body.keys(), 0), (params.keys() - body.keys(), 100)):
        known = {name: maps.theirs(name)[0].removeprefix("transformer.") for name in names}
        for number, name in enumerate(sorted(names, key=known.__getitem__)):
            size, norm = math.prod(params[name].shape), "norm" in known[name].lower() and name.endswith("weight")
            values = 0.5 * np.sin(1 + start + number + 0.37 * np.arange(size)) + norm
            filled[name] = values.reshape(params[name].shape).astype("float32")
    return filled


def near(got, wanted):
    assert np.abs(np.asarray(got) - np.asarray(wanted)).max() < 1e-5


@pytest.mark.parametrize("causal", [False, True])
@each_side
def test_known_numbers_of_the_body(side, causal):
    config = XLMConfig(causal=causal, **SMALL)
    model = side.model(BODY, config, weights=waves(BODY, config))
    hidden = side.run(model, {"input_ids": IDS, "langs": LANGS})["last_hidden_state"]
    near(hidden[0, 0], FIRST[causal])
    near(hidden[1, 3], LAST[causal])
    assert abs(hidden.sum() - {False: -6.8012, True: -6.7989}[causal]) < 1e-4
    assert not hidden[1, 4].any()
    types = np.array([[0, 0, 0, 1, 1]] * 2)
    typed = side.run(model, {"input_ids": IDS, "langs": LANGS, "token_type_ids": types})["last_hidden_state"]
    near(typed[0, 4], TYPED[causal])


@each_side
def test_known_numbers_of_the_language_model(side):
    config = XLMConfig(**SMALL)
    model = side.model(LM, config, weights=waves(LM, config))
    logits = side.run(model, {"input_ids": IDS, "langs": LANGS})["logits"]
    near(logits[0, 1, :4], [0.26080, 0.46967, 0.24072, 0.84868])
    labels = np.array([[-100, 14, -100, 16, -100], [-100, -100, 18, -100, -100]])
    near(side.run(model, {"input_ids": IDS, "langs": LANGS, "labels": labels})["loss"], 3.380513)


@each_side
def test_known_numbers_of_answers(side):
    config = XLMConfig(**SMALL)
    model = side.model(BEAM, config, weights=waves(BEAM, config))
    inputs = {"input_ids": IDS, "langs": LANGS, "cls_index": np.array([0, 0])}
    found = side.run(model, inputs)
    near(found["start_top_log_probs"], [[0.20954, 0.20166], [0.21992, 0.19967]])
    near(found["start_top_index"], [[3, 2], [4, 3]])
    ends = [
        [0.20285, 0.20276, 0.20216, 0.20210, 0.20213, 0.20206],
        [0.33165, 0.20786, 0.22792, 0.20728, 0.21882, 0.20663],
    ]
    near(found["end_top_log_probs"], ends)
    near(found["end_top_index"], [[3, 3, 2, 2, 0, 0], [0, 3, 1, 2, 2, 1]])
    near(found["cls_logits"], [-0.52393, -0.30599])
    answers = {"start_positions": np.array([1, 2]), "end_positions": np.array([3, 2])}
    near(side.run(model, {**inputs, **answers, "is_impossible": np.array([0.0, 1.0])})["loss"], 1.974979)


# ------------------------------------------------------------------------------------------------------- who sees what


@each_side
def test_lengths_and_masks_say_the_same(side):
    """And so does the padding id, on the right; states of padding are zero in every layer."""
    config = BODY.config()
    inputs = inputs_for(BODY, config, "input_ids", "langs", B=3)
    lengths = np.array([6, 2, 4])
    mask = (np.arange(6) < lengths[:, None]).astype("int64")
    padded = np.where(mask, inputs["input_ids"], config.pad_token_id)
    model, asked = side.model(BODY, config), {"output_attentions": True, "output_hidden_states": True}
    by_mask = side.run(model, {**inputs, **asked, "attention_mask": mask})
    assert_close(side.run(model, {**inputs, **asked, "lengths": lengths}), by_mask, "equal")
    by_padding = side.run(model, {**inputs, **asked, "input_ids": padded})
    assert_close(by_padding["last_hidden_state"], by_mask["last_hidden_state"], "equal")
    for layer in range(3):
        assert not by_mask[f"hidden_states.{layer}"][mask == 0].any()
    np.testing.assert_array_equal(by_mask["attentions.1"][1] > 0, np.broadcast_to(mask[1] > 0, (3, 6, 6)))
    alone = side.run(model, {name: value[1:2, :2] for name, value in inputs.items()})
    assert_close(by_mask["last_hidden_state"][1:2, :2], alone["last_hidden_state"], "equal")


@each_side
def test_a_text_of_padding_alone(side):
    """Attention is even, states are zero, gradients are numbers."""
    config = BODY.config()
    inputs = inputs_for(BODY, config, "input_ids") | {"attention_mask": np.array([[1] * 6, [0] * 6])}
    model = side.model(BODY, config)
    found = side.run(model, {**inputs, "output_attentions": True})
    np.testing.assert_allclose(found["attentions.0"][1], 1 / 6, rtol=1e-6)
    outputs, gradients = side.both(model, inputs)
    assert not outputs["last_hidden_state"][1].any()
    assert all(np.isfinite(value).all() for value in gradients.values())


@each_side
def test_causal_attention_sees_padding_unless_told_to_hide_it(side):
    """Texts padded on the left are then read as if they stood alone."""
    ids = inputs_for(BODY, BODY.config(), "input_ids", T=4)["input_ids"]
    padded = np.pad(ids, ((0, 0), (3, 0)), constant_values=1)
    mask = np.pad(np.ones((2, 4), "int64"), ((0, 0), (3, 0)))
    positions = np.maximum(np.arange(7) - 3, 0)[None].repeat(2, 0)
    for hide in (True, False):
        model = side.model(BODY, BODY.config(**CAUSAL, hide_padding=hide))
        alone = side.run(model, {"input_ids": ids})["last_hidden_state"]
        inputs = {"input_ids": padded, "attention_mask": mask, "position_ids": positions}
        found = side.run(model, {**inputs, "output_attentions": True})
        assert (far(found["last_hidden_state"][:, 3:], alone) < 1e-5) == hide
        assert (found["attentions.0"][:, :, 3:, :3] > 0).any() != hide


@each_side
def test_languages_and_types_are_added(side):
    """Languages only where there are embeddings for them; types by the embeddings of words."""
    config = BODY.config()
    inputs = inputs_for(BODY, config, "input_ids", "langs", "token_type_ids")
    model = side.model(BODY, config)
    plain = side.run(model, {"input_ids": inputs["input_ids"]})["last_hidden_state"]
    weights = side.weights(model)
    added = weights["embedding.weight"][inputs["input_ids"]] + weights["embedding_of_languages.weight"][inputs["langs"]]
    added = added + weights["embedding.weight"][inputs["token_type_ids"]]
    wanted = side.run(model, {"inputs_embeds": added})["last_hidden_state"]
    assert_close(side.run(model, inputs)["last_hidden_state"], wanted, "equal")
    assert far(plain, wanted) > 1e-2
    for keys in ({"n_langs": 1}, {"use_lang_emb": False}):
        without = side.model(BODY, BODY.config(**keys))
        ids = {"input_ids": inputs["input_ids"]}
        same = side.run(without, ids | {"langs": inputs["langs"]}), side.run(without, ids)
        assert_close(*same, "equal")


@each_side
def test_the_padding_row_learns_from_scores_only(side):
    """Not from where it is looked up, as words or as types."""
    config = LM.config(**CAUSAL)
    inputs = inputs_for(LM, config, "input_ids", "labels")
    inputs["input_ids"][:, 2] = config.pad_token_id
    inputs |= {"token_type_ids": np.full((2, 6), 1), "attention_mask": np.ones((2, 6), "int64")}
    text = {name: value for name, value in inputs.items() if name != "labels"}
    body = side.gradients(side.model(BODY, BODY.config(**CAUSAL)), text)
    assert not body["embedding.weight"][1].any()
    assert body["embedding.weight"][inputs["input_ids"][0, 0]].any()
    assert side.gradients(side.model(LM, config), inputs)["embedding.weight"][1].any()


# ------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("hide", [False, True])
@each_side
def test_cached_equals_uncached(side, hide):
    """Any cuts of a text give what it gives as a whole; with languages, types, positions, and padding in between."""
    config = LM.config(**CAUSAL, hide_padding=hide)
    inputs = inputs_for(LM, config, "input_ids", "langs", "token_type_ids", "position_ids", T=9)
    inputs["attention_mask"] = np.ones((2, 9), "int64")
    inputs["attention_mask"][0, 3:5] = 0
    model = side.model(LM, config)
    whole = side.run(model, {**inputs, "output_hidden_states": True})
    for cuts in ([1] * 9, [4, 5], [2, 3, 4]):
        cache, parts, read = side.towers.KeyValueCache(), [], 0
        for length in cuts:
            read += length
            text = {name: value[:, :read] for name, value in inputs.items()}
            parts.append(side.run(model, {**text, "cache": cache, "output_hidden_states": True}))
            assert cache.length == read
            assert parts[-1]["logits"].shape[1] == length
        for name, value in whole.items():
            assert_close(np.concatenate([part[name] for part in parts], axis=1), value, "equal", f"{name} {cuts}")


@each_side
def test_a_cache_of_embeddings(side):
    config = BODY.config(**CAUSAL)
    hidden = inputs_for(BODY, config, "inputs_embeds")["inputs_embeds"]
    model, cache = side.model(BODY, config), side.towers.KeyValueCache()
    whole = side.run(model, {"inputs_embeds": hidden})["last_hidden_state"]
    first = side.run(model, {"inputs_embeds": hidden[:, :4], "cache": cache})["last_hidden_state"]
    rest = side.run(model, {"inputs_embeds": hidden, "cache": cache})["last_hidden_state"]
    assert_close(np.concatenate([first, rest], axis=1), whole, "equal")


@each_side
def test_a_cache_is_refused_where_it_would_be_wrong(side):
    """And stays as it was."""
    ids = inputs_for(BODY, BODY.config(), "input_ids")["input_ids"]
    prefix = "" if side is TORCH else "TF"
    cache = side.towers.KeyValueCache()
    with pytest.raises(
        ConfigError, match=f"^{prefix}XLMModel: causal must be true to read on from a cache, got false$"
    ):
        side.call(side.model(BODY), {"input_ids": ids, "cache": cache})
    model = side.model(BODY, BODY.config(**CAUSAL))
    side.call(model, {"input_ids": ids, "cache": cache})
    message = f"^{prefix}XLMModel: texts must be longer than the 6 positions in the cache, got 6$"
    with pytest.raises(ShapeError, match=message):
        side.call(model, {"input_ids": ids, "cache": cache})
    with pytest.raises(ShapeError, match=f"^{prefix}XLMModel: texts must be the 2 in the cache, got 1$"):
        side.call(model, {"input_ids": np.pad(ids[:1], ((0, 0), (0, 1)), constant_values=2), "cache": cache})
    with pytest.raises(ShapeError, match="ids must lie in"):
        side.call(model, {"input_ids": np.pad(ids, ((0, 0), (0, 1)), constant_values=99), "cache": cache})
    assert cache.length == 6


def test_a_call_without_cache_keeps_nothing():
    """The keys of the first layer are gone when the third one starts; with a cache they are what it holds."""
    torch = pytest.importorskip("torch")
    model = TORCH.model(BODY, BODY.config(**CAUSAL, n_layers=3))
    ids = TORCH.native(inputs_for(BODY, model.config, "input_ids")["input_ids"])
    keys, alive = [], []
    first, _, third = model.blocks

    def watch(_, inputs):
        keys.append(weakref.ref(inputs[1]))

    def look(*_):
        gc.collect()
        alive.append(keys[-1]() is not None)

    first.attention.register_forward_pre_hook(watch)
    third.attention.register_forward_pre_hook(look)
    cache = TORCH.towers.KeyValueCache()
    with torch.no_grad():
        model(ids)
        model(ids, cache=cache)
    assert alive == [False, True]
    assert keys[1]() is cache.layers[0][0]


# ----------------------------------------------------------------------------------------------------------- generation


@each_side
def test_generation_reads_one_word_a_step(side):
    """From a cache; it continues as if it had read the whole text again at each step, in the language asked for."""
    config = LM.config(**CAUSAL, lang_id=2)
    model, ids = side.model(LM, config), inputs_for(LM, config, "input_ids", T=4)["input_ids"]
    for lang, options in ((2, {}), (1, {"lang": 1})):
        texts = side.numpy(side.towers.generate(model, side.native(ids), 9, **options))
        whole = ids
        for _ in range(9):
            inputs = {"input_ids": whole, "langs": np.full_like(whole, lang)}
            whole = np.concatenate([whole, side.run(model, inputs)["logits"][:, -1:].argmax(-1)], axis=1)
        np.testing.assert_array_equal(texts, whole)
    read = []
    body, prepare = model.transformer, model.transformer._embedded
    body._embedded = lambda *inputs: read.append(inputs[0]) or prepare(*inputs)
    side.towers.generate(model, side.native(ids), 5)
    assert read == [0, *([4, 5, 6, 7] if side is TORCH else [15])]  # one step, compiled for its language


@each_side
def test_generation_refuses_what_it_would_ignore(side):
    model = side.model(LM, LM.config(mask_token_id=None))
    ids = side.native(np.array([[2, 3]]))
    with pytest.raises(ConfigError, match=r"^generate: mask_token_id must be set for a model that is not causal, got"):
        side.towers.generate(model, ids, 2)
    other = side.model(Case(*_transfo()))
    with pytest.raises(ConfigError, match=r"^generate: lang must be given for models with languages only, got 1$"):
        side.towers.generate(other, ids, 2, lang=1)


def _transfo():
    from tests.helpers import LM as MEMORY

    return MEMORY.family, MEMORY.head


# --------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("case", [BODY, LM, TEXTS], ids=str)
@each_side
def test_pruned_heads_are_as_masked_ones(side, case, tmp_path):
    """Taken out in two goes, by the numbers of before; saved, loaded, counted, and never come back."""
    config = case.config()
    inputs = inputs_for(case, config, "input_ids", "langs")
    masked = np.array([[1, 0, 1], [0, 1, 0]], "float32")
    model = side.model(case, config)
    wanted = side.run(model, {**inputs, "head_mask": masked})
    before = side.weights(model)
    model.prune_heads({0: [1], 1: [0]})
    model.prune_heads({1: [2, 0]})
    assert model.config.pruned_heads == {0: [1], 1: [0, 2]}
    assert config.pruned_heads == {}
    after = side.weights(model)
    assert after.keys() == before.keys() == random_weights(case, model.config).keys()
    assert after["blocks.1.attention.query.weight"].shape == (4, 12)
    np.testing.assert_array_equal(
        after["blocks.1.attention.out.weight"], before["blocks.1.attention.out.weight"][:, 4:8]
    )
    assert_close(side.run(model, inputs), wanted, "equal")
    model.save_pretrained(tmp_path)
    for other in (TORCH, KERAS):
        loaded = other.model_class(case).from_pretrained(tmp_path)
        assert_close(other.run(loaded, inputs), wanted, "equal")
    if case is BODY:
        attentions = side.run(model, {**inputs, "output_attentions": True})
        assert [attentions[f"attentions.{layer}"].shape[1] for layer in (0, 1)] == [2, 1]
        ones = np.array([1, 1, 0], "float32")  # counts the heads of before
        last = side.run(model, {**inputs, "head_mask": ones, "output_attentions": True})["attentions.0"]
        np.testing.assert_allclose(last[:, 1], 0.0)
        assert last[:, 0].any()


@each_side
def test_heads_that_cannot_be_pruned(side):
    model = side.model(BODY)
    before = side.run(model, {"input_ids": np.array([[2, 3]])})
    for heads, message in (
        ({0: [0, 1, 2]}, r"pruned_heads\[0\] must name some of the 3 heads, not all, got \[0, 1, 2\]"),
        ({2: [0]}, r"pruned_heads must name layers below 2, got 2"),
        ({0: [3]}, r"pruned_heads\[0\] must name some of the 3 heads, not all, got \[3\]"),
    ):
        with pytest.raises(ConfigError, match=f"^XLMConfig: {message}$"):
            model.prune_heads(heads)
    assert_close(side.run(model, {"input_ids": np.array([[2, 3]])}), before, "equal")


def test_pruning_keeps_how_the_model_was_set():
    model = TORCH.model(LM)
    model.transformer.blocks[0].attention.requires_grad_(False)
    model.prune_heads({0: [2]})
    assert not any(value.requires_grad for value in model.transformer.blocks[0].attention.parameters())
    assert model.transformer.blocks[1].attention.query.weight.requires_grad
    assert model.lm_head.weight is model.transformer.embedding.weight


# ------------------------------------------------------------------------------------------------------------- decoders


def translation(config, M=5):
    """Draw a text, and the states of an encoder and how many of them count."""
    inputs = inputs_for(BODY, config, "input_ids", "langs")
    states = np.random.default_rng(7).standard_normal((2, M, config.emb_dim)).astype("float32")
    return {**inputs, "src_enc": states, "src_len": np.array([M, M - 2])}


@pytest.mark.parametrize("case", [BODY, LM], ids=str)
def test_decoders_of_both_frameworks_agree(case):
    config = case.config(**DECODER)
    inputs = translation(config) | ({"labels": np.array([[2, -100, 3, 4, 5, 6]] * 2)} if case is LM else {})
    ready = [(side, side.model(case, config, dtype="float64")) for side in (TORCH, KERAS)]
    found = [side.both(model, {**inputs, "output_attentions": True}) for side, model in ready]
    assert_close(found[1][0], found[0][0], "float64")
    assert_close(found[1][1], found[0][1], "float64")
    moved = random_weights(case, config).keys()
    still = {name for name in moved if name.endswith("attention.key.bias")}
    assert all(found[0][1][name].any() for name in moved - still)


@each_side
def test_a_decoder_reads_its_source(side):
    """As far as it counts, from a cache too; without a source it reads none."""
    config = BODY.config(**DECODER)
    inputs, model = translation(config), side.model(BODY, config)
    whole = side.run(model, inputs)["last_hidden_state"]
    other = {**inputs, "src_enc": inputs["src_enc"].copy()}
    other["src_enc"][1, 3:] += 1.0
    assert_close(side.run(model, other)["last_hidden_state"], whole, "equal")
    other["src_enc"][1, 2] += 1.0
    assert far(side.run(model, other)["last_hidden_state"][1], whole[1]) > 1e-3
    cache, parts = side.towers.KeyValueCache(), []
    for read in (2, 3, 6):
        text = {name: value[:, :read] if name in ("input_ids", "langs") else value for name, value in inputs.items()}
        parts.append(side.run(model, {**text, "cache": cache})["last_hidden_state"])
    assert_close(np.concatenate(parts, axis=1), whole, "equal")
    text = {name: inputs[name] for name in ("input_ids", "langs")}
    everything = {**inputs, "src_len": np.array([5, 5])}
    without_length = {name: value for name, value in inputs.items() if name != "src_len"}
    assert_close(side.run(model, without_length), side.run(model, everything), "equal")
    assert far(side.run(model, text)["last_hidden_state"], whole) > 1e-2


@each_side
def test_sources_that_cannot_be_read(side):
    decoder = BODY.config(**DECODER)
    inputs = translation(decoder)
    prefix = "" if side is TORCH else "TF"
    with pytest.raises(ConfigError, match=f"^{prefix}XLMModel: is_encoder must be false to read src_enc, got true$"):
        side.call(side.model(BODY), inputs)
    model = side.model(BODY, decoder)
    with pytest.raises(ConfigError, match=f"^{prefix}XLMModel: src_enc must be given with src_len, got none$"):
        side.call(model, {name: value for name, value in inputs.items() if name != "src_enc"})
    with pytest.raises(ShapeError, match=r"XLMModel: src_enc must have shape \[B=2, M, D=12\], got \[1, 5, 12\]$"):
        side.call(model, {**inputs, "src_enc": inputs["src_enc"][:1]})
    with pytest.raises(ShapeError, match=r"XLMModel: src_len must lie in \[0, 6\), got 9$"):
        side.call(model, {**inputs, "src_len": np.array([9, 1])})
    alone = {name: inputs[name] for name in ("input_ids", "langs")}
    for first, then, got in ((inputs, alone, "none in this one"), (alone, inputs, "some in this one only")):
        cache = side.towers.KeyValueCache()
        side.call(
            model, {**first, "input_ids": first["input_ids"][:, :3], "langs": first["langs"][:, :3], "cache": cache}
        )
        message = f"XLMModel: src_enc must be given in every call with one cache, or in none, got {got}$"
        with pytest.raises(ConfigError, match=message):
            side.call(model, {**then, "cache": cache})
        assert cache.length == 3


# --------------------------------------------------------------------------------------------------- scores of words


@pytest.mark.parametrize("entries", [1, 70, 1 << 25], ids=["a row", "two rows", "all"])
@pytest.mark.parametrize("variant", ["default", "untied", "clusters"])
@each_side
def test_the_loss_without_scores_is_the_loss_of_the_scores(side, variant, entries, monkeypatch):
    """Whatever the chunks; gradients, too."""
    monkeypatch.setattr(import_module(f"{side.towers.__name__}.layers.word_loss"), "ENTRIES", entries)
    case = Case(LM.family, LM.head, variant)
    config = case.config()
    inputs = inputs_for(case, config, "input_ids", "labels", B=3)
    inputs["labels"][1] = -100
    model = side.model(case, config, dtype="float64")
    outputs, gradients = side.both(model, inputs)
    assert outputs.keys() == {"loss"}
    logits = side.run(model, {"input_ids": inputs["input_ids"]})["logits"]
    logarithms = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    counted = inputs["labels"] >= 0
    picked = np.take_along_axis(logarithms, np.maximum(inputs["labels"], 0)[..., None], axis=-1)[..., 0]
    assert_close(outputs["loss"], -picked[counted].mean(), "float64")
    if variant != "clusters":
        shares = np.exp(logarithms) - np.eye(31)[np.maximum(inputs["labels"], 0)]
        assert_close(gradients["lm_head.bias"], (shares * counted[..., None]).sum((0, 1)) / counted.sum(), "float64")


@each_side
def test_scores_beside_the_loss_and_of_some_positions(side):
    model, inputs = side.model(LM), inputs_for(LM, LM.config(), "input_ids", "labels")
    ids = {"input_ids": inputs["input_ids"]}
    whole = side.run(model, ids)["logits"]
    found = side.run(model, {**inputs, "output_scores": True, "logits_to_keep": 2})
    assert_close(found["logits"], whole[:, -2:], "equal")
    assert found["loss"] == side.run(model, inputs)["loss"]
    chosen = side.run(model, {**ids, "logits_to_keep": side.native(np.array([4, 0, 1]))})["logits"]
    assert_close(chosen, whole[:, [4, 0, 1]], "equal")
    with pytest.raises(ShapeError, match=r"logits_to_keep must be at least 0 \(0 for all\), got -1"):
        side.call(model, {**ids, "logits_to_keep": -1})


def test_the_adaptive_softmax_is_that_of_torch():
    """`torch.nn.AdaptiveLogSoftmaxWithLoss`, which the authors use, with the same weights."""
    torch = pytest.importorskip("torch")
    case = Case(LM.family, LM.head, "clusters")
    model = TORCH.model(case)
    crit = model.crit
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(12, 31, [9, 17], div_value=2.0, head_bias=True)
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat([crit.bins[0].weight, crit.cluster.weight]))
        theirs.head.bias.copy_(torch.cat([crit.bins[0].bias, crit.cluster.bias]))
        for tail, each in zip(theirs.tail, list(crit.bins)[1:], strict=True):
            tail[0].weight.copy_(each.projection.T)
            tail[1].weight.copy_(each.weight)
    ids = TORCH.native(inputs_for(case, case.config(), "input_ids")["input_ids"])
    hidden = model.transformer(ids).last_hidden_state.flatten(0, 1)
    assert_close(TORCH.numpy(model(ids).logits).reshape(12, 31), TORCH.numpy(theirs.log_prob(hidden)), "equal")
    assert_close(TORCH.numpy(model(ids, labels=ids).loss), TORCH.numpy(theirs(hidden, ids.flatten()).loss), "equal")


# ----------------------------------------------------------------------------------------------------- how it starts


@each_side
def test_how_parameters_start(side):
    """The padding row is zero; sines and cosines are what they are, and are not trained; authors' starts are theirs."""
    sizes = {"vocab_size": 300, "emb_dim": 64, "n_heads": 4, "n_layers": 1, "n_langs": 9}
    config = XLMConfig(sinusoidal_embeddings=True, **sizes)
    model = side.model_class(LM)(config)
    weights = side.weights(model)
    assert not weights["embedding.weight"][2].any()
    assert abs(weights["embedding.weight"].std() - 2048**-0.5) < 1e-3
    assert abs(weights["blocks.0.attention.query.weight"].std() - 0.02) < 1e-3
    encodings = weights["embedding_of_positions.weight"]
    np.testing.assert_array_equal(encodings, sinusoid(512, 64).astype("float32"))
    assert_close(encodings[7, 6:8], [np.sin(7 / 10000 ** (6 / 64)), np.cos(7 / 10000 ** (6 / 64))], "equal")
    trained = {id(value) for value in _trained(side, model)}
    assert id(model.canonical_parameters()["embedding_of_positions.weight"]) not in trained
    assert len(trained) == len(weights) - 1
    authors = side.weights(side.model_class(LM)(config.copy(init="authors")))
    assert abs(authors["embedding.weight"].std() - 1 / 8) < 5e-3
    for name, inputs in (("blocks.0.feed_forward.outer.weight", 256), ("blocks.0.feed_forward.inner.bias", 64)):
        assert 0.9 * inputs**-0.5 < np.abs(authors[name]).max() <= inputs**-0.5


def _trained(side, model):
    return (
        [value for value in model.parameters() if value.requires_grad] if side is TORCH else model.trainable_variables
    )


@each_side
def test_a_sinusoid_stays_while_the_rest_trains(side):
    config = LM.config(sinusoidal_embeddings=True)
    model = side.model(LM, config)
    inputs = inputs_for(LM, config, "input_ids", "langs", "labels")
    before = side.weights(model)
    if side is TORCH:
        import torch

        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        side.call(model, inputs).loss.backward()
        optimizer.step()
    else:
        import keras

        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        model.fit(inputs, batch_size=2, verbose=0)
    after = side.weights(model)
    np.testing.assert_array_equal(after.pop("embedding_of_positions.weight"), before["embedding_of_positions.weight"])
    still = {name for name in after if np.array_equal(after[name], before[name])}
    assert still <= {f"blocks.{layer}.attention.key.bias" for layer in (0, 1)}


# ------------------------------------------------------------------------------------------------------- wrong inputs

WRONG = {
    "too long": (
        {"input_ids": np.full((1, 17), 2)}, "a text must have at most 16 positions, got 17; give position_ids"
    ),
    "language": ({"langs": np.array([[0, 3]])}, "langs must lie in [0, 3), got 3"),
    "languages for one": ({"langs": np.array([[0]])}, "langs must have shape [B=1, T=2], got [1, 1]"),
    "position": ({"position_ids": np.array([[0, 16]])}, "position_ids must lie in [0, 16), got 16"),
    "positions of one axis": ({"position_ids": np.array([0, 1])}, "position_ids must have shape [B=1, T=2], got [2]"),
    "length": ({"lengths": np.array([3])}, "lengths must lie in [0, 3), got 3"),
    "two lengths": ({"lengths": np.array([1, 2])}, "lengths must have shape [B=1], got [2]"),
    "mask of three axes": (
        {"attention_mask": np.ones((1, 2, 2))}, "attention_mask must have shape [B=1, T=2], got [1, 2, 2]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("case", [BODY, LM], ids=str)
@each_side
def test_wrong_inputs(side, case, name):
    inputs, message = WRONG[name]
    with pytest.raises(ShapeError) as caught:
        side.call(side.model(case), {"input_ids": np.array([[2, 3]]), **inputs})
    assert str(caught.value) == f"{'' if side is TORCH else 'TF'}XLMModel: {message}"


@each_side
def test_more_positions_than_the_table_with_positions_of_their_own(side):
    """Two sentences of translation modelling each start at 0."""
    model = side.model(BODY)
    ids = inputs_for(BODY, BODY.config(), "input_ids", T=20)["input_ids"]
    positions = np.concatenate([np.arange(12), np.arange(8)])[None].repeat(2, 0)
    found = side.run(model, {"input_ids": ids, "position_ids": positions})
    assert found["last_hidden_state"].shape == (2, 20, 12)


@pytest.mark.parametrize("case", [TEXTS, XLM["multiple_choice"]], ids=str)
@each_side
def test_a_summary_that_is_not_mapped_to_labels(side, case):
    """Is as wide as the states: a classifier needs as many labels."""
    prefix = "" if side is TORCH else "TF"
    message = (
        f"^{prefix}{case.head.name}: num_labels must be emb_dim=12 where the summary is not mapped to labels, got 3;"
    )
    for key in ("summary_use_proj", "summary_proj_to_labels"):
        with pytest.raises(ConfigError, match=message):
            side.model_class(case)(case.config(**{key: False}))
    config = case.config(summary_use_proj=False, num_labels=12)
    assert np.isfinite(side.run(side.model(case, config), inputs_for(case, config, "input_ids"))["logits"]).all()


@each_side
def test_choices_have_lengths_of_their_own(side):
    """Others drop them."""
    case = XLM["multiple_choice"]
    inputs = inputs_for(case, case.config(), "input_ids")
    model, lengths = side.model(case), np.array([[6, 2], [3, 4]])
    mask = (np.arange(6) < lengths[..., None]).astype("int64")
    wanted = side.run(model, {**inputs, "attention_mask": mask})
    assert_close(side.run(model, {**inputs, "lengths": lengths}), wanted, "equal")
    assert far(wanted["logits"], side.run(model, inputs)["logits"]) > 1e-3


def test_keras_graphs_read_caches_that_they_are_given():
    """Within one traced function, too."""
    tf = pytest.importorskip("tensorflow")
    config = LM.config(**CAUSAL)
    model, ids = KERAS.model(LM, config), inputs_for(LM, config, "input_ids", T=4)["input_ids"]

    @tf.function
    def twice(ids):
        cache = KERAS.towers.KeyValueCache()
        first = model(ids[:, :3], cache=cache).logits
        return tf.concat([first, model(ids, cache=cache).logits], axis=1)

    assert_close(
        KERAS.numpy(twice(tf.constant(ids))),
        flat(KERAS.call(model, {"input_ids": ids}), KERAS.numpy)["logits"],
        "equal",
    )
