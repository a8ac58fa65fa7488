"""What holds of XLM-RoBERTa-XL alone: who sees what, where words stand, reading on, an encoder's states, distances."""

import gc
import re
import weakref

import numpy as np
import pytest

from tests.helpers import KERAS, ROBERTA, TORCH, Case, assert_close, each_side, far, flat, inputs_for, random_weights
from xlcore import ConfigError, ShapeError

BODY, MASKED, LM, TEXTS, CHOICES, WORDS = (
    ROBERTA[kind]
    for kind in (
        "base",
        "masked_lm",
        "decoder_lm",
        "sequence_classification",
        "multiple_choice",
        "token_classification",
    )
)
DECODER = {"is_decoder": True}
CROSSED = DECODER | {"add_cross_attention": True}
KINDS = ("absolute", "relative_key", "relative_key_query")
EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


def prefixed(side, name):
    return name if side is TORCH else f"TF{name}"


def refused(side, error, message):
    return pytest.raises(error, match=f"^{'' if side is TORCH else 'TF'}{re.escape(message)}$")


def states(B=2, M=4, seed=8):
    return np.random.default_rng(seed).standard_normal((B, M, 12)).astype("float32")


# ------------------------------------------------------------------------------------------------------- who sees what


@each_side
def test_a_mask_of_keys_and_one_of_queries_and_keys_say_the_same(side):
    """As numbers and as truth values; in a decoder the second says all, later words too."""
    ids = inputs_for(BODY, BODY.config(), "input_ids")
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]])
    for keys in ({}, DECODER | {"use_cache": False}):
        model = side.model(BODY, BODY.config(**keys))
        seen = np.broadcast_to(mask[:, None], (2, 6, 6)) * (np.tri(6, dtype=int) if keys else 1)
        wanted = side.run(model, {**ids, "attention_mask": mask, **EVERYTHING})
        for same in (mask == 1, seen, seen.astype("float32"), seen == 1):
            assert_close(side.run(model, {**ids, "attention_mask": same, **EVERYTHING}), wanted, "equal")
        np.testing.assert_array_equal(wanted["attentions.1"][1, 0] > 0, seen[1] > 0)
    later = np.broadcast_to(np.triu(np.ones((6, 6), int)), (2, 6, 6))
    probabilities = side.run(model, {**ids, "attention_mask": later, **EVERYTHING})["attentions.0"]
    np.testing.assert_array_equal(probabilities[0, 0] > 0, later[0] > 0)


@each_side
def test_padding_is_seen_unless_a_mask_hides_it(side):
    """As in transformers: ids alone hide nothing, though padding counts for no position."""
    config = BODY.config()
    ids = inputs_for(BODY, config, "input_ids")["input_ids"]
    ids[0, 4:] = config.pad_token_id
    model = side.model(BODY, config)
    seen = side.run(model, {"input_ids": ids, **EVERYTHING})
    assert (seen["attentions.0"] > 0).all()
    hidden = side.run(model, {"input_ids": ids, "attention_mask": (ids != 1).astype("int64")})
    alone = side.run(model, {"input_ids": ids[:1, :4]})
    assert_close(hidden["last_hidden_state"][:1, :4], alone["last_hidden_state"], "equal")
    assert_close(hidden["pooler_output"][:1], alone["pooler_output"], "equal")
    assert far(seen["last_hidden_state"][:1, :4], alone["last_hidden_state"]) > 1e-3


