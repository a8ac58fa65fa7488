"""Canonical folders: whatever one framework saves, both load, under HuggingFace's names, bit by bit."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from conversion import checkpoint
from conversion.checkpoint import Checkpoint, parse_size, read_config
from conversion.formats.safetensors import INDEX, WEIGHTS
from xlcore import FAMILIES, ConfigError, FormatError, TransfoXLConfig, WeightError
from xlcore.maps import HF
from xlcore.maps.keras import is_turned

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
HF_FOLDER = GOLDEN / "hf_files" / "hf_pt-transfo_xl_safetensors"
FAMILY = FAMILIES["transfo-xl"]
HEADS = {head.name: head for head in FAMILY.heads}
BASE, LM, CLASSIFIER = HEADS
SMALL = {
    "vocab_size": 50, "cutoffs": [10, 30], "d_model": 8, "d_embed": 16, "div_val": 2, "n_head": 2, "d_head": 3,
    "d_inner": 12, "n_layer": 2, "mem_len": 4,
}  # fmt: skip
VARIANTS = {
    "plain": {},
    "one table": {"div_val": 1},
    "no projections": {"div_val": 1, "d_embed": 8},
    "no cutoffs": {"cutoffs": []},
    "shared biases": {"untie_r": False},
    "untied": {"tie_word_embeddings": False, "tie_projs": [False] * 3},
    "all tied": {"tie_projs": [True] * 3},
}


def config_of(**keys) -> TransfoXLConfig:
    return TransfoXLConfig(**{**SMALL, **keys})


def random_arrays(config, head, seed=0) -> dict[str, np.ndarray]:
    """Draw every parameter of a model, by canonical name."""
    rng = np.random.default_rng(seed)
    table = FAMILY.params(config, HEADS[head])
    return {name: rng.standard_normal(param.shape).astype("float32") for name, param in table.items()}


def write_folder(folder, head=LM, seed=0, dtype="float32", max_shard_size="5GB", **keys) -> dict[str, np.ndarray]:
    """Save random parameters without any framework, and return them."""
    config = config_of(**keys)
    arrays = {name: array.astype(dtype) for name, array in random_arrays(config, head, seed).items()}
    read = {name: lambda array=array: array for name, array in arrays.items()}
    dtypes = {name: array.dtype for name, array in arrays.items()}
    checkpoint.save(folder, config, HEADS[head], read, dtypes, max_shard_size)
    return arrays


def tensors_of(folder) -> dict[str, np.ndarray]:
    """Read all tensors of a folder by the library of the format, under their names on disk."""
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        found |= safetensors.numpy.load_file(file)
    return found


def rewrite(folder, change) -> None:
    """Change the tensors of a folder under their names on disk."""
    tensors = tensors_of(folder)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def opened(folder, head=LM, **keys) -> Checkpoint:
    return Checkpoint(folder, read_config(folder, **keys), HEADS[head])


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


class Side:
    """One framework, spoken to in numpy."""

    def __init__(self, framework: str) -> None:
        pytest.importorskip("torch" if framework == "torch" else "keras")
        self.framework = framework
        self.module = importlib.import_module({"torch": "xl_torch", "keras": "xl_tf"}[framework])

    def model(self, head: str):
        return getattr(self.module, head if self.framework == "torch" else "TF" + head)

    def load(self, folder, head=LM, **keys):
        return self.model(head).from_pretrained(folder, **keys)

    def arrays(self, model) -> dict[str, np.ndarray]:
        """Return the parameters of a model as the specification shapes them."""
        table = FAMILY.params(model.config, model.head)
        if self.framework == "torch":
            return {name: value.detach().numpy() for name, value in model.canonical_parameters().items()}
        values = {name: np.asarray(value) for name, value in model.canonical_parameters().items()}
        return {name: value.T if is_turned(name, table[name]) else value for name, value in values.items()}


@pytest.fixture(params=["torch", "keras"])
def side(request) -> Side:
    return Side(request.param)


@pytest.fixture
def folder(tmp_path):
    """A small language model's folder."""
    write_folder(tmp_path / "model")
    return tmp_path / "model"


