"""Equal to the transformers that is installed, on random configs and inputs (PyTorch; it has no other side any more).

Left out, because it cannot any more: `head_mask`, masks [B, T, S], pruned heads, and positions by distance.
"""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import ROBERTA, TORCH, assert_close, flat, inputs_for
from xlcore import XLMRobertaXLConfig

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", minversion="5.0")

ONLY_OURS = {"add_pooling_layer", "ffn_output_dropout", "position_embedding_type", "pruned_heads"}


@st.composite
def configs(draw):
    """Draw any small config that both can run."""
    heads, pad = draw(st.integers(1, 3)), draw(st.integers(0, 5))
    decoder = draw(st.booleans())
    return XLMRobertaXLConfig(
        vocab_size=draw(st.integers(6, 20)),
        hidden_size=heads * draw(st.integers(3, 6)),  # of two numbers a layer normalisation leaves signs only
        num_attention_heads=heads,
        num_hidden_layers=draw(st.integers(1, 3)),  # theirs captures no states where there is no layer
        intermediate_size=draw(st.integers(1, 20)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu", "tanh"])),
        max_position_embeddings=pad + 9,
        type_vocab_size=3,
        layer_norm_eps=draw(st.sampled_from([1e-5, 1e-3])),
        pad_token_id=pad,
        is_decoder=decoder,
        add_cross_attention=decoder and draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        num_labels=draw(st.integers(1, 3)),
    )


def pair(case, config, seed, attention="eager"):
    """Build their model with random weights, and ours with the same."""
    keys = {key: value for key, value in config.to_dict().items() if key not in ONLY_OURS}
    theirs = getattr(transformers, case.head.name)(
        transformers.XLMRobertaXLConfig(**keys, attn_implementation=attention)
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in theirs.parameters():
            value.copy_(0.4 * torch.randn(value.shape, generator=generator))
    ours = TORCH.model_class(case)(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def agree(case, config, inputs, seed):
    """Compare everything that both return, and what ours returns when less is asked for."""
    ours, theirs = pair(case, config, seed)
    options = {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        found = theirs(**TORCH.ready(theirs, inputs), **options, use_cache=False)
    wanted = flat({name: value for name, value in found.items() if name in case.head.output.fields}, TORCH.numpy)
    asked = {"output_scores": True} if case.head.kind in ("masked_lm", "decoder_lm") else {}
    uncached = {"use_cache": False} if case.head.kind in ("base", "decoder_lm") else {}
    got = TORCH.run(ours, {**inputs, **options, **asked, **uncached})
    assert_close(got, wanted, "golden", f"{config} {sorted(inputs)}")
    plain = TORCH.run(ours, {**inputs, **uncached})  # as users run it: one kernel, and no scores beside the loss
    assert_close(plain, {name: got[name] for name in plain}, "golden", f"{config} {sorted(inputs)}")


EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@EXAMPLES
@given(configs(), st.integers(1, 3), st.integers(1, 8), st.integers(0, 99), st.data())
def test_the_body(config, B, T, seed, data):
    """Ids and embeddings, types, positions, masks, padding anywhere; in decoders an encoder's states, with a mask."""
    case, rng = ROBERTA["base"], np.random.default_rng(seed)
    names = [data.draw(st.sampled_from(["input_ids", "inputs_embeds"]))]
    names += [name for name in ("token_type_ids", "position_ids") if data.draw(st.booleans())]
    inputs = inputs_for(case, config, *names, seed=seed, B=B, T=T)
    if "input_ids" in inputs and data.draw(st.booleans()):
        inputs["input_ids"][rng.random((B, T)) < 0.3] = config.pad_token_id
    if data.draw(st.booleans()):  # no query is left without a key: what it gets then is the backend's choice
        inputs["attention_mask"] = (rng.random((B, T)) < 0.7).astype("int64")
        inputs["attention_mask"][:, 0] = 1
    if config.add_cross_attention:
        M = data.draw(st.integers(1, 4))
        inputs["encoder_hidden_states"] = rng.standard_normal((B, M, config.hidden_size)).astype("float32")
        if data.draw(st.booleans()):
            inputs["encoder_attention_mask"] = (rng.random((B, M)) < 0.7).astype("int64")
            inputs["encoder_attention_mask"][:, 0] = 1
    agree(case, config, inputs, seed)


HEADS = [case for kind, case in ROBERTA.items() if kind != "base"]


@pytest.mark.parametrize("case", HEADS, ids=str)
@settings(EXAMPLES, max_examples=12)
@given(config=configs(), B=st.integers(1, 2), T=st.integers(2, 6), seed=st.integers(0, 99), data=st.data())
def test_the_heads(case, config, B, T, seed, data):
    """With labels, of which at least one counts, and without."""
    kind = case.head.kind
    config = config.copy(add_cross_attention=False)
    if kind == "question_answering":
        config = config.copy(num_labels=2)
    labelled = data.draw(st.booleans())
    inputs = inputs_for(case, config, "input_ids", *(["labels"] if labelled else []), seed=seed, B=B, T=T)
    if data.draw(st.booleans()):
        inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
        inputs["attention_mask"][..., 1:] = np.random.default_rng(seed).integers(
            0, 2, inputs["input_ids"][..., 1:].shape
        )
    if kind in ("masked_lm", "decoder_lm", "token_classification") and labelled:
        inputs["labels"][0, :2] = 0  # theirs is not a number where all are ignored
    if kind == "sequence_classification" and labelled and config.num_labels == 1:
        inputs["labels"] = inputs["labels"].astype("float32")
    agree(case, config, inputs, seed)


def test_reading_on_from_a_cache():
    """Their cache, by one word and by several, and ours; and ours as tuples."""
    case = ROBERTA["decoder_lm"]
    config = case.config(is_decoder=True, add_cross_attention=True)
    ours, theirs = pair(case, config, 3)
    inputs = inputs_for(case, config, "input_ids", T=7)
    states = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1))
    caches = [transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())]
    caches += [TORCH.towers.KeyValueCache(), None]
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        found = []
        for number, model in enumerate((theirs, ours, ours)):
            with torch.no_grad():
                output = model(
                    torch.tensor(inputs["input_ids"][:, start:stop]), encoder_hidden_states=states,
                    past_key_values=caches[number], use_cache=True,
                )  # fmt: skip
            found.append(TORCH.numpy(output.logits))
            caches[number] = output.past_key_values
        assert_close(found[1], found[0], "golden")
        assert_close(found[2], found[0], "golden")


def test_what_transformers_writes_and_reads(tmp_path):
    """Folders go both ways, tied and not, with and without a head."""
    for kind, keys in (("masked_lm", {}), ("masked_lm", {"tie_word_embeddings": False}), ("base", {})):
        case = ROBERTA[kind]
        config = case.config(**keys)
        ours, theirs = pair(case, config, 5)
        ids = torch.tensor(inputs_for(case, config, "input_ids")["input_ids"])
        with torch.no_grad():
            wanted = theirs(ids)[0]
        theirs.save_pretrained(tmp_path / "theirs")
        ours.save_pretrained(tmp_path / "ours")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = TORCH.model_class(case).from_pretrained(tmp_path / "theirs")
            back, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert set(info["missing_keys"]) <= {"lm_head.bias"}
        assert not info["unexpected_keys"]
        for model in (again, back.eval()):
            with torch.no_grad():
                assert_close(TORCH.numpy(model(ids)[0]), TORCH.numpy(wanted), "golden", f"{kind} {keys}")
