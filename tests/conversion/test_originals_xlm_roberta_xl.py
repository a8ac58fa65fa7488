"""What fairseq and transformers wrote of XLM-RoBERTa-XL loads in both frameworks, and computes what it did there."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import KERAS, TORCH
from safetensors.numpy import load_file, save_file

from conversion import checkpoint, cli
from conversion.convert import convert, plan
from conversion.diff import diff
from conversion.formats import open_reader
from conversion.source import open_source
from conversion.target import Target
from tests.conversion.converted import converted, loaded
from tests.conversion.models import HF_FILES, ORIGINAL
from tests.conversion.test_convert import PEAK, ROOT
from xlcore import FAMILIES, XLError
from xlcore.errors import ConfigError, TokenizerError, WeightError
from xlcore.maps.fairseq import CUT
from xlcore.tokenizers import XLMRobertaTokenizer

WORDS, TEXTS = (ORIGINAL / f"xlmr_xl_fairseq-{name}" for name in ("mlm_args", "mnli"))
HF = HF_FILES / "hf_pt-xlm_roberta_xl"
MASKED, CLASSIFIER = "XLMRobertaXLForMaskedLM", "XLMRobertaXLForSequenceClassification"
BODY = "encoder.sentence_encoder"
SIDES = [TORCH, KERAS]
NEAR = 2e-5


def given(expected):
    return {name: expected[f"inputs/{name}"].astype("int64") for name in ("input_ids", "attention_mask")}


def assert_near(found, expected, words):
    """Compare where there are words: what the authors compute of padding is no one's."""
    assert found.shape == expected.shape
    assert np.abs(found - expected)[words].max() < NEAR


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_model_of_words_computes_the_same(side):
    model, expected = loaded(side, WORDS), load_file(WORDS / "expected.safetensors")
    assert model.config.architectures == [MASKED]
    output = side.run(model, given(expected) | {"output_hidden_states": True})
    words = expected["inputs/attention_mask"].astype(bool)
    assert_near(output["logits"], expected["outputs/lm_logits"], words)
    assert_near(output["hidden_states.2"], expected["outputs/features"], words)
    for layer in (0, 1):
        assert_near(output[f"hidden_states.{layer}"], expected[f"outputs/inner_state_{layer}"], words)


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_classifier_computes_the_same(side):
    model, expected = loaded(side, TEXTS), load_file(TEXTS / "expected.safetensors")
    assert model.config.architectures == [CLASSIFIER]
    assert (model.config.num_labels, model.config.finetuning_task) == (3, "mnli")
    found = side.run(model, given(expected))["logits"]
    assert_near(found, expected["outputs/mnli_logits"], np.ones(3, bool))


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_scores_of_words_in_a_classifiers_file_compute_the_same(side, tmp_path):
    convert(plan(TEXTS, tmp_path / "words", head=MASKED))
    model, expected = loaded(side, tmp_path / "words"), load_file(TEXTS / "expected.safetensors")
    found = side.run(model, given(expected))["logits"]
    assert_near(found, expected["outputs/lm_logits"], expected["inputs/attention_mask"].astype(bool))


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_transformers_computes_the_same(side):
    model, expected = loaded(side, HF), load_file(HF / "expected.safetensors")
    assert model.config.architectures == [MASKED]
    found = side.run(model, given(expected))["logits"]
    assert_near(found, expected["outputs/logits"], np.ones(found.shape[:2], bool))


# --------------------------------------------------------------------------------------------------- what was found


def listed(folder):
    """Return the tensors that NOTE.md's companion lists."""
    found = {}
    for line in (folder / "variables.txt").read_text().splitlines():
        name, rest = line.split(" [")
        found[name] = tuple(json.loads(f"[{rest.split(']')[0]}]"))
    return found