# ----------------------------------------------------------------------------------------------- what is on the disk


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_what_is_saved_is_loaded_bit_by_bit(tmp_path, head, variant):
    expected = write_folder(tmp_path, head, **VARIANTS[variant])
    file = opened(tmp_path, head)
    file.settle()
    assert file.names == expected.keys()
    assert_same(dict(file.tensors()), expected)


def test_names_and_values_are_those_of_transformers(tmp_path):
    original = Checkpoint(HF_FOLDER, read_config(HF_FOLDER), HEADS[LM])
    arrays = dict(original.tensors())
    read = {name: lambda array=array: array for name, array in arrays.items()}
    dtypes = {name: array.dtype for name, array in arrays.items()}
    checkpoint.save(tmp_path, read_config(HF_FOLDER), HEADS[LM], read, dtypes)
    theirs = safetensors.numpy.load_file(HF_FOLDER / WEIGHTS)
    del theirs["transformer.pos_emb.inv_freq"]  # a buffer, computed anew
    assert_same(tensors_of(tmp_path), theirs)


def test_the_config_of_transformers_comes_back(tmp_path):
    theirs = json.loads((HF_FOLDER / "config.json").read_text())
    read_config(HF_FOLDER).save_pretrained(tmp_path)
    ours = json.loads((tmp_path / "config.json").read_text())
    assert {key: ours[key] for key in theirs} == theirs


def golden_cases() -> list[Path]:
    return sorted(GOLDEN.glob("transfo_xl-*.safetensors"))


@pytest.mark.parametrize("file", golden_cases(), ids=lambda file: file.stem)
def test_every_reference_is_saved_under_its_names_without_duplicates(tmp_path, file):
    side = Side("torch")
    import torch

    with safe_open(file, "pt") as case_file:
        case = json.loads(case_file.metadata()["case"])
        names = [name for name in case_file.keys() if name.startswith("weights/")]  # noqa: SIM118
        theirs = {name.removeprefix("weights/"): case_file.get_tensor(name) for name in names}
    model = side.model(case["head"])(TransfoXLConfig(**case["config"]))
    model.load_state_dict(theirs)
    model.save_pretrained(tmp_path)
    written = tensors_of(tmp_path)
    assert written.keys() < theirs.keys()
    assert all(np.array_equal(written[name], theirs[name].numpy()) for name in written)
    for name in theirs.keys() - written.keys():
        twin = any(torch.equal(theirs[name], torch.from_numpy(array)) for array in written.values())
        assert twin or name.endswith("pos_emb.inv_freq"), name


def test_a_body_is_saved_without_prefix_and_a_head_with_it(tmp_path):
    write_folder(tmp_path / "base", BASE)
    write_folder(tmp_path / "lm", LM)
    base, language_model = set(tensors_of(tmp_path / "base")), set(tensors_of(tmp_path / "lm"))
    assert {f"transformer.{name}" for name in base} < language_model
    assert {name.split(".")[0] for name in language_model} == {"transformer", "crit"}


def test_the_config_on_disk_says_class_and_dtype(tmp_path):
    write_folder(tmp_path, CLASSIFIER, dtype="float16")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == [CLASSIFIER]
    assert written["torch_dtype"] == "float16"
    assert written["model_type"] == "transfo-xl"


def test_the_weights_open_with_the_library_of_the_format(folder):
    with safe_open(folder / WEIGHTS, "numpy") as library:
        assert library.metadata() == {"format": "pt"}
        assert "transformer.layers.1.dec_attn.qkv_net.weight" in library.keys()  # noqa: SIM118
        assert library.get_slice("transformer.layers.1.dec_attn.qkv_net.weight").get_shape() == [18, 8]


