"""`generate` in every family and both frameworks: rows of any lengths, chance, beams, ends. Its rules stand in
`tests/xlcore/test_choosing_words.py`."""

import re
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from tests.helpers import CLASSIFIER, KERAS, ROBERTA, TORCH, XLM, XLNET, each_side, random_weights
from tests.helpers import LM as TRANSFO
from tests.models.test_bugs import Watched
from xlcore import ConfigError, ShapeError
from xlcore.tasks.continuation import continue_texts
from xlcore.tasks.generation import GenerationOptions

DECODER = {"is_decoder": True, "max_position_embeddings": 40}
LONG = {"max_position_embeddings": 40, "pad_token_id": 0}
# A model of each kind that reads on in its own way, and what `generate` is told beside.
KINDS = {
    "memory": (TRANSFO, {}, {"pad_token_id": 1}),
    "no memory": (TRANSFO, {"mem_len": 0}, {"pad_token_id": 1}),
    "two streams": (XLNET["permutation_lm"], {"mem_len": None}, {}),
    "short memory": (XLNET["permutation_lm"], {"mem_len": 4}, {}),
    "two streams anew": (XLNET["permutation_lm"], {}, {"use_mems": False}),
    "cache": (XLM["word_lm"], {"causal": True, **LONG}, {"lang": 2}),
    "clusters": (
        XLM["word_lm"],
        {"causal": True, "asm": True, "asm_cutoffs": [9, 17], "asm_div_value": 2.0, "n_langs": 1, **LONG},
        {},
    ),
    "mask": (XLM["word_lm"], {"mask_token_id": 5, **LONG}, {}),
    "past": (ROBERTA["decoder_lm"], DECODER, {}),
    "distances": (ROBERTA["decoder_lm"], {**DECODER, "position_embedding_type": "relative_key"}, {}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
IN_BOTH = ("memory", "two streams", "cache", "mask", "past")
PROMPTS = [[8, 9, 10, 11], [12, 13], [14, 15, 16, 17], [18], [19, 20]]
WAYS = [
    {"repetition_penalty": 1.4},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": [4, 5, 6, 7, 8]},
    {"num_beams": 3, "length_penalty": 0.5, "num_return_sequences": 2, "eos_token_id": [3, 4]},
]


READ_IN_FULL = {"temperature": 1.0, "top_k": 1}  # the likeliest words, by the scores of all


def model_of(side, kind):
    """Build a model whose words differ and are not near each other."""
    case, keys, _ = KINDS[kind]
    config = case.config(**keys)
    drawn = random_weights(case, config, seed=3)
    weights = {name: 0 * value if name.endswith("bias") else 3 * value for name, value in drawn.items()}
    return side.model(case, config, weights=weights)


def generated(side, model, kind, ids, count=6, **keys):
    return side.numpy(side.towers.generate(model, ids, count, **{**KINDS[kind][2], **keys}))


# ------------------------------------------------------------------------------------------------- rows of any lengths


def assert_rows_alone(side, model, kind, way, together, numbers):
    """Hold some rows against what is written where each is the only one."""
    R = way.get("num_return_sequences", 1)
    for number in numbers:
        own = {**way, "seed": way["seed"][number]} if "seed" in way else way
        alone = generated(side, model, kind, [PROMPTS[number]], **own)
        rows = together[R * number : R * (number + 1)]
        np.testing.assert_array_equal(rows[:, : alone.shape[1]], alone)
        assert len(set(rows[:, alone.shape[1] :].ravel())) <= 1


@each_kind
def test_a_row_is_what_it_is_alone(kind):
    """Among rows of other lengths: the likeliest words, those by chance, and beams; some write what others do not."""
    model, written = model_of(TORCH, kind), set()
    for way in WAYS:
        together = generated(TORCH, model, kind, PROMPTS, **way)
        assert_rows_alone(TORCH, model, kind, way, together, (0, 1, 3))
        R = len(together) // 5
        written |= {tuple(row[len(PROMPTS[place // R]) :][:6]) for place, row in enumerate(together)}
    assert len(written) > 5


@pytest.mark.parametrize("kind", IN_BOTH)
def test_both_frameworks_write_the_same(kind):
    models = {side: model_of(side, kind) for side in (TORCH, KERAS)}
    for way in WAYS:
        wanted = generated(TORCH, models[TORCH], kind, PROMPTS, **way)
        np.testing.assert_array_equal(generated(KERAS, models[KERAS], kind, PROMPTS, **way), wanted)
        assert_rows_alone(KERAS, models[KERAS], kind, way, wanted, (1,))


@each_side
def test_padding_is_not_read(side):
    """On either side of a text, as an array of the framework or as lists."""
    model, prompts = model_of(side, "past"), [[8, 9, 10], [11], [12, 13, 14]]
    wanted = generated(side, model, "past", prompts, count=3)
    for before, native in ((True, side.native), (False, side.native), (True, np.ndarray.tolist)):
        gaps = [(3 - len(row), 0)[:: 1 if before else -1] for row in prompts]
        ids = np.stack([np.pad(row, gap, constant_values=1) for row, gap in zip(prompts, gaps, strict=True)])
        mask = np.stack([np.pad(np.ones_like(row), gap) for row, gap in zip(prompts, gaps, strict=True)])
        found = generated(side, model, "past", native(ids), count=3, attention_mask=native(mask))
        np.testing.assert_array_equal(found, wanted)


@each_side
def test_what_comes_back(side):
    """In the dtype of what was given, filled up with what is told, or an end, or the padding of the config."""
    model = model_of(side, "past")
    for dtype in ("int32", "int64"):
        assert generated(side, model, "past", side.native(np.array([[8, 9]], dtype)), count=1).dtype == dtype
    for keys, filling in (({}, 1), ({"eos_token_id": [30, 2]}, 30), ({"eos_token_id": 2, "pad_token_id": 7}, 7)):
        found = generated(side, model, "past", [[8, 9, 10], [11]], count=1, **keys)
        assert found.shape == (2, 4)
        assert (found[1, 2:] == filling).all()


# ------------------------------------------------------------------------------------------------------------- beams


class Replayed:
    """Reads every text from its prompt on again, word by word and alone, so that there is nothing to reorder."""

    def __init__(self, begin, starts):
        self.begin, self.starts = begin, starts

    def read(self, texts):
        return np.concatenate([self.read_alone(text) for text in texts])

    def read_alone(self, text):
        reader, first = self.begin(), self.starts[int(text[0])]
        return [reader.read(text[None, :T]) for T in range(first, len(text) + 1)][-1]

    def choose(self, rows):
        pass


@each_kind
def test_beams_go_on_from_what_they_have_read(kind):
    """What is remembered follows the beams, as if each had been read alone."""
    generation, model = import_module(f"{TORCH.towers.__name__}.generation"), model_of(TORCH, kind)
    keys = {"num_beams": 4, "length_penalty": 0.0, "num_return_sequences": 4, "eos_token_id": 3, "pad_token_id": 3}
    told = KINDS[kind][2]

    def begin():
        scores, kept = generation._reader(model, options, told.get("lang"), told.get("use_mems"))
        return generation.Reader(scores, kept, "cpu")

    prompts = [[8, 9, 10, 11], [14, 15, 16, 17], [12, 13]]
    options = GenerationOptions(7, **keys)
    with without_gradients():
        replayed = Replayed(begin, {row[0]: len(row) for row in prompts})
        wanted = continue_texts([np.array(row) for row in prompts], options, lambda: replayed)
    found = generated(TORCH, model, kind, prompts, count=7, **keys)
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(found[:, 4:], axis=0)) > 4


def without_gradients():
    return pytest.importorskip("torch").no_grad()


SMALL = {
    "past": (ROBERTA["decoder_lm"], {"vocab_size": 5, **DECODER}),
    "memory": (TRANSFO, {"vocab_size": 5, "cutoffs": [2], "mem_len": 9, "div_val": 1, "d_embed": 12, "clamp_len": -1}),
    "cache": (XLM["word_lm"], {"vocab_size": 5, "causal": True, **LONG, "pad_token_id": 4, "n_langs": 1}),
}


@pytest.mark.parametrize("kind", SMALL)
@each_side
def test_the_best_of_all_texts_is_found(side, kind):
    """With a beam for each text of three words, of four; all 625 are scored at once, by a model that keeps nothing."""
    case, keys = SMALL[kind]
    config = case.config(**keys)
    model = side.model(case, config, weights=random_weights(case, config, seed=5))
    start, end = [0, 3, 2], 1
    every = np.stack(np.meshgrid(*[np.arange(5)] * 4, indexing="ij"), -1).reshape(-1, 4)
    ids = np.concatenate([np.repeat([start], 625, 0), every], axis=1)
    options = {"attention_mask": np.ones_like(ids)} if kind == "cache" else {}
    scores = side.run(model, {"input_ids": ids, **options})
    scores = scores["prediction_scores" if kind == "memory" else "logits"][:, 2:6].astype("float64")
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    picked = np.take_along_axis(logs, every[..., None], axis=-1)[..., 0]
    for length_penalty in (0.0, 1.0, 2.0) if side is TORCH else (1.0,):
        sums = {}
        for words, each in zip(every, picked, strict=True):
            n = next((place + 1 for place in range(4) if words[place] == end), 4)
            sums[tuple(words[:n])] = each[:n].sum() / n**length_penalty
        wanted = sorted(sums, key=sums.get, reverse=True)[:8]
        keys = {"num_beams": 125, "num_return_sequences": 8, "length_penalty": length_penalty, "pad_token_id": 9}
        found = side.numpy(side.towers.generate(model, [start], 4, eos_token_id=end, early_stopping="never", **keys))
        assert [tuple(word for word in row[3:] if word != 9) for row in found] == wanted


# --------------------------------------------------------------------------------------------- words as they come, ends


@each_side
def test_words_as_they_come(side):
    told, model = [], model_of(side, "memory")
    found = generated(side, model, "memory", [[8, 9, 10], [11]], streamer=told.append)
    assert len(told) == 12
    assert [new[0] for new in told[:6]] == found[0, 3:].tolist()
    assert [new[1] for new in told[6:]] == found[1, 1:7].tolist()


@pytest.mark.parametrize("kind", ["memory", "two streams", "cache", "past"])
def test_ends(kind):
    """Behind one of several words, or several in a row; a row that has ended changes no other."""
    model, prompts = model_of(TORCH, kind), PROMPTS[:3]
    free = generated(TORCH, model, kind, prompts, count=8)
    cut = generated(
        TORCH, model, kind, prompts, count=8, eos_token_id=[int(free[0, 5]), int(free[1, 3])], pad_token_id=1
    )
    stopped = generated(TORCH, model, kind, prompts, count=8, stop=[free[2, 5:7].tolist()], pad_token_id=1)
    for row, start in enumerate(map(len, prompts)):
        written = free[row, start : start + 8]
        n = next((place + 1 for place in range(8) if written[place] in (free[0, 5], free[1, 3])), 8)
        np.testing.assert_array_equal(cut[row, start : start + n], written[:n])
        assert (cut[row, start + n :] == 1).all()
    n = next(place for place in range(1, 8) if (free[2, 3 + place : 5 + place] == free[2, 5:7]).all())
    np.testing.assert_array_equal(stopped[2, : n + 5], free[2, : n + 5])
    assert (stopped[2, n + 5 :] == 1).all()


def test_chance_is_another_for_each_place_and_seed():
    """Rows alike differ; another seed gives other words."""
    model, ids = model_of(TORCH, "past"), [[8, 9]] * 4
    found = {seed: generated(TORCH, model, "past", ids, temperature=20.0, seed=seed) for seed in (0, 1)}
    assert len(np.unique(np.concatenate(list(found.values())), axis=0)) == 8
    np.testing.assert_array_equal(generated(TORCH, model, "past", ids, temperature=20.0, do_sample=True), found[0])


@pytest.mark.parametrize("kind", ["memory", "no memory", "clusters"])
@each_side
def test_clusters_where_the_likeliest_word_cannot_be_are_not_looked_into(side, kind):
    """And what is written is what all scores would have: words of all clusters, or of none."""
    model = model_of(side, kind)
    wanted = generated(side, model, kind, PROMPTS, **READ_IN_FULL)
    np.testing.assert_array_equal(generated(side, model, kind, PROMPTS), wanted)
    rare = KINDS[kind][0].config(**KINDS[kind][1])
    first = (rare.asm_cutoffs if kind == "clusters" else rare.cutoffs)[0]
    assert {*np.unique(wanted[:, 4:])} - {*range(first), 1}
    weights = side.weights(model)
    clusters = [name for name in weights if name.endswith("cluster.bias")]
    assert clusters
    frequent = side.model(KINDS[kind][0], rare, weights={**weights, **{name: weights[name] - 90 for name in clusters}})
    wanted, looks = generated(side, frequent, kind, PROMPTS, **READ_IN_FULL), []
    if side is TORCH:  # in Keras both ways stand in compiled code
        frequent.crit._tail = lambda *given: looks.append(given)
    np.testing.assert_array_equal(generated(side, frequent, kind, PROMPTS), wanted)
    assert looks == []


def test_one_compiled_step_for_all_texts():
    """Of Transformer-XL in Keras: traced once, and anew where the config has changed; weights are read at each step."""
    pytest.importorskip("keras")
    watched = Watched(model_of(KERAS, "memory"))
    generated(KERAS, watched, "memory", [PROMPTS[0]], **READ_IN_FULL)
    generated(KERAS, watched, "memory", [PROMPTS[1]], count=9, **READ_IN_FULL)
    assert watched.lengths == [4, 1, 2]
    case, config = TRANSFO, TRANSFO.config()
    for keys, lengths in (({}, [4]), ({"clamp_len": 3}, [4, 1])):
        watched.lengths.clear()
        config.update(**keys)
        watched.model.config.update(**keys)
        weights = random_weights(case, config, seed=8)
        KERAS.set(watched.model, weights)
        wanted = generated(TORCH, TORCH.model(case, config, weights=weights), "memory", [PROMPTS[0]])
        np.testing.assert_array_equal(generated(KERAS, watched, "memory", [PROMPTS[0]], **READ_IN_FULL), wanted)
        assert watched.lengths == lengths


@pytest.mark.parametrize("kind", ["cache", "clusters", "past", "distances"])
def test_one_compiled_step_for_all_texts_of_about_one_length(monkeypatch, kind):
    """Of a cache in Keras: traced once, and anew where the config has changed; weights are read at each step."""
    steps, traced = pytest.importorskip("xl_tf.layers.steps"), []
    made = steps.KeyValueCache
    monkeypatch.setattr(steps, "KeyValueCache", lambda: traced.append(1) or made())
    case, keys, _ = KINDS[kind]
    model = model_of(KERAS, kind)
    for seed, told, count in ((8, {}, 1), (9, {}, 1), (9, {"output_hidden_states": True}, 2)):
        config = case.config(**keys, **told)
        model.config.update(**told)
        weights = random_weights(case, config, seed=seed)
        KERAS.set(model, weights)
        twin = TORCH.model(case, config, weights=weights)
        for ids, words in ((PROMPTS[:1], 6), (PROMPTS[1:2], 9)):
            wanted = generated(TORCH, twin, kind, ids, words)
            np.testing.assert_array_equal(generated(KERAS, model, kind, ids, words), wanted)
        assert len(traced) == count


@pytest.mark.parametrize("kind", ["memory", "two streams", "cache", "past"])
def test_a_compiled_step_follows_variables_that_take_the_place_of_others(kind):
    """Keras' adapters of low rank, beside a model whose weights are what they make of them."""
    pytest.importorskip("keras")
    model, merged = model_of(KERAS, kind), model_of(KERAS, kind)
    before = generated(KERAS, model, kind, PROMPTS[:1])
    out, rng = model.body().blocks[0].attention.out, np.random.default_rng(0)
    out.enable_lora(2)
    for adapter in (out.lora_kernel_a, out.lora_kernel_b):
        adapter.assign(2 * rng.standard_normal(adapter.shape))
    merged.body().blocks[0].attention.out.kernel.assign(out.kernel)
    wanted = generated(KERAS, merged, kind, PROMPTS[:1])
    assert (wanted != before).any()
    np.testing.assert_array_equal(generated(KERAS, model, kind, PROMPTS[:1]), wanted)


@pytest.mark.parametrize("kind", ["cache", "past"])
@each_side
def test_a_model_without_layers_writes_too(side, kind):
    case, keys, _ = KINDS[kind]
    config = case.config(**keys, **{"cache": {"n_layers": 0}, "past": {"num_hidden_layers": 0}}[kind])
    model = side.model(case, config)
    text = generated(side, model, kind, PROMPTS[:1])
    inputs = {"input_ids": text[:, :-1]} | ({"langs": np.full_like(text[:, :-1], 2)} if kind == "cache" else {})
    np.testing.assert_array_equal(side.run(model, inputs)["logits"].argmax(-1)[:, 3:], text[:, 4:])


@pytest.mark.parametrize("kind", ["memory", "two streams", "cache", "past"])
def test_nothing_is_dropped_in_training(kind):
    """What learns goes on learning, and what did not does not begin to."""
    model = model_of(TORCH, kind)
    wanted = generated(TORCH, model, kind, PROMPTS[:2])
    model.train()
    model.body().blocks[0].eval()
    before = [part.training for part in model.modules()]
    np.testing.assert_array_equal(generated(TORCH, model, kind, PROMPTS[:2]), wanted)
    assert [part.training for part in model.modules()] == before
    assert len(set(before)) == 2
    with pytest.raises(ShapeError, match=r"ids must lie in \[0, 31\)"):
        generated(TORCH, model, kind, [[40]])
    assert [part.training for part in model.modules()] == before


# ------------------------------------------------------------------------------------------------------ what is refused


@each_side
def test_what_writes_no_words(side):
    for case in (CLASSIFIER, XLM["sequence_classification"], XLNET["base"]):
        model = side.model(case)
        message = f"^generate: model must be a language model, got {type(model).__name__}$"
        with pytest.raises(ConfigError, match=message):
            side.towers.generate(model, [[2, 3]], 2)
    for model in ((KERAS if side is TORCH else TORCH).model(TRANSFO), SimpleNamespace(config=TRANSFO.config())):
        message = f"^generate: model must be a language model, got {type(model).__name__}$"
        with pytest.raises(ConfigError, match=message):
            side.towers.generate(model, [[2, 3]], 2)


@each_side
def test_languages_that_a_model_does_not_have(side):
    model = model_of(side, "cache")
    for lang, told in ((3, "lie in [0, n_langs=3), got 3"), (-1, "be at least 0, got -1"), ("fr", "be a whole number")):
        with pytest.raises(ConfigError, match=f"^generate: lang must {re.escape(told)}"):
            generated(side, model, "cache", [[8, 9]], lang=lang)
    with pytest.raises(ConfigError, match=r"^generate: lang must be given for models with languages only, got 0$"):
        generated(side, model_of(side, "clusters"), "clusters", [[8, 9]], lang=0)


def test_what_is_compiled_is_read_as_it_is():
    """A text grows by a word in each step: code compiled for one step would be compiled anew for the next."""
    torch = pytest.importorskip("torch")
    calls = []
    for kind in ("memory", "past"):
        model = model_of(TORCH, kind)
        compiled = torch.compile(model, backend=lambda *given: calls.append(given))
        found = generated(TORCH, compiled, kind, PROMPTS)
        np.testing.assert_array_equal(found, generated(TORCH, model, kind, PROMPTS))
        assert calls == []


# Words that a text can have, the one behind the last that is read included; a mask needs a place of its own.
ROOM = {"cache": (40, 41), "mask": (40, 40), "past": (38, 39), "distances": (40, 41)}


@pytest.mark.parametrize("kind", ROOM)
@each_side
def test_texts_that_would_outgrow_a_model(side, kind):
    """They are refused before the first step, and not a word too early."""
    model, (positions, most) = model_of(side, kind), ROOM[kind]
    prompts, steps = [[8] * (most - 3), [9]], []
    told = rf"at most 3 behind a text of {most - 3} words, for the model's {positions} positions, got 4$"
    with pytest.raises(ConfigError, match=rf"^generate: max_new_tokens must be {told}"):
        generated(side, model, kind, prompts, 4, streamer=steps.append, pad_token_id=0)
    assert steps == []
    assert generated(side, model, kind, prompts, 3, pad_token_id=0).shape == (2, most)
    told = f"texts must have at most {most - 1} words to be continued, for the model's {positions} positions"
    with pytest.raises(ShapeError, match=rf"^generate: {told}, got {most}$"):
        generated(side, model, kind, [[8] * most], 1)
    assert generated(side, model, kind, [[8] * most], 0).shape == (1, most)


@each_side
def test_scores_that_are_no_numbers(side):
    """In every way of writing; and in a later step than the first."""
    for way in ({}, {"temperature": 1.0}, {"num_beams": 2}):
        model = model_of(side, "cache")
        weights = {name: np.full_like(value, np.nan) for name, value in side.weights(model).items()}
        model = side.model(XLM["word_lm"], model.config, weights=weights)
        with pytest.raises(ShapeError, match=r"^generate: the model's scores must be numbers, got nan in step 1$"):
            generated(side, model, "cache", [[8, 9]], 2, **way)


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_step_is_told_whose_scores_are_no_numbers(way, value):
    def read(texts):
        return np.full((len(texts), 5), value if texts.shape[1] == 4 else 1.0)

    reader = SimpleNamespace(read=read, choose=lambda rows: None)
    options = GenerationOptions(9, pad_token_id=0, **way)
    with pytest.raises(ShapeError, match=rf"^generate: the model's scores must be numbers, got {value} in step 3$"):
        continue_texts([np.array([1, 2])], options, lambda: reader)


@each_side
def test_prompts_that_cannot_be_read(side):
    model = model_of(side, "past")
    for ids, keys, told in (
        ([[1, 2], []], {}, "input_ids must have at least one word in each row, got none in row 1"),
        (7, {}, "input_ids must be of shape [B, T] or a list of rows, got 7"),
        ([[1, 2]], {"attention_mask": [[1, 0], [1, 1]]}, "attention_mask must have an entry for each word"),
    ):
        with pytest.raises(ShapeError, match=f"^generate: {re.escape(told)}"):
            side.towers.generate(model, ids, 2, **keys)
    both_ways = side.model(XLNET["permutation_lm"], XLNET["permutation_lm"].config(bi_data=True))
    with pytest.raises(ShapeError, match=r"^generate: texts must be of one length with bi_data, got \[1, 2\]$"):
        side.towers.generate(both_ways, [[8], [8, 9]], 2)
    with pytest.raises(ConfigError, match=r"^generate: num_beams must be 1 to draw words, got 2$"):
        side.towers.generate(model, [[8]], 2, num_beams=2, temperature=1.0)