@pytest.mark.parametrize("folder", [WORDS, TEXTS, HF], ids=lambda folder: folder.name)
def test_every_tensor_is_accounted_for_once(folder):
    source = open_source(folder)
    assert {account.name: account.entry.shape for account in source.accounts} == listed(folder)
    assert len(source.accounts) == len(listed(folder))
    for account in source.accounts:
        assert bool(account.into) == (account.fate != "ignored")
        assert bool(account.reason) == (account.fate in ("ignored", "tied"))
    used = {name for account in source.accounts for name in account.into}
    implied = set() if folder == HF else {"embedding_of_types.weight"}
    assert used | implied == source.entries.keys() == source.family.params(source.config, source.head).keys()
    assert not source.read("embedding_of_types.weight").any() or folder == HF


def test_what_is_ignored_has_its_reason():
    def fates(source):
        return {account.name: account.reason for account in source.accounts if account.fate == "ignored"}

    assert fates(open_source(WORDS)) == {f"{BODY}.version": "the version of the layout"}
    ignored = fates(open_source(TEXTS))
    assert ignored.pop(f"{BODY}.version")
    assert set(ignored) == {name for name in open_reader(TEXTS) if name.startswith("encoder.lm_head.")}
    assert set(ignored.values()) == {f"of a head that {CLASSIFIER} does not have"}


def test_the_config_follows_from_the_arguments_in_the_file():
    words, texts = open_source(WORDS), open_source(TEXTS)
    wanted = {
        "vocab_size": 1409, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "max_position_embeddings": 514, "type_vocab_size": 1, "hidden_dropout_prob": 0.1,
        "ffn_output_dropout": 0.1, "classifier_dropout": 0.0, "layer_norm_eps": 1e-5, "pad_token_id": 1,
        "tie_word_embeddings": True,
    }  # fmt: skip
    assert {key: getattr(words.config, key) for key in wanted} == wanted
    assert words.told["num_attention_heads"] == "the arguments in the file"
    assert words.told["layer_norm_eps"] == "the authors' code"
    assert (texts.config.num_attention_heads, texts.config.num_hidden_layers) == (4, 3)


# ------------------------------------------------------------------------------------------- files of other shapes


@pytest.fixture(scope="module")
def held():
    """Return what PyTorch finds in the authors' file."""
    torch = pytest.importorskip("torch")
    return torch.load(WORDS / "model.pt", weights_only=False)


def saved(folder, held, **changes):
    """Save what a file holds, changed, beside the authors' tokenizer."""
    import torch

    folder.mkdir(exist_ok=True)
    torch.save({**held, **changes}, folder / "model.pt")
    return folder


def assert_same_numbers(folder, head=MASKED):
    one, other = open_source(WORDS), open_source(folder)
    assert other.head.name == head
    assert one.config.copy(torch_dtype="float32") == other.config.copy(torch_dtype="float32")
    for name in one.entries:
        assert np.array_equal(one.read(name), other.read(name)), name


def old_names(state):
    """Name tensors as fairseq's first releases did."""
    old = {}
    for name, tensor in state.items():
        name = name.replace("encoder.sentence", "decoder.sentence").replace("encoder.lm_head", "decoder.lm_head")
        name = name.replace("self_attn_layer_norm", "layer_norms.0").replace("final_layer_norm", "layer_norms.1")
        old[f"module.{name}"] = tensor
    return old


def test_names_of_older_files_are_known(held, tmp_path):
    assert_same_numbers(saved(tmp_path / "old", held, model=old_names(held["model"])))


def in_one(state):
    """Put query, key and value into one tensor, as fairseq's first releases did."""
    import torch

    found = dict(state)
    for layer in (0, 1):
        start = f"{BODY}.layers.{layer}.self_attn"
        for last in ("weight", "bias"):
            parts = [found.pop(f"{start}.{part}_proj.{last}") for part in "qkv"]
            found[f"{start}.in_proj_{last}"] = torch.cat(parts)
    return found