def test_query_key_and_value_are_stacked_in_this_order(tmp_path):
    arrays = write_folder(tmp_path)
    stack = [arrays[f"blocks.1.attention.{part}.weight"] for part in ("query", "key", "value")]
    assert np.array_equal(tensors_of(tmp_path)["transformer.layers.1.dec_attn.qkv_net.weight"], np.concatenate(stack))


# ----------------------------------------------------------------------------------------------- through frameworks


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", HEADS)
def test_a_framework_loads_and_saves_bit_by_bit(tmp_path, side, head, variant):
    expected = write_folder(tmp_path / "in", head, **VARIANTS[variant])
    model = side.load(tmp_path / "in", head)
    assert_same(side.arrays(model), expected)
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "in" / WEIGHTS).read_bytes()
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "in" / "config.json").read_bytes()


@pytest.mark.parametrize("head", HEADS)
def test_a_model_travels_from_torch_to_keras_and_back(tmp_path, head):
    torch_side, keras_side = Side("torch"), Side("keras")
    first = torch_side.model(head)(config_of(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}))
    first.save_pretrained(tmp_path / "torch", max_shard_size=2000)
    keras_side.load(tmp_path / "torch", head).save_pretrained(tmp_path / "keras")
    last = torch_side.load(tmp_path / "keras", head)
    assert_same(torch_side.arrays(last), torch_side.arrays(first))
    assert last.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_both_frameworks_load_the_folder_of_transformers(side):
    model, info = side.load(HF_FOLDER, output_loading_info=True)
    theirs = safetensors.numpy.load_file(HF_FOLDER / WEIGHTS)
    ours = side.arrays(model)
    assert np.array_equal(ours["embedding.bins.1.weight"], theirs["transformer.word_emb.emb_layers.1.weight"])
    assert np.array_equal(ours["blocks.1.attention.key.weight"],
                          theirs["transformer.layers.1.dec_attn.qkv_net.weight"][24:48])  # fmt: skip
    assert np.array_equal(ours["crit.cluster.bias"], theirs["crit.cluster_bias"])
    assert info == checkpoint.LoadingInfo()


@pytest.mark.parametrize("head", HEADS)
def test_shards_are_loaded_as_one_file_is(tmp_path, side, head):
    expected = write_folder(tmp_path, head, max_shard_size="1.5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    assert (tmp_path / INDEX).is_file()
    assert not (tmp_path / WEIGHTS).exists()
    assert_same(side.arrays(side.load(tmp_path, head)), expected)


def test_a_save_over_shards_leaves_no_shard_and_other_files_alone(tmp_path, side):
    write_folder(tmp_path, max_shard_size=1500)
    (tmp_path / "vocab.txt").write_text("words")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "1").write_text("log")
    model = side.load(tmp_path)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS, "vocab.txt", "logs"}
    assert (tmp_path / "logs" / "1").read_text() == "log"
    model.save_pretrained(tmp_path, max_shard_size=4000)
    assert WEIGHTS not in {path.name for path in tmp_path.iterdir()}
    assert_same(side.arrays(side.load(tmp_path)), side.arrays(model))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_saved_and_loaded_bit_by_bit(tmp_path, side, dtype):
    import ml_dtypes

    expected = write_folder(tmp_path / "in", dtype=getattr(ml_dtypes, dtype, dtype))
    given = dtype
    if side.framework == "torch":
        import torch

        given = getattr(torch, dtype)
    model = side.load(tmp_path / "in", dtype=given)
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (tmp_path / "in" / WEIGHTS).read_bytes()
    assert read_config(tmp_path / "out").torch_dtype == dtype
    wide = side.arrays(side.load(tmp_path / "in"))
    assert_same(wide, {name: array.astype("float32") for name, array in expected.items()})