@pytest.mark.parametrize("keys", [{}, DECODER, CROSSED, {"position_embedding_type": "relative_key_query"}], ids=str)
@each_side
def test_a_query_that_sees_nothing_attends_to_all_alike(side, keys):
    """To later words, too, as in transformers 4; with probabilities and without; everything is a number."""
    config = BODY.config(**keys, use_cache=False)
    mask = np.array([[0, 1, 1, 0, 1, 1], [0] * 6, [0, 0, 0, 1, 1, 1]])
    inputs = inputs_for(BODY, config, "input_ids", B=3) | {"attention_mask": mask}
    if config.add_cross_attention:
        inputs |= {
            "encoder_hidden_states": states(3),
            "encoder_attention_mask": np.array([[1] * 4, [0] * 4, [0, 0, 0, 1]]),
        }
    model = side.model(BODY, config)
    found = side.run(model, {**inputs, **EVERYTHING})
    np.testing.assert_allclose(found["attentions.0"][1], 1 / 6, rtol=1e-6)
    if config.is_decoder:
        np.testing.assert_allclose(found["attentions.0"][2, :, :3], 1 / 6, rtol=1e-6)
        np.testing.assert_allclose(found["attentions.1"][0, :, 0], 1 / 6, rtol=1e-6)
    if config.add_cross_attention:
        np.testing.assert_allclose(found["cross_attentions.0"][1], 1 / 4, rtol=1e-6)
    plain = side.run(model, inputs)
    assert_close(plain, {name: found[name] for name in plain}, "golden")
    outputs, gradients = side.both(model, inputs)
    assert all(np.isfinite(value).all() for value in (*outputs.values(), *gradients.values()))
    half = side.run(side.model(BODY, config, dtype="float16"), inputs)
    assert all(np.isfinite(value).all() for value in half.values())


# ---------------------------------------------------------------------------------------------------- where words stand


@each_side
def test_words_count_from_behind_the_padding_id(side):
    """Padding counts for no position, wherever it stands; positions that are given count as they are."""
    config = BODY.config(pad_token_id=4)
    ids = np.array([[9, 4, 8, 7, 4, 4], [4, 4, 3, 2, 1, 0]])
    positions = np.array([[5, 4, 6, 7, 4, 4], [4, 4, 5, 6, 7, 8]])
    model = side.model(BODY, config)
    wanted = side.run(model, {"input_ids": ids})
    assert_close(side.run(model, {"input_ids": ids, "position_ids": positions}), wanted, "equal")
    for row in (positions[:1], positions[0]):
        found = side.run(model, {"input_ids": ids, "position_ids": row})
        assert_close(found, side.run(model, {"input_ids": ids, "position_ids": positions[[0, 0]]}), "equal")
    assert far(found["last_hidden_state"][1], wanted["last_hidden_state"][1]) > 1e-3


@each_side
def test_embeddings_stand_one_behind_the_other(side):
    config = BODY.config()
    embeds = inputs_for(BODY, config, "inputs_embeds")["inputs_embeds"]
    model = side.model(BODY, config)
    wanted = side.run(model, {"inputs_embeds": embeds, "position_ids": np.array([[2, 3, 4, 5, 6, 7]] * 2)})
    assert_close(side.run(model, {"inputs_embeds": embeds}), wanted, "equal")


@each_side
def test_the_longest_text(side):
    """18 positions, from the padding id 1 on: 16 words; padding takes no room."""
    config, model = BODY.config(), side.model(BODY)
    ids = np.full((1, 18), 5)
    ids[0, 3:5] = 1
    assert np.isfinite(side.run(model, {"input_ids": ids})["last_hidden_state"]).all()
    message = "XLMRobertaXLModel: position_ids must lie in [0, 18), for at most 16 words, got 18"
    with refused(side, ShapeError, message):
        side.call(model, {"input_ids": np.full((1, 17), 5)})
    with refused(side, ShapeError, message):
        side.call(model, {"inputs_embeds": np.zeros((1, 17, 12), "float32")})
    far_away = side.model(BODY, config.copy(position_embedding_type="relative_key"))
    side.call(far_away, {"input_ids": np.full((1, 18), 5)})
    with refused(side, ShapeError, "XLMRobertaXLModel: a text must have at most 18 words, got 19"):
        side.call(far_away, {"input_ids": np.full((1, 19), 5)})