def test_query_key_and_value_in_one_tensor_are_split_and_go_back(held, tmp_path):
    folder = saved(tmp_path / "fused", held, model=in_one(held["model"]))
    assert_same_numbers(folder)
    assert len([account for account in open_source(folder).accounts if account.fate == "split"]) == 4
    convert(plan(folder, tmp_path / "back", to="torch-original-fused"))
    one, other = open_reader(folder), open_reader(tmp_path / "back")
    assert set(one) == set(other)
    assert all(one.read(name).tobytes() == other.read(name).tobytes() for name in one)


class Live:
    """A config as omegaconf pickles it: nodes in nodes."""

    def __init__(self, module, name, **attributes):
        kind = type(name, (), {"__module__": module})
        self.made = kind()
        vars(self.made).update(attributes)


def test_a_live_config_is_read_without_running(held, tmp_path, monkeypatch):
    import sys
    import types

    for module, name in (("omegaconf.dictconfig", "DictConfig"), ("omegaconf.nodes", "AnyNode")):
        for each in ("omegaconf", module):
            monkeypatch.setitem(sys.modules, each, sys.modules.get(each) or types.ModuleType(each))
        monkeypatch.setattr(sys.modules[module], name, type(name, (), {"__module__": module}), raising=False)

    def node(value):
        made = sys.modules["omegaconf.nodes"].AnyNode()
        made._val = value
        return made

    def config(content):
        made = sys.modules["omegaconf.dictconfig"].DictConfig()
        made._content = content
        return made

    model = config({key: node(value) for key, value in vars(held["args"]).items()})
    assert_same_numbers(saved(tmp_path / "live", held, args=None, cfg=config({"model": model})))


def test_without_arguments_the_number_of_heads_must_be_told(held, tmp_path):
    folder = saved(tmp_path / "bare", {}, model=held["model"])
    expected = r"num_attention_heads must be told, got tensors that do not; give the key 'num_attention_heads' or a"
    with pytest.raises(ConfigError, match=expected):
        open_source(folder)
    source = open_source(folder, config={"num_attention_heads": 3})
    assert source.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("encoder_normalize_before", False), ("layernorm_embedding", True), ("activation_fn", "relu")],
)
def test_models_of_other_families_are_refused(held, tmp_path, key, value):
    folder = saved(tmp_path / "other", held, args=argparse.Namespace(**{**vars(held["args"]), key: value}))
    with pytest.raises(ConfigError, match=rf"{key} must be .*, got {value!r}, which is not built here$"):
        open_source(folder)


def test_a_model_without_its_last_norm_is_refused(held, tmp_path):
    state = {name: tensor for name, tensor in held["model"].items() if not name.startswith(f"{BODY}.layer_norm.")}
    with pytest.raises(WeightError, match=rf"missing: {BODY}\.layer_norm\.weight, {BODY}\.layer_norm\.bias$"):
        open_source(saved(tmp_path / "v1", held, model=state))


def test_sizes_that_contradict_the_tensors_are_refused(held, tmp_path):
    folder = saved(tmp_path / "x", held, args=argparse.Namespace(**{**vars(held["args"]), "encoder_layers": 3}))
    with pytest.raises(ConfigError, match=r"num_hidden_layers of the arguments in the file must be 2, .*, got 3$"):
        open_source(folder)


def test_a_table_of_its_own_for_scores_is_untied(held, tmp_path):
    state = {**held["model"], "encoder.lm_head.weight": held["model"]["encoder.lm_head.weight"] * 2}
    source = open_source(saved(tmp_path / "x", held, model=state))
    assert source.config.tie_word_embeddings is False
    assert np.array_equal(source.read("lm_head.weight"), 2 * source.read("embedding.weight"))
    assert any(note.endswith("differ: untied") for note in source.notes)
    assert source.warnings == []