def test_loading_leaves_the_random_state_of_the_framework_alone(folder):
    side = Side("torch")
    import torch

    state = torch.random.get_rng_state()
    side.load(folder)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_config_keys_can_be_overridden_while_loading(folder, side):
    assert side.load(folder, mem_len=9, dropout=0.0).config == read_config(folder, mem_len=9, dropout=0.0)
    assert side.load(folder, config=config_of(clamp_len=3), mem_len=2).config.clamp_len == 3
    with pytest.raises(ConfigError, match=r"unknown key 'mem_lne'; did you mean 'mem_len'\?"):
        side.load(folder, mem_lne=9)


# ------------------------------------------------------------------------------------------------------ tied tensors


def with_duplicates(folder, config) -> None:
    """Write the second copy of every tied tensor, as `pytorch_model.bin` has them."""
    weights = HF["transfo-xl"]

    def change(tensors):
        for alias, first in FAMILY.ties_within(config, HEADS[LM]).items():
            tensors[weights.theirs(alias)[0]] = tensors[weights.theirs(first)[0]].copy()

    rewrite(folder, change)


@pytest.mark.parametrize("variant", ["plain", "shared biases", "all tied", "one table"])
def test_tied_tensors_are_written_once_and_may_be_read_twice(tmp_path, side, variant):
    expected = write_folder(tmp_path, **VARIANTS[variant])
    names = set(tensors_of(tmp_path))
    assert not [name for name in names if name.startswith("crit.out_layers") and name.endswith("weight")]
    with_duplicates(tmp_path, config_of(**VARIANTS[variant]))
    assert len(tensors_of(tmp_path)) > len(names)
    assert_same(side.arrays(side.load(tmp_path)), expected)


def test_of_differing_tied_tensors_the_later_copy_counts_and_a_warning_tells(folder, side):
    with_duplicates(folder, config_of())
    rewrite(folder, lambda tensors: tensors["crit.out_layers.1.weight"].fill(7.0))
    message = (
        r"'transformer\.word_emb\.emb_layers\.1\.weight' must equal 'crit\.out_layers\.1\.weight', its tied copy, "
        r"got other values; used 'crit\.out_layers\.1\.weight'"
    )
    with pytest.warns(UserWarning, match=message):
        model = side.load(folder)
    assert (side.arrays(model)["embedding.bins.1.weight"] == 7.0).all()


def test_a_tied_tensor_may_stand_under_its_second_name_only(folder):
    expected = tensors_of(folder)["transformer.word_emb.emb_layers.2.weight"]

    def change(tensors):
        tensors["crit.out_layers.2.weight"] = tensors.pop("transformer.word_emb.emb_layers.2.weight")

    rewrite(folder, change)
    file = opened(folder)
    file.settle()
    assert np.array_equal(dict(file.tensors())["embedding.bins.2.weight"], expected)


def test_nan_in_a_second_copy_is_refused_too(folder):
    with_duplicates(folder, config_of())
    rewrite(folder, lambda tensors: tensors["transformer.word_emb.emb_layers.0.weight"].fill(np.nan))
    with pytest.raises(WeightError, match=r"'transformer\.word_emb\.emb_layers\.0\.weight' must be finite"):
        dict(opened(folder).tensors())


# ---------------------------------------------------------------------------------------------- bodies and other heads


@pytest.mark.parametrize("head", [LM, CLASSIFIER])
def test_a_body_is_loaded_from_a_model_with_a_head(tmp_path, side, head):
    arrays = write_folder(tmp_path, head)
    model, info = side.load(tmp_path, BASE, output_loading_info=True)
    ours = side.arrays(model)
    assert_same(ours, {name: arrays[name] for name in ours})
    assert info.other_head_keys
    assert {key.split(".")[0] for key in info.other_head_keys} <= {"crit", "score"}
    assert (info.missing_keys, info.unexpected_keys, info.mismatched_keys) == ([], [], [])


