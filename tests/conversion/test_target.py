"""Any origin's layout to be written: what comes back from it bit by bit, and the plan of it."""

import json
import re
from itertools import product

import numpy as np
import pytest
from held import (
    AUTHORS,
    BODY,
    CLASSIFIER,
    FAMILY,
    FLOAT,
    GOLDEN,
    HEADS,
    LM,
    TF_PROJECTION,
    assert_gives,
    config_of,
    draw,
    holder,
    lay_down,
    made,
    write,
)

from conversion.source import open_source
from conversion.target import Target, origins_for
from xlcore import FAMILIES, ConfigError
from xlcore.heads import Head


@pytest.fixture
def hold(monkeypatch, tmp_path):
    """Have the tensors of an origin in memory opened in place of a file."""
    return holder(monkeypatch, tmp_path)


# ------------------------------------------------------------------------------------------------------- round trips


def held_models():
    """Return every origin and format with every example and head that it can hold."""
    found = []
    for model_type, family in FAMILIES.items():
        origins = origins_for(model_type).values()
        for (name, keys), head, origin in product(family.examples.items(), family.heads, origins):
            config = family.config(**keys)
            if (origin.name, config.model_type) == ("tf1", "xlnet"):
                config.ff_activation = "gelu_new"
            try:
                origin.check(config, head)
            except ConfigError:
                continue
            for form in origin.formats:
                found.append(pytest.param(origin, form, config, head, id=f"{origin.name} {form}, {name}, {head.name}"))
    return found


@pytest.mark.parametrize(("origin", "form", "config", "head"), held_models())
def test_what_is_written_for_an_origin_comes_back_bit_by_bit(hold, tmp_path, origin, form, config, head: Head):
    arrays = draw(config, head.name)
    reader = hold(origin, config, arrays, head.name, format=form, side=["config.json"])
    opened = open_source(tmp_path)
    assert opened.origin == origin
    assert opened.config == config.copy(architectures=[head.name], torch_dtype="float32")
    assert opened.entries.keys() == arrays.keys()
    assert_gives(opened, arrays)
    assert {account.name for account in opened.accounts} == set(reader)
    assert {name for account in opened.accounts for name in account.into} == arrays.keys()


@pytest.mark.parametrize("origin", ["hf", "hf-tf", "torch-original", "tf1"])
@pytest.mark.parametrize("example", ["bins", "one table", "plain softmax", "shared biases", "untied", "all tied"])
def test_a_model_without_a_config_comes_back_too(hold, tmp_path, origin, example):
    """What is tied is found by what is not there, or by copies that are equal."""
    config = FAMILY.config(**FAMILY.examples[example])
    if origin == "torch-original":
        config.untie_r = False
    arrays = draw(config)
    given = {"cutoffs": config.cutoffs} if config.div_val == 1 and origin != "tf1" else {}
    try:
        hold(origin, config, arrays)
    except ConfigError:
        return
    opened = open_source(tmp_path, config=given)
    assert opened.head.name == LM
    assert_gives(opened, arrays)
    assert opened.told.keys() >= {"d_model", "n_layer", "mem_len", *given}
    expected = config.tie_word_embeddings
    assert opened.config.tie_word_embeddings == expected


FOLDERS = [
    path.parent for path in sorted(GOLDEN.glob("*/*/variables.txt")) if re.search("transfo_xl|xlnet", path.parent.name)
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_others_wrote_comes_back_from_what_we_write_in_their_layout(tmp_path, folder):
    """Every tensor of the file comes back bit by bit, and the config, without a config.json of ours."""
    opened = open_source(folder)
    dtypes = {name: entry.dtype for name, entry in opened.entries.items()}
    target = Target(opened.origin, opened.config, opened.head, dtypes, format=opened.format, read=opened.read)
    lay_down(target, {entry.name: target.make(entry.name, opened.read) for entry in target.entries}, tmp_path)
    if not (folder / "config.json").exists():
        (tmp_path / "config.json").unlink()
    again = open_source(tmp_path)
    assert again.origin == opened.origin
    assert {**again.config.to_dict(), "torch_dtype": None} == {**opened.config.to_dict(), "torch_dtype": None}
    kept = {account.name for account in opened.accounts if account.fate != "ignored"}
    assert kept <= set(again.reader)
    assert set(again.reader) - kept <= {"pos_emb.inv_freq"}
    for name in kept:
        assert again.reader.read(name).tobytes() == opened.reader.read(name).tobytes(), name


# ------------------------------------------------------------------------------------------------- what Keras saves


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
@pytest.mark.parametrize("model", [BODY, LM, CLASSIFIER, "XLNetLMHeadModel", "XLNetForSequenceClassification"])
def test_what_keras_saves_itself_is_opened(tmp_path, model, name):
    pytest.importorskip("keras")
    from helpers import KERAS

    family = FAMILIES["xlnet" if "XLNet" in model else "transfo-xl"]
    config = family.config(**next(iter(family.examples.values())))
    made_of = getattr(KERAS.towers, f"TF{model}")(config)
    (made_of.save_weights if name == "model.weights.h5" else made_of.save)(tmp_path / name)
    if name == "model.weights.h5":
        config.save_pretrained(tmp_path)
    opened = open_source(tmp_path)
    assert (opened.origin.name, opened.head.name, opened.config) == ("keras", model, config.copy(architectures=[model]))
    assert_gives(opened, KERAS.weights(made_of))


def test_keras_weights_without_a_config_are_refused(tmp_path):
    write(tmp_path, "keras", config_of())
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r": a config\.json must lie beside the weights of a Keras model, got none$"):
        open_source(tmp_path)