def test_of_several_classification_heads_one_is_taken(tmp_path):
    torch = pytest.importorskip("torch")
    held = torch.load(TEXTS / "model.pt", weights_only=False)
    state = dict(held["model"])
    for last in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"):
        state[f"classification_heads.other.{last}"] = state[f"classification_heads.mnli.{last}"] + 1
    folder = saved(tmp_path / "x", held, model=state)
    first, second = open_source(folder), open_source(folder, config={"finetuning_task": "other"})
    assert np.array_equal(first.read("classifier.score.weight") + 1, second.read("classifier.score.weight"))
    assert any("took the classification head 'mnli'; " in note for note in first.notes)
    reasons = {each.reason for each in first.accounts if each.name.startswith("classification_heads.other")}
    assert reasons == {"another classification head; see the key finetuning_task"}


class Runs:
    """A thing whose pickle makes a folder when it is read as Python would."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_in_an_original_runs(held, tmp_path):
    torch = pytest.importorskip("torch")
    marker = tmp_path / "marker"
    folder = saved(tmp_path / "evil", held, extra_state=Runs(marker), task_state=[Runs(marker)])
    convert(plan(folder, tmp_path / "ours"))
    assert_same_numbers(tmp_path / "ours")
    assert not marker.exists()
    with pytest.raises(FileExistsError):  # it would have, twice
        torch.load(folder / "model.pt", weights_only=False)
    assert marker.exists()


# ------------------------------------------------------------------------------------------------------- in parts


def test_a_model_in_parts_converts_and_is_the_same(held, tmp_path):
    import torch

    state = {name: tensor for name, tensor in held["model"].items() if name != "encoder.lm_head.weight"}
    table = f"{BODY}.embed_tokens.weight"
    for name in (table, "encoder.lm_head.bias"):  # fairseq fills vocabularies up, so that they can be cut
        state[name] = torch.cat([state[name], torch.zeros(1, *state[name].shape[1:])])
    (tmp_path / "parts").mkdir()
    for number in range(2):
        axes = {name: next((axis for rule, axis in CUT.items() if re.fullmatch(rule, name)), None) for name in state}
        part = {
            name: tensor if axes[name] is None else tensor.chunk(2, axes[name])[number].clone()
            for name, tensor in state.items()
        }
        part["encoder.lm_head.weight"] = part[table]
        torch.save({**held, "model": part}, tmp_path / "parts" / f"model-model_part-{number}.pt")
    shutil.copy(WORDS / "sentencepiece.bpe.model", tmp_path / "parts")
    report = convert(plan(tmp_path / "parts", tmp_path / "out"))
    assert report.verified
    whole, joined = open_source(WORDS), open_source(tmp_path / "out")
    for name in whole.entries:
        assert np.array_equal(joined.read(name)[: len(whole.read(name))], whole.read(name)), name
    assert joined.config == whole.config.copy(vocab_size=1410, torch_dtype="float32", architectures=[MASKED])


HEADS = {head.name: head for head in FAMILIES["xlm-roberta-xl"].heads}
WIDE = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 10, "ffn_output_dropout": 0.1, "classifier_dropout": 0.0,
}  # fmt: skip


def drawn(folder, head=MASKED, dtype="float32", **keys):
    """Save a small random model whose sizes two and four divide; its kinds of segments are none."""
    family = FAMILIES["xlm-roberta-xl"]
    config, rng = family.config(**WIDE | keys), np.random.default_rng(0)
    params = family.params(config, HEADS[head])
    arrays = {name: rng.standard_normal(param.shape).astype(dtype) for name, param in params.items()}
    arrays["embedding_of_types.weight"][:] = 0
    read = {name: lambda array=array: array for name, array in arrays.items()}
    checkpoint.save(folder, config, HEADS[head], read, {name: array.dtype for name, array in arrays.items()})
    return folder


@pytest.mark.parametrize(("head", "dtype"), [(MASKED, "float32"), (CLASSIFIER, "bfloat16")])
@pytest.mark.parametrize("parts", [2, 4])
def test_written_in_parts_it_comes_back_bit_by_bit(head, dtype, parts, tmp_path):
    report = convert(plan(drawn(tmp_path / "ours", head, dtype), tmp_path / "parts", to="torch-original", parts=parts))
    assert report.verified
    names = [f"model-model_part-{number}.pt" for number in range(parts)]
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.pt")) == names
    assert convert(plan(tmp_path / "ours", tmp_path / "parts", to="torch-original", parts=parts)).stood
    (tmp_path / "parts" / "config.json").unlink()  # the files alone tell their config
    convert(plan(tmp_path / "parts", tmp_path / "back"))
    one, other = (tmp_path / each / "model.safetensors" for each in ("ours", "back"))
    assert one.read_bytes() == other.read_bytes()
    assert diff(open_source(tmp_path / "ours"), open_source(tmp_path / "parts")).config.keys() <= {"finetuning_task"}


def test_each_part_holds_what_fairseq_asks_for(tmp_path):
    torch = pytest.importorskip("torch")
    drawn(tmp_path / "ours")
    for name, keys in (("one", {}), ("two", {"parts": 2})):
        convert(plan(tmp_path / "ours", tmp_path / name, to="torch-original", **keys))
    whole = torch.load(tmp_path / "one" / "model.pt", weights_only=False)
    for number in range(2):
        part = torch.load(tmp_path / "two" / f"model-model_part-{number}.pt", weights_only=False)
        for name, tensor in whole["model"].items():
            axis = next((axis for rule, axis in CUT.items() if re.fullmatch(rule, name)), None)
            wanted = tensor if axis is None else tensor.chunk(2, axis)[number]
            assert torch.equal(part["model"][name], wanted), name
        assert part.keys() == whole.keys()
        own = {"arch": "model_parallel_roberta", "model_parallel_size": 2, "no_final_layer_norm": False}
        assert vars(part["args"]) == vars(whole["args"]) | own
        assert {key: part[key] for key in part.keys() - {"args", "model"}} == {
            key: whole[key] for key in whole.keys() - {"args", "model"}
        }


def test_the_command_writes_parts_and_tells_them(tmp_path, capsys):
    command = [
        "convert",
        str(drawn(tmp_path / "ours")),
        str(tmp_path / "out"),
        "--to",
        "torch-original",
        "--parts",
        "2",
    ]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "model-model_part-0.pt, model-model_part-1.pt" in capsys.readouterr().out
    assert cli.main([*command, "--dry-run", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["result"]
    assert all(each["file"] == "model-model_part-0.pt" for each in known["tensors"])
    assert [part["file"] for each in known["tensors"] for part in each["parts"]] == ["model-model_part-1.pt"] * len(
        known["tensors"]
    )
    assert not (tmp_path / "out").exists()
    assert cli.main(command) == 0
    assert cli.main([*command[:-1], "4"]) == 2  # what stands there is another result
    assert "must not exist yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "options", "got"),
    [
        ({}, {"parts": 0}, r"convert: parts must be a positive number, got 0"),
        ({}, {"parts": "2"}, r"convert: parts must be a positive number, got '2'"),
        (
            {},
            {"to": "hf", "parts": 2},
            r"hf: parts must be 1 there, got 2; written in several is torch-original of xlm-r",
        ),
        ({}, {"to": "torch-original-fused", "parts": 2}, r"torch-original-fused: parts must be 1 there, got 2; "),
        (
            {},
            {"parts": 8},
            r"torch-original in parts: num_attention_heads must be .* of parts, 8, got 4; choose another",
        ),
        (
            {"vocab_size": 50},
            {"parts": 2},
            r"torch-original in parts: vocab_size must be a multiple of 16, 8 for each of 2 parts, got 50; "
            r"resize_token_embeddings\(64\) makes it one$",
        ),
        (
            {"tie_word_embeddings": False},
            {"parts": 2},
            r"torch-original in parts: tie_word_embeddings must be True there",
        ),
        (
            {"intermediate_size": 22},
            {"parts": 4},
            r"torch: 'encoder\.sentence_encoder\.layers\.0\.fc1\.weight' must have a multiple of 4 numbers along ",
        ),
    ],
)
def test_what_cannot_be_written_in_parts_is_refused(keys, options, got, tmp_path):
    with pytest.raises(XLError, match=f"^{got}"):
        plan(drawn(tmp_path / "ours", **keys), tmp_path / "out", **{"to": "torch-original"} | options)


def test_memory_for_parts_is_bounded_whatever_the_size_of_the_model(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell")
    keys = {"vocab_size": 2048, "hidden_size": 1024, "num_hidden_layers": 9, "intermediate_size": 4096}
    config = FAMILIES["xlm-roberta-xl"].config(**WIDE | keys)
    target = Target("hf", config, HEADS[MASKED], np.dtype("float32"))
    (tmp_path / "ours").mkdir()
    target.writer.begin(tmp_path / "ours")  # with holes in place of tensors
    (tmp_path / "ours" / "config.json").write_bytes(target.side["config.json"])
    most = 300e6 + 2 * max(entry.nbytes for entry in target.entries)
    assert sum(entry.nbytes for entry in target.entries) > 1.3 * most
    command = [sys.executable, "-c", textwrap.dedent(PEAK), "convert", tmp_path / "ours", tmp_path / "out"]
    done = subprocess.run(
        [*command, "--to", "torch-original", "--parts", "4"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.splitlines()[-1]) * 1024 < most


def test_one_part_is_the_one_file_whatever_its_size(tmp_path):
    """The authors' code knows no shards with an index."""
    planned = plan(converted(WORDS), tmp_path / "out", to="torch-original", max_shard_size="100KB", parts=1)
    assert planned.size > 200_000
    assert [name for name in planned.files if name.startswith("model")] == ["model.pt"]