@pytest.mark.parametrize(("head", "key"), [(LM, "crit.cluster_weight"), (CLASSIFIER, "score.weight")])
def test_a_head_is_started_anew_on_a_body_and_a_warning_names_its_tensors(tmp_path, side, head, key):
    arrays = write_folder(tmp_path, BASE)
    with pytest.warns(UserWarning, match=f"the file lacks its head; newly initialised, train before use: .*{key}"):
        model, info = side.load(tmp_path, head, output_loading_info=True)
    ours = side.arrays(model)
    assert_same({name: ours[name] for name in arrays}, arrays)
    started = {name: ours[name] for name in ours.keys() - arrays.keys()}
    for name, array in started.items():
        if name.endswith("bias"):
            assert (array == 0).all()
        else:
            assert 0 < array.std() < 0.05, name
    assert key in info.new_head_keys
    assert info.missing_keys == []


def test_another_head_is_started_anew_on_the_body_of_the_first(folder, side):
    with pytest.warns(UserWarning, match=r"newly initialised, train before use: score\.weight"):
        model, info = side.load(folder, CLASSIFIER, output_loading_info=True)
    assert info.new_head_keys == ["score.weight"]
    assert set(info.other_head_keys) == {name for name in tensors_of(folder) if name.startswith("crit.")}
    assert 0 < side.arrays(model)["score.weight"].std() < 0.05


def test_a_head_that_lacks_a_part_only_is_no_new_head(folder):
    rewrite(folder, lambda tensors: tensors.pop("crit.cluster_weight"))
    with pytest.raises(WeightError, match=r"missing: crit\.cluster_weight; pass strict=False to load the rest"):
        opened(folder).settle()


# ---------------------------------------------------------------------------------- missing, unexpected, mismatched


GONE = "transformer.layers.1.dec_attn.r_net.weight"


def test_a_missing_tensor_is_named(folder, side):
    rewrite(folder, lambda tensors: tensors.pop(GONE))
    with pytest.raises(WeightError) as refused:
        side.load(folder)
    expected = f"{folder}: tensors must fit {LM}, got missing: {GONE}; pass strict=False to load the rest"
    assert str(refused.value) == expected


def test_a_missing_stack_is_named_once(folder):
    name = "transformer.layers.0.dec_attn.qkv_net.weight"
    rewrite(folder, lambda tensors: tensors.pop(name))
    file = opened(folder)
    assert file.info.missing_keys == [name]


def test_an_unexpected_tensor_is_named(folder, side):
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": np.zeros(3, "float32")}))
    with pytest.raises(WeightError, match=r"must fit TransfoXLLMHeadModel, got unexpected: lm_head\.weight; pass"):
        side.load(folder)


def test_a_layer_too_much_is_unexpected_and_one_too_few_missing(folder):
    deeper, flatter = opened(folder, n_layer=3), opened(folder, n_layer=1)
    of_layer = {number: {name for name in tensors_of(folder) if f"layers.{number}.dec" in name} for number in (0, 1)}
    assert of_layer[1] <= set(flatter.info.unexpected_keys)
    assert flatter.info.missing_keys == []
    assert {name.replace("layers.0", "layers.2") for name in of_layer[0]} <= set(deeper.info.missing_keys)
    assert deeper.info.unexpected_keys == []


def test_many_wrong_tensors_are_listed_in_part_and_counted(folder):
    with pytest.raises(WeightError, match=r"missing: (\S+, ){11}\S+ and \d+ more; pass"):
        opened(folder, n_layer=3).settle()


def test_not_strict_loads_the_rest_and_starts_the_missing_anew(folder, side):
    expected = tensors_of(folder)

    def change(tensors):
        tensors[GONE].fill(100.0)
        tensors["junk"] = tensors.pop(GONE)

    rewrite(folder, change)
    with pytest.warns(UserWarning, match=rf"missing: {GONE}; unexpected: junk; missing ones are newly initialised"):
        model, info = side.load(folder, strict=False, output_loading_info=True)
    assert (info.missing_keys, info.unexpected_keys) == ([GONE], ["junk"])
    ours = side.arrays(model)
    assert 0 < ours["blocks.1.attention.position.weight"].std() < 0.05
    rest = "transformer.layers.0.dec_attn.r_net.weight"
    assert np.array_equal(ours["blocks.0.attention.position.weight"], expected[rest])