@each_side
def test_wrong_inputs(side):
    model, name = side.model(BODY), "XLMRobertaXLModel"
    ids = np.array([[5, 6, 7]])
    for wrong, message in (
        ({"token_type_ids": np.array([[0, 3, 0]])}, f"{name}: token_type_ids must lie in [0, 3), got 3"),
        ({"position_ids": np.array([[0, 3, 18]])}, f"{name}: position_ids must lie in [0, 18), got 18"),
        ({"position_ids": np.array([0, 3])}, f"{name}: position_ids must have shape [T=3] or [B=1, T=3], got [2]"),
        (
            {"attention_mask": np.ones((1, 4))},
            f"{name}: attention_mask must have an entry for each of 3 words, 0 read before, got 4",
        ),
        (
            {"attention_mask": np.ones((1, 2, 3))},
            f"{name}: attention_mask must have shape [B=1, T=3, S] or [B=1, S], got [1, 2, 3]",
        ),
    ):
        with refused(side, ShapeError, message):
            side.call(model, {"input_ids": ids, **wrong})


# ------------------------------------------------------------------------------------------------------- by distance


@pytest.mark.parametrize("kind", KINDS[1:])
@each_side
def test_distances_are_scored_as_written(side, kind):
    """score(t, s) = query_t . key_s + query_t . distance_{t-s} (+ key_s . distance_{t-s}), then scaled."""
    config = BODY.config(position_embedding_type=kind)
    weights = random_weights(BODY, config)
    model = side.model(BODY, config, dtype="float64")
    T, P = 6, config.max_position_embeddings
    hidden = np.random.default_rng(4).standard_normal((2, T, 12))
    part = {name: weights[f"blocks.0.attention.{name}.weight"].astype("float64") for name in ("query", "key")}
    bias = {name: weights[f"blocks.0.attention.{name}.bias"].astype("float64") for name in part}
    query, key = ((hidden @ part[name].T + bias[name]).reshape(2, T, 3, 4) for name in ("query", "key"))
    table = weights["blocks.0.attention.distances.weight"].astype("float64")
    apart = table[np.arange(T)[:, None] - np.arange(T) + P - 1]  # [T, S, H]
    scores = np.einsum("btnh,bsnh->bnts", query, key) + np.einsum("btnh,tsh->bnts", query, apart)
    scores += np.einsum("bsnh,tsh->bnts", key, apart) if kind == KINDS[2] else 0
    shares = np.exp(scores / 2)
    attention = model.blocks[0].attention
    given = side.native(hidden, side.dtype("float64"))
    found = attention(given, *attention.keys(given), None, None, need_probabilities=True)[1]
    assert_close(side.numpy(found), shares / shares.sum(-1, keepdims=True), "float64")


# --------------------------------------------------------------------------------------------------------- reading on


@pytest.mark.parametrize("kind", KINDS)
@each_side
def test_cached_equals_uncached(side, kind):
    """By one word and by several, with tuples and with a cache, from words and from embeddings."""
    config = LM.config(**DECODER, position_embedding_type=kind)
    model = side.model(LM, config)
    drawn = inputs_for(LM, config, "input_ids", "inputs_embeds", "token_type_ids", T=9)
    for name in ("input_ids", "inputs_embeds"):
        inputs = {each: drawn[each] for each in (name, "token_type_ids")}
        whole = side.run(model, {**inputs, "use_cache": False, "output_hidden_states": True})
        for past, cuts in ((None, [1] * 9), (None, [4, 5]), (side.towers.KeyValueCache(), [2, 3, 4])):
            parts, read = [], 0
            for length in cuts:
                new = {each: side.native(value[:, read : read + length]) for each, value in inputs.items()}
                output = model(**new, past_key_values=past, use_cache=True, output_hidden_states=True)
                past, read = output.past_key_values, read + length
                rest = {each: value for each, value in output.items() if each != "past_key_values"}
                parts.append(flat(rest, side.numpy))
            for each, value in whole.items():
                assert_close(np.concatenate([part[each] for part in parts], axis=1), value, "equal", f"{each} {cuts}")


