"""Any checkpoint in canonical names: what is found, derived, accounted for, and refused."""

import argparse
import json
import sys
import types
import warnings

import numpy as np
import pytest
from held import (
    AUTHORS,
    BODY,
    CLASSIFIER,
    FLOAT,
    GOLDEN,
    HEADS,
    LM,
    TF_PROJECTION,
    TF_TABLE,
    Held,
    assert_gives,
    changed,
    config_of,
    draw,
    holder,
    lay_down,
    made,
    write,
)

from conversion import source
from conversion.checkpoint import Checkpoint, read_config
from conversion.formats.base import Entry
from conversion.source import Account, open_source
from xlcore import FAMILIES, ConfigError, FormatError, WeightError, XLError
from xlcore.maps import ORIGINS


@pytest.fixture
def hold(monkeypatch, tmp_path):
    """Have the tensors of an origin in memory opened in place of a file."""
    return holder(monkeypatch, tmp_path)


# --------------------------------------------------------------------------------------------------------- accounts


def test_what_became_of_each_tensor_is_told(hold, tmp_path):
    config = config_of(untie_r=False)
    hold("torch-original", config, draw(config), change=lambda tensors: tensors.update(junk=np.zeros(3, "f4")))
    with pytest.raises(WeightError, match=r"must fit TransfoXLLMHeadModel, got unexpected: junk$"):
        open_source(tmp_path)
    reader = hold("torch-original", config, draw(config))
    reader.aside = {"optimizer.state": Entry("optimizer.state", (3,), FLOAT)}
    accounts = {account.name: account for account in open_source(tmp_path).accounts}
    qkv = "layers.0.dec_attn.qkv_net.weight"
    parts = tuple(f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value"))
    assert accounts[qkv] == Account(qkv, reader[qkv], "split", parts)
    assert accounts["r_w_bias"] == Account("r_w_bias", reader["r_w_bias"], "used", ("content_bias",))
    table, copy = "word_emb.emb_layers.1.weight", "crit.out_layers.1.weight"
    assert accounts[copy].into == accounts[table].into == ("embedding.bins.1.weight",)
    assert accounts[table] == Account(table, reader[table], "tied", accounts[copy].into, f"a copy of {copy}")
    assert accounts["pos_emb.inv_freq"].reason == "a buffer, computed anew"
    aside = accounts["optimizer.state"]
    assert (aside.fate, aside.reason, aside.into) == ("ignored", "not the model's", ())


def test_tensors_of_another_head_are_ignored_for_that_reason(hold, tmp_path):
    config = config_of()
    hold("hf", config, draw(config), side=["config.json"])
    opened = open_source(tmp_path, head=BODY)
    assert opened.config.architectures == [BODY]
    left = {account.name: account.reason for account in opened.accounts if account.fate == "ignored"}
    assert left.keys() == {name for name in opened.reader if name.startswith("crit.")}
    assert set(left.values()) == {f"of a head that {BODY} does not have"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("transformer.layers.1.dec_attn.r_net.weight"),
            r"missing: transformer\.layers\.1\.dec_attn\.r_",
        ),
        (
            lambda t: t.update({"crit.cluster_bias": np.zeros(5, "f4")}),
            r"other shapes: crit\.cluster_bias \[5\] for \[2\]$",
        ),
        (
            lambda t: [t.pop(name) for name in [*t] if name.startswith("crit.")],
            "missing: crit.* choose the head that it",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(hold, tmp_path, change, message):
    hold("hf", config_of(), draw(config_of()), change=change, side=["config.json"])
    with pytest.raises(WeightError, match=message):
        open_source(tmp_path)


def test_tensors_of_nobody_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "open_reader", lambda path: Held({"bert.weight": np.zeros(3)}, "torch"))
    expected = r": tensors must be those of a known family under the names of a known origin, got bert\.weight$"
    with pytest.raises(WeightError, match=expected):
        open_source(tmp_path)


def test_two_tensors_of_one_name_are_refused(hold, tmp_path):
    name = "crit.cluster_bias"
    hold("hf", config_of(), draw(config_of()), change=lambda t: t.update({f"module.{name}": t[name]}), format="torch")
    with pytest.raises(
        WeightError, match=r"'module\.crit.*' must be another tensor than 'crit\.cl.*, got one name for both"
    ):
        open_source(tmp_path)


def test_a_head_of_another_family_is_refused(hold, tmp_path):
    hold("hf", config_of(), draw(config_of()), side=["config.json"])
    with pytest.raises(ConfigError, match=r"head must be one of TransfoXLModel, .*, got 'XLNetLMHeadModel'$"):
        open_source(tmp_path, head="XLNetLMHeadModel")
    with pytest.raises(ConfigError, match=r"'TransfoXLLMHead' must be a known model class; did you mean"):
        open_source(tmp_path, head="TransfoXLLMHead")
    assert open_source(tmp_path, head=f"TF{LM}").head.name == LM


def test_values_that_are_not_finite_are_refused_unless_asked_for(hold, tmp_path):
    name = "embedding.bins.1.weight"
    arrays = draw(config_of())
    arrays[name][2, 1] = np.nan
    hold("hf", config_of(), arrays, side=["config.json"])
    opened = open_source(tmp_path)
    assert np.isnan(opened.read(name, finite=False)[2, 1])
    with pytest.raises(WeightError, match=r"'transformer\.word_emb\.emb_layers\.1\.weight' must be finite, got NaN"):
        opened.read(name)


def test_the_parts_of_a_stack_are_read_once(hold, tmp_path):
    reader = hold("hf", config_of(), draw(config_of()), side=["config.json"])
    opened = open_source(tmp_path)
    assert reader.asked == [], "opening safetensors reads nothing"
    for part in ("query", "key", "value"):
        opened.read(f"blocks.0.attention.{part}.weight")
    assert reader.asked == ["transformer.layers.0.dec_attn.qkv_net.weight"]


# ------------------------------------------------------------------------------------------------------ tied tensors


@pytest.mark.parametrize(
    ("name", "keys"),
    [(TF_TABLE, {"tie_word_embeddings": False}), (TF_PROJECTION, {"tie_projs": [False, True, False]})],
)
def test_copies_in_tensorflow_files_that_differ_are_untied(hold, tmp_path, name, keys):
    config, arrays = config_of(), draw(config_of())
    reader = hold("hf-tf", config, arrays, change=changed(name), side=["config.json"])
    opened = open_source(tmp_path)
    assert opened.config == config.copy(**keys, architectures=[LM], torch_dtype="float32")
    assert len([note for note in opened.notes if note.endswith("differ: untied") and name in note]) == 1
    assert not [account for account in opened.accounts if account.fate == "tied" and account.name == name]
    alias = "crit.bins.1.weight" if name == TF_TABLE else "crit.bins.2.projection"
    first = alias.replace("crit", "embedding")
    assert not np.array_equal(opened.read(alias), opened.read(first))
    stored = {account.into: reader.tensors[account.name] for account in opened.accounts}
    assert np.array_equal(opened.read(first), stored[(first,)] if name == TF_TABLE else stored[(first,)].T)


def test_names_in_shards_of_tensorflow_leave_out_group_and_model(hold, tmp_path):
    config, arrays = config_of(), draw(config_of())

    def change(tensors) -> None:
        for name in [*tensors]:
            tensors[name.split("/", 2)[2]] = tensors.pop(name)

    reader = hold("hf-tf", config, arrays, change=change, side=["config.json"])
    assert "crit/cluster_bias:0" in reader
    assert_gives(open_source(tmp_path), arrays)


def test_copies_in_huggingface_files_that_differ_give_the_last_as_there(hold, tmp_path):
    copy, table = "crit.out_layers.1.weight", "transformer.word_emb.emb_layers.1.weight"

    def change(tensors) -> None:
        tensors[copy] = tensors[table] + 1

    reader = hold("hf", config_of(), draw(config_of()), change=change, side=["config.json"])
    opened = open_source(tmp_path)
    assert opened.config.tie_word_embeddings
    done = f"used {copy}, as transformers does; the other's numbers are lost"
    assert opened.warnings == [f"{table} and {copy} differ, although the config ties them: {done}"]
    assert opened.notes == []
    assert np.array_equal(opened.read("embedding.bins.1.weight"), reader.tensors[copy])


def test_copies_that_share_their_bytes_are_not_read(hold, tmp_path):
    reader = hold("hf", config_of(), draw(config_of()), format="torch", side=["config.json"])
    assert "transformer.word_emb.emb_layers.0.weight" in {*reader.shared, *reader.shared.values()}
    open_source(tmp_path)
    assert reader.asked == []


def test_no_value_is_read_where_that_is_not_wanted(hold, tmp_path):
    reader = hold("hf-tf", config_of(), draw(config_of()), change=changed(TF_TABLE), side=["config.json"])
    opened = open_source(tmp_path, values=False)
    assert reader.asked == []
    assert opened.notes[-1].startswith("copies of tied tensors, taken as equal: embedding.bins.0.weight, ")


# --------------------------------------------------------------------------------------------- TensorFlow checkpoints


def test_averaged_variables_are_preferred(hold, tmp_path):
    name, config = "transformer/layer_0/ff/layer_1/bias", config_of()

    def change(tensors) -> None:
        tensors[f"{name}/ExponentialMovingAverage"] = tensors[name] + 1
        tensors |= {f"{name}/Adam": tensors[name], "global_step": np.zeros((), "int64")}

    reader = hold("tf1", config, draw(config), change=change)
    opened = open_source(tmp_path)
    assert "took the moving averages of 1 variables, not their last values" in opened.notes
    accounts = {account.name: account for account in opened.accounts}
    assert accounts[f"{name}/ExponentialMovingAverage"].fate == "used"
    assert accounts[name].reason == "the averaged values stand there, too, and are what is evaluated"
    assert (accounts[f"{name}/Adam"].reason, accounts["global_step"].reason) == (
        "the optimizer's",
        "a count of training steps",
    )
    assert np.array_equal(opened.read("blocks.0.feed_forward.inner.bias"), reader.tensors[name] + 1)


def test_projections_that_are_not_there_are_the_identity(hold, tmp_path):
    config = config_of(d_embed=8, tie_projs=[False] * 3)
    arrays, gone = draw(config), ("embedding.bins.0.projection", "crit.bins.0.projection")
    arrays |= {name: np.eye(8, dtype="float32") for name in gone}
    reader = hold("tf1", config, arrays, read=arrays.__getitem__)
    assert not [name for name in reader if name.endswith(("cutoff_0/proj_W", "cutoff_0/proj"))]
    opened = open_source(tmp_path)
    assert_gives(opened, arrays)
    assert opened.notes[-2:] == [f"{name} is left out by tf1: identity" for name in gone]
    arrays["crit.bins.0.projection"][0, 1] = 1e-9
    reader = hold("tf1", config, arrays, read=arrays.__getitem__)
    assert len([name for name in reader if name.endswith(("cutoff_0/proj_W", "cutoff_0/proj"))]) == 2, "all or none"


def test_a_projection_between_other_sizes_must_be_there(hold, tmp_path):
    name = "transformer/adaptive_embed/cutoff_2/proj_W"
    hold("tf1", config_of(), draw(config_of()), change=lambda tensors: tensors.pop(name), side=["config.json"])
    with pytest.raises(WeightError, match=f"missing: {name}$"):
        open_source(tmp_path)


def test_biases_that_layers_share_are_written_once_if_they_are_equal(hold, tmp_path):
    family = FAMILIES["xlnet"]
    config = family.config(**family.examples["both ways"] | {"untie_r": False, "ff_activation": "gelu_new"})
    arrays = draw(config, "XLNetLMHeadModel")
    with pytest.raises(WeightError, match=r"'blocks\.1\.attention\.content_bias' must equal 'blocks\.0\.att"):
        made("tf1", config, arrays, "XLNetLMHeadModel")
    for part in ("content", "position", "segment"):
        arrays[f"blocks.1.attention.{part}_bias"] = arrays[f"blocks.0.attention.{part}_bias"]
    reader = hold("tf1", config, arrays, "XLNetLMHeadModel")
    assert reader["model/transformer/r_w_bias"].shape == (3, 8)
    opened = open_source(tmp_path)
    assert opened.config.untie_r is False
    assert_gives(opened, arrays)


def test_a_run_without_segments_has_zeros_for_them(hold, tmp_path):
    family = FAMILIES["xlnet"]
    config = family.config(**family.examples["both ways"] | {"ff_activation": "gelu_new"})
    arrays = draw(config, "XLNetLMHeadModel")
    for name in arrays:
        if "segment" in name or name == "mask_embedding":
            arrays[name][:] = 0
    reader = hold("tf1", config, arrays, "XLNetLMHeadModel", read=arrays.__getitem__)
    assert not [name for name in reader if name.endswith(("r_s_bias", "seg_embed", "mask_emb"))]
    assert_gives(open_source(tmp_path), arrays)


# ------------------------------------------------------------------------------------------------- what lies beside


def test_a_config_wins_over_what_follows(hold, tmp_path):
    config = config_of(window_rule="tf1", layer_norm_epsilon=1e-12, mem_len=3)
    hold("tf1", config, draw(config), side=["flags.json", "corpus-info.json"])
    assert open_source(tmp_path).config.mem_len == 3
    assert open_source(tmp_path, config={"mem_len": 5}).config.mem_len == 5
    assert open_source(tmp_path, config={"mem_len": 5}).told["mem_len"] == "the caller"
    (tmp_path / "config.json").write_text(config.copy(mem_len=7, layer_norm_epsilon=1e-5).to_json_string())
    found = open_source(tmp_path)
    assert (found.config.mem_len, found.config.layer_norm_epsilon, found.told) == (7, 1e-5, {})
    assert open_source(tmp_path, config=config.copy(mem_len=9)).config.mem_len == 9


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_beside_that_is_no_object_is_refused(hold, tmp_path, text):
    hold("tf1", config_of(), draw(config_of()))
    (tmp_path / "flags.json").write_text(text)
    with pytest.raises(ConfigError, match=r"flags\.json: must hold (a )?JSON"):
        open_source(tmp_path)


def test_vocabularies_are_carried(hold, tmp_path):
    hold("hf", config_of(), draw(config_of()), side=["config.json"])
    for name in ("vocab.txt", "tokenizer_config.json", "notes.txt", "spiece.model"):
        (tmp_path / name).write_text("{}")
    assert [path.name for path in open_source(tmp_path).carried] == ["vocab.txt", "tokenizer_config.json"]


# ------------------------------------------------------------------------------------------------------ hostile files

ODD = [(), (0,), (3,), (0, 0), (2, 0), (0, 1 << 40), (1, 1), (2, 3, 4), (7, 5, 3, 1)]


@pytest.mark.parametrize(
    "origin", [each for each in ORIGINS if each.name != "keras"], ids=lambda o: f"{o.model_type} {o.name}"
)
def test_tensors_of_any_shape_bring_out_errors_of_ours_only(monkeypatch, tmp_path, origin):
    family = FAMILIES[origin.model_type]
    config = family.config(**next(iter(family.examples.values())))
    head = family.heads[1]
    weights = origin.weights(config, head)
    shapes = weights.shapes(family.params(config, head), config.sizes)
    names = origin.written(shapes, config, head)
    rng = np.random.default_rng(0)
    for _ in range(60):
        odd = {names[name]: ODD[rng.integers(len(ODD))] if rng.random() < 0.2 else shapes[name] for name in shapes}
        tensors = {name: np.empty(shape, "f4") for name, shape in odd.items()}
        monkeypatch.setattr(source, "open_reader", lambda path, held=tensors: Held(held, origin.formats[0]))
        with pytest.raises(XLError):
            open_source(tmp_path)


@pytest.mark.parametrize("value", [None, 5, "x", [], {}, [[]], {"a": 1}, 1e999, -1, True])
def test_files_beside_that_hold_other_things_are_refused_or_of_no_effect(hold, tmp_path, value):
    config = config_of(window_rule="tf1", layer_norm_epsilon=1e-12)
    hold("tf1", config, draw(config))
    for name, key in (("corpus-info.json", "cutoffs"), ("flags.json", "div_val"), ("flags.json", "mem_len")):
        (tmp_path / name).write_text(json.dumps({key: value}))
        try:
            opened = open_source(tmp_path)
        except XLError:
            opened = None
        assert opened is None or key != "cutoffs" or value is None
        (tmp_path / name).unlink()


def test_a_config_that_cannot_follow_says_so(hold, tmp_path):
    config = config_of()
    change = {"transformer.layers.0.pos_ff.CoreNet.0.bias": np.zeros((), "f4")}
    hold("hf", config, draw(config), change=lambda tensors: tensors.update(change))
    expected = (
        r": a config must follow from the tensors and what lies beside, got some that make none \(tuple index out"
    )
    with pytest.raises(ConfigError, match=expected):
        open_source(tmp_path)


# --------------------------------------------------------------------------------------------------- pickled modules


def pickled(monkeypatch, config, arrays):
    """Build the authors' module as their code would, as far as a pickle of it tells: parameters and settings."""
    torch = pytest.importorskip("torch")

    class MemTransformerLM(torch.nn.Module):
        pass

    class Part(torch.nn.Module):
        pass

    authors = types.ModuleType("mem_transformer")
    for each in (MemTransformerLM, Part):
        each.__module__, each.__qualname__ = "mem_transformer", each.__name__
        setattr(authors, each.__name__, each)
    monkeypatch.setitem(sys.modules, "mem_transformer", authors)
    target, tensors = made("torch-original", config, arrays)
    whole, held = (
        MemTransformerLM(),
        {name: torch.nn.Parameter(torch.tensor(each.copy())) for name, each in tensors.items()},
    )
    buffer = held.pop("pos_emb.inv_freq").detach()
    for name, value in [*held.items(), *((alias, held[first]) for alias, first in target.shared.items())]:
        *owners, last = name.split(".")
        module = whole
        for owner in owners:
            if owner not in module._modules:
                module.add_module(owner, Part())
            module = module._modules[owner]
        module.register_parameter(last, value)
    whole.add_module("pos_emb", Part())
    whole.pos_emb.register_buffer("inv_freq", buffer)
    for key in ("mem_len", "clamp_len", "same_length", "n_head", "n_layer"):
        setattr(whole, key, getattr(config, key))
    whole.crit.cutoffs = [*config.cutoffs, config.vocab_size]
    whole.layers._modules["0"].dec_attn.pre_lnorm = config.pre_lnorm
    return torch, whole


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_pickled_module_of_the_authors_is_opened_without_their_code(monkeypatch, tmp_path, old, parallel):
    settings = {"mem_len": 7, "clamp_len": 5, "same_length": False, "pre_lnorm": True, "cutoffs": [10, 30]}
    config = config_of(**AUTHORS, **settings, div_val=1)
    arrays = draw(config)
    torch, whole = pickled(monkeypatch, config, arrays)
    if parallel:
        torch.save({f"module.{name}": each for name, each in whole.state_dict().items()}, tmp_path / "model.pt")
    else:
        warnings.simplefilter("ignore")  # the old way of saving wants to keep the source of the classes, too
        torch.save(whole, tmp_path / "model.pt", _use_new_zipfile_serialization=not old)
    monkeypatch.delitem(sys.modules, "mem_transformer")
    opened = open_source(tmp_path, config=settings if parallel else {})
    assert_gives(opened, arrays)
    assert opened.origin.name == "torch-original"
    assert opened.config == config.copy(architectures=[LM])
    by = "the caller" if parallel else "the pickled module"
    assert {opened.told[key] for key in settings} == {by}


def test_arguments_that_lie_in_the_file_are_read(monkeypatch, tmp_path):
    config = config_of(**AUTHORS, div_val=1, mem_len=9)
    arrays = draw(config)
    torch, whole = pickled(monkeypatch, config, arrays)
    args = argparse.Namespace(cutoffs=[10, 30], mem_len=9, n_token=50, lr=0.1, d_embed=16, d_model=8, tied=True)
    torch.save({"model": whole.state_dict(), "args": args, "step": 7}, tmp_path / "model.pt")
    opened = open_source(tmp_path)
    assert_gives(opened, arrays)
    assert (opened.config.cutoffs, opened.config.mem_len) == ([10, 30], 9)
    assert opened.told["mem_len"] == "the arguments in the file"


# ---------------------------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize("origin", ["hf", "hf-tf", "torch-original", "tf1", "keras"])
def test_the_door_opens_every_origin(tmp_path, origin):
    config = config_of(**AUTHORS if origin == "torch-original" else {})
    arrays = write(tmp_path, origin, config)
    opened = Checkpoint(tmp_path, read_config(tmp_path), HEADS[LM])
    opened.settle()
    assert {name: array.tobytes() for name, array in opened.tensors()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_the_door_opens_a_body_for_a_head_and_a_model_for_its_body(tmp_path):
    for origin in ("hf", "hf-tf", "keras"):
        write(tmp_path / origin / "body", origin, config_of(), BODY)
        opened = Checkpoint(tmp_path / origin / "body", config_of(), HEADS[CLASSIFIER])
        assert (opened.info.missing_keys, opened.info.unexpected_keys) == ([], [])
        assert len(opened.info.new_head_keys) == 1
        arrays = write(tmp_path / origin / "model", origin, config_of(), CLASSIFIER)
        opened = Checkpoint(tmp_path / origin / "model", config_of(), HEADS[BODY])
        assert (opened.info.missing_keys, opened.info.unexpected_keys) == ([], [])
        assert len(opened.info.other_head_keys) == 1
        assert opened.names == arrays.keys() - {"score.weight"}


def test_the_door_unties_what_tensorflow_files_have_apart(tmp_path):
    arrays = draw(config_of())
    target, tensors = made("hf-tf", config_of(), arrays)
    changed(TF_TABLE)(tensors)
    lay_down(target, tensors, tmp_path)
    config = read_config(tmp_path, mem_len=3)
    assert (config.tie_word_embeddings, config.mem_len) == (False, 3)
    opened = Checkpoint(tmp_path, config, HEADS[LM])
    opened.settle()
    assert "crit.bins.1.weight" in opened.names


def test_a_config_without_weights_is_read_all_the_same(tmp_path):
    (tmp_path / "config.json").write_text(config_of(mem_len=3).to_json_string())
    assert read_config(tmp_path).mem_len == 3


def test_a_file_that_is_no_checkpoint_is_refused_as_such(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(FormatError, match=r"notes\.txt: must hold model\.safetensors or weights of another kind"):
        read_config(tmp_path / "notes.txt")


@pytest.mark.parametrize("framework", ["torch", "keras"])
@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("original/transfo_xl_torch-enwik8", "model.pt"),
        ("original/transfo_xl_tf1-enwik8", "model.ckpt"),
        ("original/transfo_xl_tf1-enwik8", "model.ckpt.index"),
        ("hf_files/hf_pt-transfo_xl", "pytorch_model.bin"),
    ],
)
def test_a_single_file_loads_as_its_folder(framework, folder, file):
    pytest.importorskip(framework)
    from helpers import KERAS, TORCH

    side, name = (TORCH, LM) if framework == "torch" else (KERAS, f"TF{LM}")
    whole, single = (getattr(side.towers, name).from_pretrained(GOLDEN / folder / each) for each in ("", file))
    assert single.config == whole.config
    ours, theirs = side.weights(whole), side.weights(single)
    assert all(np.array_equal(array, theirs[key]) for key, array in ours.items())