def test_a_tensor_of_another_shape_is_named_with_both(folder, side):
    name = "transformer.layers.0.pos_ff.CoreNet.0.bias"
    rewrite(folder, lambda tensors: tensors.update({name: np.zeros(13, "float32")}))
    expected = rf"got other shapes: {name} \[13\] for \[12\]; pass ignore_mismatched_sizes=True"
    for strict in (True, False):
        with pytest.raises(WeightError, match=expected):
            side.load(folder, strict=strict)


def test_tensors_of_another_shape_can_be_started_anew(tmp_path, side):
    arrays = write_folder(tmp_path, CLASSIFIER, num_labels=5)
    with pytest.raises(WeightError, match=r"got other shapes: score\.weight \[5, 8\] for \[3, 8\]"):
        side.load(tmp_path, CLASSIFIER, num_labels=3)
    with pytest.warns(UserWarning, match=r"score\.weight \[5, 8\] for \[3, 8\]"):
        model, info = side.load(
            tmp_path, CLASSIFIER, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
        )
    ours = side.arrays(model)
    assert info.mismatched_keys == [("score.weight", (5, 8), (3, 8))]
    assert ours.pop("score.weight").shape == (3, 8)
    assert_same(ours, {name: arrays[name] for name in ours})


def test_a_stack_of_another_shape_is_reported_once(folder):
    name = "transformer.layers.0.dec_attn.qkv_net.weight"
    rewrite(folder, lambda tensors: tensors.update({name: np.zeros((21, 8), "float32")}))
    file = opened(folder)
    assert file.info.mismatched_keys == [(name, (21, 8), (18, 8))]
    assert not {f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value")} & file.names


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, side, value, dtype):
    write_folder(tmp_path, dtype=dtype)
    name = "transformer.layers.1.pos_ff.layer_norm.weight"
    rewrite(tmp_path, lambda tensors: tensors[name].__setitem__(3, value))
    with pytest.raises(WeightError, match=rf"'{name}' must be finite, got NaN or infinity in it"):
        side.load(tmp_path)


def test_brain_floats_that_are_not_finite_are_refused_too(tmp_path):
    import ml_dtypes

    arrays = write_folder(tmp_path, BASE, dtype=ml_dtypes.bfloat16)
    arrays["blocks.0.attention_norm.bias"][2] = np.inf
    read = {name: lambda array=array: array for name, array in arrays.items()}
    dtypes = {name: array.dtype for name, array in arrays.items()}
    checkpoint.save(tmp_path, config_of(), HEADS[BASE], read, dtypes)
    with pytest.raises(WeightError, match=r"'layers\.0\.dec_attn\.layer_norm\.bias' must be finite"):
        dict(opened(tmp_path, BASE).tensors())


# -------------------------------------------------------------------------------------------------------- bad folders


def test_no_folder_is_refused(tmp_path, side):
    with pytest.raises(FormatError, match=r"nowhere: must be a folder that holds config\.json, got no such folder$"):
        side.load(tmp_path / "nowhere")


def test_an_empty_folder_is_refused(tmp_path, side):
    with pytest.raises(FormatError, match=r"must be a folder that holds config\.json, got a folder without it$"):
        side.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path, side):
    config_of().save_pretrained(tmp_path)
    with pytest.raises(FormatError, match=r"must hold model\.safetensors or .*, got config\.json$"):
        side.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json: must hold JSON"),
        ("[]", r"config\.json: must hold a JSON object, got list"),
        ('{"model_type": "bert"}', r"config\.json: model_type must be one of 'transfo-xl'.*, got 'bert'"),
        ('{"n_head": 2}', r"config\.json: model_type must be one of 'transfo-xl'.*, got None"),
        ('{"model_type": "transfo-xl", "n_head": 0}', "TransfoXLConfig: n_head must be positive, got 0"),
    ],
)
def test_a_wrong_config_is_refused(folder, side, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        side.load(folder)


def test_a_config_of_another_class_is_refused(side):
    with pytest.raises(ConfigError, match=r"LMHeadModel: config must be a TransfoXLConfig, got dict$"):
        side.model(LM)(config_of().to_dict())


def test_truncated_weights_are_refused(folder, side):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1])
    with pytest.raises(FormatError, match=r"model\.safetensors: must be a whole safetensors file"):
        side.load(folder)


