"""XLNet continues texts: equal to reading on with `mems`, and to transformers, without projecting anything twice."""

import numpy as np
import pytest

from tests.helpers import HEADS, KERAS, TORCH, XLNET, assert_close, each_side, far, random_weights
from xlcore import ConfigError, ShapeError

LM, BODY = XLNET["permutation_lm"], XLNET["base"]
ALL = {"mem_len": None}
CONFIGS = [
    ALL,
    {"mem_len": 6, "n_layer": 1},
    {"mem_len": 3, "clamp_len": 2},
    {"mem_len": 2},
    {"mem_len": 5, "reuse_len": 3},
    {"mem_len": None, "reuse_len": 4},
    {"mem_len": 9, "reuse_len": 2},
    {"mem_len": None, "bi_data": True},
    {"mem_len": 7, "attn_type": "uni"},
]
each_config = pytest.mark.parametrize("keys", CONFIGS, ids=str)


def prompt(P, B=2, seed=0):
    return np.random.default_rng(seed).integers(6, 31, (B, P)).astype("int32")


def weights_of(config):
    """Draw weights so large that texts do not end in one word again and again."""
    drawn = random_weights(LM, config, seed=3)
    return {name: 0 * value if name.endswith("bias") else 3 * value for name, value in drawn.items()}


def model_of(side, **keys):
    config = LM.config(**keys)
    return side.model(LM, config, weights=weights_of(config))


def generated(side, model, ids, count, **keys):
    return side.numpy(side.towers.generate(model, side.native(ids), count, **keys))


def by_mems(model, texts, count, use_mems=True):
    """Continue texts as transformers does: a word that nobody sees behind them, and memory from call to call."""
    mems, scores = None, []
    for _ in range(count):
        read = texts if mems is None else texts[:, -2:]
        B, T = read.shape[0], read.shape[1] + 1
        hidden = np.zeros((B, T, T), "float32")
        hidden[..., -1] = 1
        given = {"input_ids": np.pad(read, ((0, 0), (0, 1))), "perm_mask": hidden}
        given["target_mapping"] = np.repeat(np.eye(T, dtype="float32")[None, -1:], B, axis=0)
        found = TORCH.run(model, {**given, "mems": mems, "use_mems": use_mems})
        mems = [found[f"mems.{layer}"][:-2] for layer in range(model.config.n_layer)] if use_mems else None
        scores.append(found["logits"][:, 0])
        texts = np.concatenate([texts, scores[-1].argmax(-1)[:, None].astype("int32")], axis=1)
    return texts, np.stack(scores)


def read_on(side, model, texts, P):
    """Return the scores of each word behind the first P of texts."""
    from importlib import import_module

    reading = import_module(f"{side.towers.__name__}.layers.reading")
    reader = reading.TextReader(model, texts.shape[1] - P, True)
    return np.stack([side.numpy(reader.scores(side.native(texts[:, :T]))) for T in range(P, texts.shape[1])])


# ------------------------------------------------------------------------------------------------- the same as by mems


@each_config
@each_side
def test_generation_is_what_reading_on_with_mems_gives(side, keys):
    """Every score, past the end of memory, from prompts of one word and of several."""
    config = LM.config(**keys)
    model = side.model(LM, config)
    for P in (1, 4):
        texts, scores = by_mems(TORCH.model(LM, config), prompt(P), 14)
        assert_close(read_on(side, model, texts, P), scores, "equal")
        np.testing.assert_array_equal(generated(side, model, prompt(P), 14), texts)


@pytest.mark.parametrize("keys", [ALL, {"use_mems_eval": False}], ids=str)
@each_side
def test_generation_without_memory_reads_everything_anew(side, keys):
    """Asked for, or as the config says; what is asked for counts."""
    model, ids = model_of(side, **keys), prompt(3)
    plain, _ = by_mems(model_of(TORCH, **keys), ids, 6, use_mems=False)
    remembered, _ = by_mems(model_of(TORCH, **keys), ids, 6)
    assert (plain != remembered).any()
    np.testing.assert_array_equal(generated(side, model, ids, 6, use_mems=False), plain)
    np.testing.assert_array_equal(generated(side, model, ids, 6, use_mems=True), remembered)
    as_configured = plain if keys.get("use_mems_eval") is False else remembered
    np.testing.assert_array_equal(generated(side, model, ids, 6), as_configured)