@each_side
def test_reading_on_behind_padding(side):
    """With a mask of all words each text goes on at its own count, padded on the left or on the right."""
    config = BODY.config(**DECODER)
    ids = np.array([[1, 1, 5, 6, 7, 8, 9], [5, 6, 7, 1, 1, 8, 9], [2, 3, 4, 5, 6, 7, 8]])
    mask = (ids != 1).astype("int64")
    model = side.model(BODY, config)
    whole = side.run(model, {"input_ids": ids, "attention_mask": mask, "use_cache": False})["last_hidden_state"]
    past, parts, read = None, [], 0
    for length in (5, 1, 1):
        new, read = ids[:, read : read + length], read + length
        given = {"input_ids": side.native(new), "attention_mask": side.native(mask[:, :read])}
        output = model(**given, past_key_values=past)
        past = output.past_key_values
        parts.append(side.numpy(output.last_hidden_state))
    found = np.concatenate(parts, axis=1)
    assert_close(found[mask == 1], whole[mask == 1], "equal")
    alone = side.run(model, {"input_ids": ids[:1, 2:]})["last_hidden_state"]
    assert_close(found[:1, 2:], alone, "equal")


@each_side
def test_tuples_are_those_that_transformers_has(side):
    """[B, N, S, H], keys and values of each layer, and of the encoder's states; none of an encoder."""
    config = BODY.config(**CROSSED)
    model, ids = side.model(BODY, config), inputs_for(BODY, config, "input_ids")
    found = side.call(model, {**ids, "encoder_hidden_states": states()}).past_key_values
    shapes = [(2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 4, 4), (2, 3, 4, 4)]
    assert [[tuple(each.shape) for each in layer] for layer in found] == [shapes, shapes]
    assert len(side.call(model, ids).past_key_values[0]) == 2
    assert side.call(model, {**ids, "use_cache": False}).past_key_values is None
    assert side.call(side.model(BODY, config.copy(use_cache=False)), ids).past_key_values is None
    assert side.call(side.model(BODY), {**ids, "use_cache": True}).past_key_values is None
    labelled = side.call(side.model(LM, config), {**ids, "labels": ids["input_ids"], "use_cache": True})
    assert labelled.past_key_values is None


@each_side
def test_tuples_in_the_order_of_transformers(side):
    """Without names what is there to read on comes before the hidden states; with names behind them."""
    config = BODY.config(**CROSSED)
    model = side.model(BODY, config)
    inputs = inputs_for(BODY, config, "input_ids") | {"encoder_hidden_states": states(), **EVERYTHING}
    named = side.call(model, inputs)
    first = ["last_hidden_state", "pooler_output"]
    rest = ["attentions", "cross_attentions"]
    assert list(named) == [*first, "hidden_states", "past_key_values", *rest]
    plain = side.call(model, {**inputs, "return_dict": False})
    assert [len(each) for each in plain[2:]] == [2, 3, 2, 2]
    assert isinstance(plain[2][0], tuple)


@each_side
def test_what_cannot_be_read_on_is_refused(side):
    ids, name = inputs_for(BODY, BODY.config(), "input_ids"), "XLMRobertaXLModel"
    cache = side.towers.KeyValueCache()
    message = f"{name}: is_decoder must be true to read on from past_key_values, got false"
    with refused(side, ConfigError, message):
        side.call(side.model(BODY), {**ids, "past_key_values": cache})
    model = side.model(BODY, BODY.config(**CROSSED))
    past = side.call(model, ids).past_key_values
    last = {"input_ids": ids["input_ids"][:, -1:]}
    short = tuple(tuple(each[:, :, :, :3] for each in layer) for layer in past)
    for wrong, message in (
        (past[:1], f"{name}: past_key_values must be a list of 2 layers, got 1"),
        (3, f"{name}: past_key_values must be a list of 2 layers, got int"),
        ((past[0], past[1][:1]), f"{name}: past_key_values[1] must be a key and a value, or two of each, got 1 arrays"),
        (short, f"{name}: past_key_values[0]: key must have shape [B, N=3, R, H=4], got [2, 3, 6, 3]"),
    ):
        with refused(side, ShapeError, message):
            model(side.native(last["input_ids"]), past_key_values=wrong)
    with refused(side, ShapeError, f"{name}: texts must be the 2 of past_key_values, got 1"):
        model(side.native(last["input_ids"][:1]), past_key_values=past)
    message = f"{name}: attention_mask must have an entry for each of 7 words, 6 read before, got 1"
    with refused(side, ShapeError, message):
        model(side.native(last["input_ids"]), attention_mask=side.native(np.ones((2, 1))), past_key_values=past)
    assert cache.length == 0