# ------------------------------------------------------------------------------------------------------ there, back


@pytest.mark.parametrize("folder", [WORDS, TEXTS], ids=lambda folder: folder.name)
def test_the_authors_file_comes_back_and_opens_in_pytorch(folder, tmp_path):
    torch = pytest.importorskip("torch")
    convert(plan(converted(folder), tmp_path / "back", to="torch-original"))
    (tmp_path / "back" / "config.json").unlink()  # the file alone tells its config
    difference = diff(open_source(folder), open_source(tmp_path / "back"))
    assert difference.same_tensors
    assert difference.config == {}
    first, last = (torch.load(each / "model.pt", weights_only=False) for each in (folder, tmp_path / "back"))
    for name, tensor in last["model"].items():
        assert torch.equal(tensor, first["model"][name]), name
    lost = first["model"].keys() - last["model"].keys()
    assert lost == ({name for name in first["model"] if ".lm_head." in name} if folder == TEXTS else set())
    assert last["args"].encoder_attention_heads == open_source(folder).config.num_attention_heads
    assert last["optimizer_history"][-1].keys() >= {"optimizer_name", "lr_scheduler_state", "num_updates"}
    assert last["extra_state"]["train_iterator"]["epoch"] == 1
    if folder == WORDS:
        assert (
            last["model"]["encoder.lm_head.weight"].data_ptr()
            == last["model"][f"{BODY}.embed_tokens.weight"].data_ptr()
        )
        assert (tmp_path / "back" / "dict.txt").read_bytes() == (WORDS / "dict.txt").read_bytes()