def test_a_claim_of_a_huge_model_is_refused_before_memory_is_taken(folder, side):
    """The config claims terabytes, the file holds kilobytes: that is seen before a model is built."""
    keys = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**keys, "vocab_size": 10**12}))
    with pytest.raises(WeightError, match=r"got other shapes: .*emb_layers\.2\.weight \[20, 4\] for"):
        side.load(folder)


# ------------------------------------------------------------------------------------------------------------ saving


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5GB", 5 * 10**9),
        ("200MB", 2 * 10**8),
        ("1.5KB", 1500),
        ("7", 7),
        (12, 12),
        ("3 gb", 3 * 10**9),
        ("1T", 10**12),
    ],
)
def test_sizes_are_read(given, expected):
    assert parse_size(given) == expected


@pytest.mark.parametrize("given", ["", "big", "5XB", "-1GB", 0, -5, "0MB", "1e9", None, "5GB5"])
def test_other_sizes_are_refused(given, tmp_path):
    with pytest.raises(FormatError) as refused:
        write_folder(tmp_path / "model", max_shard_size=given)
    expected = "max_shard_size: must be a size such as '5GB' or a positive number of bytes, got "
    assert str(refused.value) == expected + repr(given)
    assert not (tmp_path / "model").exists()


def test_a_save_that_fails_leaves_the_old_model(folder, side):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = side.load(folder)

    def fail():
        raise RuntimeError("lost the device")

    names = list(FAMILY.params(model.config, model.head))
    arrays = {name: lambda array=array: array for name, array in side.arrays(model).items()}
    dtypes = dict.fromkeys(names, np.dtype("float32"))
    for name in (names[0], names[len(names) // 2], names[-1]):
        with pytest.raises(RuntimeError, match="lost the device"):
            checkpoint.save(folder, model.config, model.head, {**arrays, name: fail}, dtypes)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert os.listdir(folder.parent) == [folder.name]


def test_saving_does_not_change_the_config_in_memory(folder, side):
    model = side.load(folder)
    before = model.config.to_dict()
    model.save_pretrained(folder)
    assert model.config.to_dict() == before


def test_every_parameter_is_asked_for_once_while_saving(tmp_path):
    asked = []
    arrays = random_arrays(config_of(), LM)
    read = {name: lambda name=name: asked.append(name) or arrays[name] for name in arrays}
    checkpoint.save(tmp_path, config_of(), HEADS[LM], read, dict.fromkeys(arrays, np.dtype("float32")))
    assert sorted(asked) == sorted(arrays)


# ------------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_loading_takes_the_memory_of_the_model_and_little_more(tmp_path, framework):
    Side(framework)
    big = {"d_model": 512, "d_embed": 512, "n_head": 8, "d_head": 64, "d_inner": 2048, "n_layer": 8, "div_val": 1}
    size = sum(array.nbytes for array in write_folder(tmp_path / "big", BASE, **big).values())
    write_folder(tmp_path / "small", BASE)
    script = """
        import importlib, sys
        def status(key):
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
        module, name, small, big = sys.argv[1:]
        model = getattr(importlib.import_module(module), name)
        model.from_pretrained(small)  # what a framework takes at its first use
        before = status("VmRSS")
        loaded = model.from_pretrained(big)
        print(status("VmHWM") - before)
    """
    module, name = {"torch": ("xl_torch", BASE), "keras": ("xl_tf", "TF" + BASE)}[framework]
    command = [sys.executable, "-c", textwrap.dedent(script), module, name, tmp_path / "small", tmp_path / "big"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    grown = int(child.stdout.split()[-1])
    assert 100e6 < size < 130e6
    assert 0.9 * size < grown < 1.5 * size, f"{grown / size:.2f} times the model"


# ---------------------------------------------------------------------------------------------------- state dicts


@pytest.fixture
def language_model():
    """A language model with random values everywhere, and the same values under HuggingFace's names."""
    side = Side("torch")
    import torch

    model = side.model(LM)(config_of())
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    return model


def foreign_state(model, tmp_path, *, duplicates: bool) -> dict:
    import torch

    model.save_pretrained(tmp_path)
    if duplicates:
        with_duplicates(tmp_path, model.config)
    return {name: torch.from_numpy(array) for name, array in tensors_of(tmp_path).items()}


def assert_equal_models(model, other) -> None:
    side = Side("torch")
    assert_same(side.arrays(model), side.arrays(other))


@pytest.mark.parametrize("duplicates", [True, False])
def test_a_state_dict_with_huggingface_names_loads(tmp_path, language_model, duplicates):
    state = foreign_state(language_model, tmp_path, duplicates=duplicates)
    names = set(state)
    model = type(language_model)(config_of())
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    assert_equal_models(model, language_model)
    assert set(state) == names, "the caller's dictionary is the caller's"


def test_a_state_dict_of_a_body_without_prefix_loads_into_body_and_head(tmp_path, language_model):
    state = foreign_state(language_model.transformer, tmp_path, duplicates=False)
    assert not [name for name in state if name.startswith("transformer")]
    body = type(language_model.transformer)(config_of())
    body.load_state_dict(state)
    assert_equal_models(body, language_model.transformer)
    model = type(language_model)(config_of())
    result = model.load_state_dict(state, strict=False)
    assert {name.split(".")[0] for name in result.missing_keys} == {"crit"}
    assert_equal_models(model.transformer, language_model.transformer)


def test_a_state_dict_with_own_names_loads(language_model):
    model = type(language_model)(config_of())
    model.load_state_dict(language_model.state_dict())
    assert_equal_models(model, language_model)


def test_a_state_dict_of_a_model_within_another_loads(tmp_path, language_model):
    from torch import nn

    state = foreign_state(language_model, tmp_path, duplicates=True)
    outer = nn.ModuleDict({"model": type(language_model)(config_of())})
    outer.load_state_dict({f"model.{name}": tensor for name, tensor in state.items()})
    assert_equal_models(outer["model"], language_model)


def test_buffers_of_other_releases_in_a_state_dict_are_ignored(tmp_path, language_model):
    state = foreign_state(language_model, tmp_path, duplicates=True)
    state["transformer.pos_emb.inv_freq"] = state["crit.cluster_bias"]
    model = type(language_model)(config_of())
    model.load_state_dict(state)
    assert_equal_models(model, language_model)


def test_a_state_dict_with_too_much_or_too_little_is_refused(tmp_path, language_model):
    state = foreign_state(language_model, tmp_path, duplicates=False)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "junk"'):
        type(language_model)(config_of()).load_state_dict({**state, "junk": state["crit.cluster_bias"]})
    del state["transformer.layers.0.dec_attn.qkv_net.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks\.0\.attention\.query\.weight"):
        type(language_model)(config_of()).load_state_dict(state)


@pytest.mark.parametrize("rows", [15, 21, 36])
def test_a_stack_of_another_height_in_a_state_dict_is_refused(tmp_path, language_model, rows):
    state = foreign_state(language_model, tmp_path, duplicates=False)
    name = "transformer.layers.0.dec_attn.qkv_net.weight"
    state[name] = state[name].new_zeros(rows, 8)
    with pytest.raises((RuntimeError, WeightError), match=r"attention|qkv_net"):
        type(language_model)(config_of()).load_state_dict(state)


def test_loading_what_fits_warns_of_nothing(folder, side):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        side.load(folder)
    assert told == []