def test_a_call_that_keeps_nothing_keeps_nothing():
    """The keys of the first layer are gone when the third one starts."""
    torch = pytest.importorskip("torch")
    keys, alive = [], []
    for keep in (False, True):
        model = TORCH.model(BODY, BODY.config(**DECODER, num_hidden_layers=3))
        first, _, third = model.blocks
        first.attention.register_forward_pre_hook(lambda _, inputs: keys.append(weakref.ref(inputs[1])))
        third.attention.register_forward_pre_hook(lambda *_: alive.append((gc.collect(), keys[-1]() is not None)[1]))
        with torch.no_grad():
            model(TORCH.native(inputs_for(BODY, model.config, "input_ids")["input_ids"]), use_cache=keep)
    assert alive == [False, True]


# -------------------------------------------------------------------------------------------------- an encoder's states


@each_side
def test_cross_attention(side):
    """A mask [B, M] and one [B, T, M] say the same; hidden states of the encoder change nothing; heads are masked."""
    config = BODY.config(**CROSSED, use_cache=False)
    model, ids = side.model(BODY, config), inputs_for(BODY, config, "input_ids")
    mask = np.array([[1, 1, 0, 1], [1, 0, 0, 0]])
    wanted = side.run(model, {**ids, "encoder_hidden_states": states(), "encoder_attention_mask": mask, **EVERYTHING})
    each = np.broadcast_to(mask[:, None], (2, 6, 4))
    found = side.run(model, {**ids, "encoder_hidden_states": states(), "encoder_attention_mask": each, **EVERYTHING})
    assert_close(found, wanted, "equal")
    other = np.where(mask[..., None] == 1, states(), 99.0).astype("float32")
    found = side.run(model, {**ids, "encoder_hidden_states": other, "encoder_attention_mask": mask, **EVERYTHING})
    assert_close(found, wanted, "equal")
    np.testing.assert_array_equal(wanted["cross_attentions.0"][0, 0] > 0, each[0] == 1)
    heads = np.array([1, 0, 0.5], "float32")
    found = side.run(model, {**ids, "encoder_hidden_states": states(), "head_mask": heads, **EVERYTHING})
    for name in ("attentions.1", "cross_attentions.1"):
        np.testing.assert_allclose(found[name].sum(-1)[0, :, 0], heads, rtol=1e-5)


@each_side
def test_the_states_are_read_once(side):
    """Their keys and values are kept: other states, or none, change nothing any more; words alone are read anew."""
    config = LM.config(**CROSSED)
    model = side.model(LM, config)
    ids = side.native(inputs_for(LM, config, "input_ids")["input_ids"])
    mask, first = side.native(np.array([[1, 1, 0, 1], [1, 0, 0, 0]])), side.native(states())
    whole = model(ids, encoder_hidden_states=first, encoder_attention_mask=mask, use_cache=False).logits
    past = model(ids[:, :5], encoder_hidden_states=first, encoder_attention_mask=mask).past_key_values
    for given in (first, side.native(states(seed=9)), None):
        cached = model(ids[:, 5:], encoder_hidden_states=given, encoder_attention_mask=mask, past_key_values=past)
        assert_close(side.numpy(cached.logits), side.numpy(whole)[:, 5:], "equal")
    own = tuple(layer[:2] for layer in past)  # without those of the states they are read, not taken for them
    cached = model(ids[:, 5:], encoder_hidden_states=first, encoder_attention_mask=mask, past_key_values=own)
    assert_close(side.numpy(cached.logits), side.numpy(whole)[:, 5:], "equal")