# --------------------------------------------------------------------------------------------------- what is written


def test_a_target_tells_its_plan_without_reading():
    target = Target("hf-tf", config_of(), HEADS[LM], FLOAT)
    stack = "transformer/tf_transfo_xllm_head_model/transformer/layers_._0/dec_attn/qkv_net/kernel:0"
    assert target.parts[stack] == tuple(f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value"))
    assert target.parts[TF_PROJECTION] == ("embedding.bins.2.projection",)
    assert {entry.name: entry.shape for entry in target.entries}[stack] == (8, 18)
    assert target.dtype_of(stack) == FLOAT
    joined = np.arange(144, dtype="float32").reshape(18, 8)
    assert np.array_equal(target.lay(stack, joined), joined.T)
    assert np.shares_memory(target.lay(stack, joined), joined)
    assert (target.format, target.writer.files) == ("hdf5", ("tf_model.h5",))


def test_tied_tensors_share_their_bytes_where_the_format_can_say_so():
    target = Target("hf", config_of(untie_r=False), HEADS[LM], FLOAT, format="torch")
    assert target.shared == {
        **{f"crit.out_layers.{i}.weight": f"transformer.word_emb.emb_layers.{i}.weight" for i in range(3)},
        **{f"crit.out_projs.{i}": f"transformer.word_emb.emb_projs.{i}" for i in (1, 2)},
        **{
            f"transformer.layers.{i}.dec_attn.{bias}": f"transformer.{bias}"
            for i in (0, 1)
            for bias in ("r_w_bias", "r_r_bias")
        },
    }
    assert Target("hf", config_of(), HEADS[LM], FLOAT).shared == {}


def test_each_tensor_keeps_its_dtype_or_takes_the_one_asked_for():
    arrays = draw(config_of())
    kinds = dict.fromkeys(arrays, np.dtype("float16")) | {"crit.cluster.bias": np.dtype("float64")}
    target = Target("hf", config_of(), HEADS[LM], kinds)
    assert target.make("crit.cluster_bias", arrays.__getitem__).dtype == np.dtype("float64")
    assert target.make("crit.cluster_weight", arrays.__getitem__).dtype == np.dtype("float16")
    assert json.loads(target.side["config.json"])["torch_dtype"] == "float16"


def test_the_authors_buffer_is_written_for_them():
    target, tensors = made("torch-original", config_of(**AUTHORS), draw(config_of(**AUTHORS)))
    assert target.parts["pos_emb.inv_freq"] == ()
    expected = 10000.0 ** -(np.arange(0, 8, 2) / 8)
    assert np.allclose(tensors["pos_emb.inv_freq"], expected, rtol=1e-6)
    assert target.writer.files == ("model.pt",)
    assert target.side.keys() == {"args.json", "config.json"}


def test_a_target_that_there_is_not_is_refused():
    with pytest.raises(
        ConfigError, match=r"^Target: origin must be one of 'hf', .*, got 'hf-t'; did you mean 'hf-tf'\?$"
    ):
        Target("hf-t", config_of(), HEADS[LM], FLOAT)
    with pytest.raises(ConfigError, match=r"^Target: the format of tf1 must be one of tf1, got 'torch'$"):
        Target("tf1", config_of(), HEADS[LM], FLOAT, format="torch")