@each_side
def test_a_row_does_not_depend_on_its_batch(side):
    model, ids = model_of(side, **ALL), prompt(4, B=3)
    together = generated(side, model, ids, 8)
    for row in range(3):
        np.testing.assert_array_equal(generated(side, model, ids[row : row + 1], 8)[0], together[row])
    assert len(np.unique(together[:, 4:], axis=0)) == 3


@each_side
def test_the_memory_s_length_can_be_set_anew(side):
    model, ids = model_of(side, mem_len=9), prompt(4)
    model.reset_memory_length(4)
    np.testing.assert_array_equal(generated(side, model, ids, 12), by_mems(model_of(TORCH, mem_len=4), ids, 12)[0])


# ------------------------------------------------------------------------------------- ends, chance, kinds of numbers


@each_side
def test_texts_that_have_ended_are_filled_up(side):
    """Each after its own end; all stop with the last."""
    model, ids = model_of(side, **ALL), prompt(4, B=2)
    free = generated(side, model, ids, 10)[:, 4:]
    end = free[0, 2]
    wanted = [int(np.argmax(row == end)) if (row == end).any() else 10 for row in free]
    found = generated(side, model, ids, 10, eos_token_id=int(end), pad_token_id=5)[:, 4:]
    assert wanted[0] <= 2
    assert wanted[1] != wanted[0]
    assert found.shape[1] == min(10, max(wanted) + 1)
    for row in range(2):
        kept = min(wanted[row] + 1, found.shape[1])
        np.testing.assert_array_equal(found[row, :kept], free[row, :kept])
        assert (found[row, kept:] == 5).all()
    filled = generated(side, model, ids, 10, eos_token_id=int(end))[:, 4:]
    np.testing.assert_array_equal(filled, np.where(found == 5, end, found))


def test_chance_is_the_same_in_both_frameworks():
    texts = {}
    for side in (TORCH, KERAS):
        model = model_of(side, **ALL)
        texts[side] = generated(side, model, prompt(3), 12, temperature=3.0, top_k=9, seed=4)
        assert (generated(side, model, prompt(3), 12, temperature=3.0, top_k=9, seed=5) != texts[side]).any()
    np.testing.assert_array_equal(texts[TORCH], texts[KERAS])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@each_side
def test_generation_in_half_precision(side, dtype):
    """Scores stay near those of float32."""
    config = LM.config(mem_len=6)
    texts, scores = by_mems(TORCH.model(LM, config), prompt(3), 9)
    found = read_on(side, side.model(LM, config, dtype=dtype), texts, 3).astype("float32")
    assert np.isfinite(found).all()
    assert far(found, scores) < {"float16": 0.05, "bfloat16": 0.4}[dtype] * np.abs(scores).max()


def test_generation_under_automatic_mixed_precision():
    torch = pytest.importorskip("torch")
    model = TORCH.model(LM, LM.config(mem_len=6))
    with torch.autocast("cpu", torch.bfloat16):
        assert generated(TORCH, model, prompt(3), 9).shape == (2, 12)


# ----------------------------------------------------------------------------------------------- what is not computed


def test_nothing_that_was_read_is_projected_again():
    """Each step two rows of keys and values a layer, three of queries; distances twice, at the start."""
    pytest.importorskip("torch")
    model, seen = TORCH.model(LM, LM.config(**ALL)), []
    for number, block in enumerate(model.transformer.blocks):
        for part in ("query", "key", "value", "position"):
            layer, name = getattr(block.attention, part), f"{number}.{part}"
            layer.register_forward_pre_hook(lambda _, given, name=name: seen.append((name, given[0].shape[1])))
    generated(TORCH, model, prompt(4), 3)
    rows = {name: [count for other, count in seen if other == name] for name, _ in seen}
    for number in range(2):
        assert rows[f"{number}.key"] == rows[f"{number}.value"] == [4, 2, 2]
        assert rows[f"{number}.query"] == ([5, 3, 3] if number == 0 else [1, 1, 1])  # of the last one only the guess
        assert rows[f"{number}.position"] == [10, 7 + 2 * 3]  # of the prompt; of all steps, 7 words and 3 rows each way