@each_side
def test_states_that_nothing_reads_are_refused(side):
    ids, name = inputs_for(BODY, BODY.config(), "input_ids"), "XLMRobertaXLModel"
    for keys, key in (({}, "is_decoder"), (DECODER, "add_cross_attention")):
        message = f"{name}: {key} must be true to read encoder_hidden_states, got false"
        with refused(side, ConfigError, message):
            side.call(side.model(BODY, BODY.config(**keys)), {**ids, "encoder_hidden_states": states()})
    model = side.model(BODY, BODY.config(**CROSSED))
    message = f"{name}: encoder_hidden_states must be given with encoder_attention_mask, got none"
    with refused(side, ConfigError, message):
        side.call(model, {**ids, "encoder_attention_mask": np.ones((2, 4))})
    message = f"{name}: encoder_attention_mask must have shape [B=2, T=6, M=4] or [B=2, M=4], got [2, 5]"
    with refused(side, ShapeError, message):
        side.call(model, {**ids, "encoder_hidden_states": states(), "encoder_attention_mask": np.ones((2, 5))})
    message = f"{name}: is_decoder must be true with add_cross_attention, got false"
    with refused(side, ConfigError, message):
        side.model_class(BODY)(BODY.config(add_cross_attention=True))


# --------------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("kind", KINDS)
@each_side
def test_generation_reads_one_word_a_step(side, kind):
    """It continues as if it had read the whole text again at each step; padding in it counts for no position."""
    config = LM.config(**DECODER, position_embedding_type=kind)
    model = side.model(LM, config)
    ids = np.array([[5, 6, 7, 8], [1, 1, 9, 3]])
    texts, whole = side.numpy(side.towers.generate(model, side.native(ids), 8)), ids
    for _ in range(8):
        scores = side.run(model, {"input_ids": whole, "use_cache": False})["logits"][:, -1]
        whole = np.concatenate([whole, scores.argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(texts, whole)
    read = []
    body, prepare = model.roberta, model.roberta._embedded
    body._embedded = lambda *inputs: read.append(inputs[0].shape[1]) or prepare(*inputs)
    side.towers.generate(model, side.native(ids), 4)
    assert read == ([4, 1, 1, 1] if side is TORCH else [4])  # in Keras what was compiled above


@each_side
def test_generation_by_what_does_not_write(side):
    for case, keys in ((LM, {}), (MASKED, DECODER)):
        model, name = side.model(case, case.config(**keys)), prefixed(side, case.head.name)
        got = f"{name} with is_decoder={bool(keys)}"
        message = f"generate: model must be a decoder that predicts the next word, got {got}"
        with pytest.raises(ConfigError, match=f"^{message}$"):
            side.towers.generate(model, side.native(np.array([[5, 6]])), 2)


# -------------------------------------------------------------------------------------------------- heads and settings


@each_side
def test_a_decoder_is_made_by_its_config(side, tmp_path):
    """Set after loading the config, as the documents of transformers show it, or on the model itself."""
    side.model(LM).save_pretrained(tmp_path)
    ids = inputs_for(LM, LM.config(), "input_ids")
    config = LM.family.config.from_pretrained(tmp_path)
    both_ways = side.run(side.model_class(LM).from_pretrained(tmp_path, config=config), ids)
    config.is_decoder = True
    model = side.model_class(LM).from_pretrained(tmp_path, config=config)
    wanted = side.run(side.model(LM, LM.config(**DECODER)), ids)
    assert_close(side.run(model, ids), wanted, "equal")
    assert far(wanted["logits"], both_ways["logits"]) > 1e-2
    later = side.model_class(LM).from_pretrained(tmp_path)
    later.config.is_decoder = True
    assert_close(side.run(later, ids), wanted, "equal")


@each_side
def test_with_and_without_the_pooling_layer(side, tmp_path):
    """By the config or by the constructor; a folder says which; a file of the other kind loads, too."""
    ids = inputs_for(BODY, BODY.config(), "input_ids")
    whole = side.model(BODY)
    wanted = side.run(whole, ids)
    without = side.model_class(BODY)(BODY.config(), add_pooling_layer=False)
    assert not without.config.add_pooling_layer
    assert without.pooler is None
    side.set(
        without, {name: value for name, value in random_weights(BODY, BODY.config()).items() if "pooler" not in name}
    )
    assert "pooler_output" not in side.run(without, ids)
    without.resize_token_embeddings(31)
    without.save_pretrained(tmp_path)
    again = side.model_class(BODY).from_pretrained(tmp_path)
    assert_close(side.run(again, ids), {"last_hidden_state": wanted["last_hidden_state"]}, "equal")
    with pytest.warns(UserWarning, match=r"the file lacks its head; newly initialised, .*pooler"):
        side.model_class(BODY).from_pretrained(tmp_path, add_pooling_layer=True)
    whole.save_pretrained(tmp_path / "whole")
    _, info = _warned(side.model_class(WORDS), tmp_path / "whole")  # a head has no use for the pooling layer
    assert sorted(info.other_head_keys) == ["pooler.dense.bias", "pooler.dense.weight"]
    assert not info.unexpected_keys
    chooser, info = _warned(side.model_class(CHOICES), tmp_path / "whole")
    assert_close(side.weights(chooser)["pooler.weight"], random_weights(BODY, BODY.config())["pooler.weight"], "equal")
    assert set(info.missing_keys + info.new_head_keys) == {"classifier.weight", "classifier.bias"}


def _warned(model_class, path):
    with pytest.warns(UserWarning, match="classifier"):
        return model_class.from_pretrained(path, output_loading_info=True)


@pytest.mark.parametrize("kind", KINDS[:2])
@each_side
def test_pruned_heads_are_as_masked_ones(side, kind, tmp_path):
    config = LM.config(**DECODER, position_embedding_type=kind)
    inputs = inputs_for(LM, config, "input_ids")
    model = side.model(LM, config)
    masked = np.array([[1, 0, 1], [0, 1, 0]], "float32")
    wanted = side.run(model, {**inputs, "head_mask": masked, "use_cache": False})
    model.prune_heads({0: [1], 1: [0]})
    model.prune_heads({1: [2, 0]})
    assert model.config.pruned_heads == {0: [1], 1: [0, 2]}
    assert_close(side.run(model, {**inputs, "use_cache": False}), wanted, "equal")
    model.save_pretrained(tmp_path)
    again = side.model_class(LM).from_pretrained(tmp_path)
    assert_close(side.run(again, {**inputs, "use_cache": False}), wanted, "equal")
    new = side.native(inputs["input_ids"][:, 4:])
    past = again(side.native(inputs["input_ids"][:, :4])).past_key_values
    assert_close(side.numpy(again(new, past_key_values=past).logits), wanted["logits"][:, 4:], "equal")


@each_side
def test_next_words_are_predicted_where_the_one_before_stands(side):
    """And a word that is ignored costs nothing; scores of some positions only are the same scores."""
    config = LM.config(**DECODER, use_cache=False)
    model, inputs = side.model(LM, config, dtype="float64"), inputs_for(LM, config, "input_ids", "labels")
    found = side.run(model, {**inputs, "output_scores": True})
    following = inputs["labels"][:, 1:]
    scores = found["logits"][:, :-1]
    shares = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    picked = np.take_along_axis(shares, np.maximum(following, 0)[..., None], axis=-1)[..., 0]
    assert (following < 0).any()
    assert_close(found["loss"], -picked[following >= 0].mean(), "float64")
    assert set(side.run(model, inputs)) == {"loss"}
    last = side.run(model, {"input_ids": inputs["input_ids"], "logits_to_keep": 2})["logits"]
    assert_close(last, found["logits"][:, -2:], "float64")
    one = side.run(model, {name: value[:, :1] for name, value in inputs.items()})
    assert one["loss"] == 0.0


@each_side
def test_labels_of_hidden_words_do_not_count(side):
    config = WORDS.config()
    inputs = inputs_for(WORDS, config, "input_ids", "labels")
    mask = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1]])
    model = side.model(WORDS, config)
    wanted = side.run(model, {**inputs, "labels": np.where(mask, inputs["labels"], -100), "attention_mask": mask})
    assert_close(side.run(model, {**inputs, "attention_mask": mask}), wanted, "equal")
    seen = np.broadcast_to(mask[:, None], (2, 6, 6))
    assert far(side.run(model, {**inputs, "attention_mask": seen})["loss"], wanted["loss"]) > 1e-4