@pytest.mark.parametrize("to", ["torch", "hf-tf", "keras", ".keras", "torch-original", "torch-original-fused"])
def test_whatever_it_is_written_as_it_comes_back(to, tmp_path):
    convert(plan(converted(WORDS), tmp_path / "there", to=to))
    convert(plan(tmp_path / "there", tmp_path / "back"))
    one, other = (folder / "model.safetensors" for folder in (converted(WORDS), tmp_path / "back"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("keys", "head", "got"),
    [
        ({"type_vocab_size": 2}, MASKED, "type_vocab_size must be 1 there, got 2"),
        ({"position_embedding_type": "relative_key"}, MASKED, "position_embedding_type must be 'absolute' there"),
        ({"hidden_act": "relu"}, MASKED, "hidden_act must be 'gelu' there"),
        ({}, "XLMRobertaXLForTokenClassification", f"head must be {MASKED} or {CLASSIFIER} there"),
        ({}, "XLMRobertaXLModel", "add_pooling_layer must be False there"),
    ],
)
def test_what_fairseq_has_no_class_for_is_refused(keys, head, got):
    from xlcore.families import find_head_by_name
    from xlcore.families.xlm_roberta_xl import XLMRobertaXLConfig

    with pytest.raises(ConfigError, match=f"^torch-original: {got}"):
        Target("torch-original", XLMRobertaXLConfig(**keys), find_head_by_name(head), np.dtype("float32"))


def test_kinds_of_segments_with_numbers_have_no_place_in_fairseq(tmp_path):
    arrays = load_file(converted(WORDS) / "model.safetensors")
    arrays["roberta.embeddings.token_type_embeddings.weight"] += 1
    save_file(arrays, tmp_path / "model.safetensors")
    shutil.copy(converted(WORDS) / "config.json", tmp_path)
    expected = (
        r"^torch-original: embedding_of_types\.weight must be zeros there, got other numbers; choose another format$"
    )
    with pytest.raises(ConfigError, match=expected):
        plan(tmp_path, tmp_path / "out", to="torch-original")


# ------------------------------------------------------------------------------------------ transformers' TensorFlow


def test_embeddings_that_the_layer_of_scores_holds_again_are_passed_over(tmp_path):
    """So TensorFlow's XLM-RoBERTa is saved, whose names these are."""
    convert(plan(converted(WORDS), tmp_path / "tf", to="hf-tf"))
    with h5py.File(tmp_path / "tf" / "tf_model.h5", "r+") as file:
        inner = "tfxlm_roberta_xl_for_masked_lm/roberta/embeddings"
        file.copy(f"roberta/{inner}", f"lm_head/{inner}")
    source = open_source(tmp_path / "tf")
    ignored = {each.name: each.reason for each in source.accounts if each.fate == "ignored"}
    assert len(ignored) == 3
    assert set(ignored.values()) == {"the embeddings once more, as TensorFlow's layer of scores holds them"}
    assert diff(open_source(WORDS), source).same_tensors


# -------------------------------------------------------------------------------------------------------- tokenizers


def test_the_tokenizer_goes_along_and_gives_the_authors_ids():
    tokenizer = XLMRobertaTokenizer.from_pretrained(converted(WORDS))
    cases = json.loads((WORDS / "texts.json").read_text())
    assert [tokenizer(text)["input_ids"] for text in cases["texts"]] == cases["fairseq_ids"]


def test_a_dictionary_is_made_where_there_is_none(tmp_path):
    shutil.copytree(converted(WORDS), tmp_path / "ours")
    (tmp_path / "ours" / "dict.txt").unlink()
    convert(plan(tmp_path / "ours", tmp_path / "theirs", to="torch-original"))

    def symbols(folder):
        return [line.split(" ")[0] for line in (folder / "dict.txt").read_text(encoding="utf-8").splitlines()]

    assert symbols(tmp_path / "theirs") == symbols(WORDS)
    convert(plan(tmp_path / "theirs", tmp_path / "back"))  # and fits the model again


def test_a_dictionary_of_another_model_stops_the_conversion(tmp_path):
    shutil.copytree(WORDS, tmp_path / "x")
    lines = (WORDS / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "x" / "dict.txt").write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"x: dict\.txt: line 1 must hold '▁', got '▁the'$"):
        plan(tmp_path / "x", tmp_path / "out")
    open_source(tmp_path / "x")  # the weights are not to blame


def test_a_tokenizer_with_more_words_than_the_model_stops_the_conversion(tmp_path):
    shutil.copytree(HF, tmp_path / "x")
    shutil.copy(WORDS / "sentencepiece.bpe.model", tmp_path / "x")
    expected = r"x: sentencepiece\.bpe\.model must have at most vocab_size=52 tokens, got 1409$"
    with pytest.raises(TokenizerError, match=expected):
        plan(tmp_path / "x", tmp_path / "out")