@pytest.mark.parametrize("mem_len", [None, 5])
def test_keys_and_values_stay_where_they_are(mem_len):
    """In tensors made once, which with a length of memory do not grow with the text."""
    pytest.importorskip("torch")
    from xl_torch.layers.reading import TextReader

    reader, texts = TextReader(TORCH.model(LM, LM.config(mem_len=mem_len)), 60, True), prompt(4)
    places = set()
    for _ in range(60):
        scores = reader.scores(TORCH.native(texts))
        texts = np.concatenate([texts, scores.argmax(-1).numpy()[:, None].astype("int32")], axis=1)
        places |= {store.data_ptr() for keys in reader.layers for store in keys}
        assert reader.layers[0].key.shape[2] == (64 if mem_len is None else 13)
    assert len(places) == 3 * 2


def test_one_compiled_step_for_all_texts_of_about_one_length(monkeypatch):
    """Traced once; anew where the config has changed or the vocabulary. Weights are read at each step."""
    pytest.importorskip("keras")
    from xl_tf.layers.reading import TextReader

    traced, model, config = [], KERAS.model(LM, LM.config(**ALL)), LM.config(**ALL)
    stepped = TextReader._stepped
    monkeypatch.setattr(TextReader, "_stepped", lambda self, *given: traced.append(1) or stepped(self, *given))
    generated(KERAS, model, prompt(4), 9)
    assert generated(KERAS, model, prompt(2), 20).shape == (2, 22)
    assert len(traced) == 1
    weights = random_weights(LM, config, seed=8)
    KERAS.set(model, weights)
    wanted = by_mems(TORCH.model(LM, config, weights=weights), prompt(4), 9)[0]
    np.testing.assert_array_equal(generated(KERAS, model, prompt(4), 9), wanted)
    assert len(traced) == 1
    model.config.reuse_len = 4
    other = TORCH.model(LM, LM.config(**ALL, reuse_len=4), weights=weights)
    np.testing.assert_array_equal(generated(KERAS, model, prompt(4), 9), by_mems(other, prompt(4), 9)[0])
    assert len(traced) == 2
    model.resize_token_embeddings(25)
    assert generated(KERAS, model, prompt(4) % 25, 9).max() < 25


# ------------------------------------------------------------------------------------------------------------- refused


@each_side
def test_what_cannot_be_continued(side):
    ids = side.native(prompt(3))
    prefix = "" if side is TORCH else "TF"
    with pytest.raises(ConfigError, match=f"^generate: model must be a language model, got {prefix}XLNetModel$"):
        side.towers.generate(side.model(BODY), ids, 2)
    blind = side.model(LM, LM.config(attn_type="uni", same_length=True))
    with pytest.raises(ConfigError, match=r"^generate: same_length must be false for a guess .*, got true$"):
        side.towers.generate(blind, ids, 2)
    with pytest.raises(ConfigError, match=r"^generate: use_mems must be given for XLNet only, got False$"):
        side.towers.generate(side.model(HEADS[1]), ids, 2, use_mems=False)
    with pytest.raises(ConfigError, match=r"^generate: lang must be given for models with languages only, got 1$"):
        side.towers.generate(side.model(LM), ids, 2, lang=1)
    with pytest.raises(
        ShapeError, match=r"^generate: input_ids must have at least one word in each row, got none in row 0$"
    ):
        side.towers.generate(side.model(LM), ids[:, :0], 2)
    with pytest.raises(ShapeError, match=r"XLNetModel: a batch must have an even number .* bi_data, got 1"):
        side.towers.generate(side.model(LM, LM.config(bi_data=True)), ids[:1], 2)
    with pytest.raises(ShapeError, match=r"ids must lie in \[0, 31\), got 52"):
        side.towers.generate(side.model(LM), ids + 25, 2)
    np.testing.assert_array_equal(side.numpy(side.towers.generate(side.model(LM), ids, 0)), prompt(3))