@each_side
def test_dropout_of_classifiers_and_of_feed_forward_layers(side):
    """Each has a key of its own; nothing is dropped behind the feed-forward layers unless asked for."""
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ids = inputs_for(TEXTS, TEXTS.config(), "input_ids")
    for keys, varies in (
        (none, False),
        (none | {"classifier_dropout": 0.5}, True),
        (none | {"ffn_output_dropout": 0.5}, True),
        ({"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}, True),
        (none | {"attention_probs_dropout_prob": 0.5}, True),
    ):
        model = side.model(TEXTS, TEXTS.config(**keys))
        first, second = (side.run(model, ids, training=True)["logits"] for _ in range(2))
        assert (far(first, second) > 1e-4) == varies, keys


@each_side
def test_resizing_changes_table_and_bias(side):
    for keys in ({}, {"tie_word_embeddings": False}):
        model = side.model(MASKED, MASKED.config(**keys))
        inputs = inputs_for(MASKED, MASKED.config(), "input_ids")
        wanted = side.run(model, inputs)["logits"]
        model.resize_token_embeddings(40)
        assert_close(side.run(model, inputs)["logits"][..., :31], wanted, "equal")
        assert model.config.vocab_size == 40
        assert side.run(model, {"input_ids": np.array([[39]])})["logits"].shape == (1, 1, 40)
        assert model.get_output_embeddings() is model.lm_head


def test_gradient_checkpointing():
    """The same gradients, with keys and values kept or not."""
    torch = pytest.importorskip("torch")
    config = LM.config(**CROSSED, hidden_dropout_prob=0.3)
    model = TORCH.model(LM, config)
    inputs = inputs_for(LM, config, "input_ids", "labels") | {"encoder_hidden_states": states()}
    torch.manual_seed(3)
    outputs, gradients = TORCH.both(model, inputs, training=True)
    model.gradient_checkpointing_enable()
    torch.manual_seed(3)
    again, recomputed = TORCH.both(model, inputs, training=True)
    assert_close(again, outputs, "equal")
    assert_close(recomputed, gradients, "equal")


def test_a_decoder_predicts_without_its_cache():
    """Keras' `predict` gathers what it returns of all batches: not what is there to read on."""
    pytest.importorskip("tensorflow")
    model = KERAS.model(LM, LM.config(**DECODER))
    model.compile(run_eagerly=True)
    ids = inputs_for(LM, model.config, "input_ids", B=4)["input_ids"]
    assert list(model.predict(ids, batch_size=2, verbose=0)) == ["logits"]


def test_a_decoder_is_exported_with_what_it_has_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    model = KERAS.model(LM, LM.config(**DECODER))
    model.export(tmp_path / "served", verbose=False)
    ids = inputs_for(LM, model.config, "input_ids")["input_ids"].astype("int32")
    loaded = tf.saved_model.load(tmp_path / "served")
    served = loaded.serve(ids)
    assert sorted(served) == ["logits", *(f"past_key_values_{layer}_{part}" for layer in (0, 1) for part in (0, 1))]
    assert_close(served["past_key_values_1_0"], flat(model(ids), KERAS.numpy)["past_key_values.1.0"], "equal")


def test_a_compiled_decoder_reads_on():
    torch = pytest.importorskip("torch")
    torch.compiler.reset()
    case = Case(LM.family, LM.head, "of_keys_too")
    model = TORCH.model(case)
    ids = TORCH.native(inputs_for(case, model.config, "input_ids")["input_ids"])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        past = compiled(ids[:, :4], use_cache=True).past_key_values
        found = compiled(ids[:, 4:], past_key_values=past, use_cache=True).logits
    assert_close(TORCH.numpy(found), TORCH.numpy(wanted)[:, 4:], "equal")
