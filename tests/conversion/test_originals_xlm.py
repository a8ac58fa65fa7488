"""What XLM's authors and transformers wrote loads in both frameworks, and computes what it computed there."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import KERAS, TORCH
from safetensors.numpy import load_file, save_file

from conversion.convert import convert, plan
from conversion.formats import open_reader
from conversion.shown import plan_lines
from conversion.source import open_source
from tests.conversion.converted import converted, loaded
from xlcore.errors import ConfigError, FormatError, XLError
from xlcore.tokenizers.xlm import XLMTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL = sorted((GOLDEN / "original").glob("xlm_pth-*"))
ASM, TRANSLATION, PARALLEL, ENGLISH = ORIGINAL
HF = sorted(each for each in (GOLDEN / "hf_files").glob("*-xlm*") if "roberta" not in each.name)
LM = "XLMWithLMHeadModel"
SIDES = [TORCH, KERAS]
# What each run of NOTE.md is given beside the words and their number, and whether it was causal.
RUNS = {
    "mlm": (("langs",), False),
    "clm": (("langs",), True),
    "tlm": (("langs", "positions"), False),
    "mlm_nolangs": ((), False),
}
NAMES = {"langs": "langs", "positions": "position_ids"}


def assert_near(found, expected, what, near=1e-5):
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() < near, what


def given_to(expected, keys):
    """Return the inputs of a run, batch first."""
    texts = {"input_ids": expected["inputs/x"].T, "lengths": expected["inputs/lengths"]}
    return texts | {NAMES[key]: expected[f"inputs/{key}"].T for key in keys if f"inputs/{key}" in expected}


def labels_of(expected):
    """Return the words to be predicted where they were, in the order in which the authors gather them."""
    masked = expected["inputs/pred_mask"].astype(bool)
    labels = np.full(masked.shape, -100)
    labels[masked] = expected["inputs/y"]
    return labels.T


# --------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("folder", ORIGINAL, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_model_computes_the_same(side, folder, run):
    keys, causal = RUNS[run]
    model, expected = loaded(side, folder, causal=causal), load_file(folder / "expected.safetensors")
    given = given_to(expected, keys)
    output = side.run(model, given | {"output_hidden_states": True})
    last = output[f"hidden_states.{model.config.n_layers}"]
    assert_near(last.swapaxes(0, 1), expected[f"outputs/{run}/hidden"], f"{run} hidden")
    assert_near(output["logits"].swapaxes(0, 1), expected[f"outputs/{run}/all_scores"], f"{run} scores")
    loss = side.run(model, given | {"labels": labels_of(expected)})["loss"]
    assert_near(loss, expected[f"outputs/{run}/loss"], f"{run} loss")


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_decoder_computes_the_same(side):
    expected = load_file(TRANSLATION / "expected.safetensors")
    decoder = loaded(side, converted(TRANSLATION, is_encoder=False))
    texts = {"input_ids": "tgt_x", "langs": "tgt_langs", "lengths": "tgt_len"}
    given = {key: expected[f"inputs/{name}"].T for key, name in texts.items()}
    states = np.ascontiguousarray(expected["outputs/mlm/hidden"].swapaxes(0, 1))
    given |= {"src_enc": states, "src_len": expected["inputs/lengths"], "output_hidden_states": True}
    output = side.run(decoder, given)
    assert_near(output["hidden_states.2"].swapaxes(0, 1), expected["outputs/decoder/hidden"], "hidden")
    assert_near(output["logits"].swapaxes(0, 1), expected["outputs/decoder/all_scores"], "scores")


@pytest.mark.parametrize("folder", HF, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_transformers_computes_the_same(side, folder):
    model, expected = loaded(side, folder), load_file(folder / "expected.safetensors")
    assert model.config.architectures == [LM]
    given = {name.split("/")[1]: array.astype("int64") for name, array in expected.items() if "inputs/" in name}
    assert given.keys() == {"input_ids", "langs", "attention_mask"}
    assert_near(side.run(model, given)["logits"], expected["outputs/logits"], folder.name, 2e-5)


# -------------------------------------------------------------------------------------------------- what was found


def listed(folder):
    """Return the tensors that NOTE.md's companion lists, by the names that our reader gives them."""
    found = {}
    for line in (folder / "variables.txt").read_text().splitlines():
        name, shape = line.rsplit(" [", 1)
        found[name.removeprefix("model/").replace("encoder/", "encoder.").replace("decoder/", "decoder.")] = tuple(
            json.loads(f"[{shape}")
        )
    return found


@pytest.mark.parametrize("folder", [*ORIGINAL, *HF], ids=lambda folder: folder.name)
def test_every_tensor_is_accounted_for_once(folder):
    source = open_source(folder)
    names = [account.name for account in source.accounts]
    assert len(set(names)) == len(names)
    assert set(names) == {*source.reader, *source.reader.aside}
    for account in source.accounts:
        assert bool(account.into) == (account.fate != "ignored")
        assert bool(account.reason) == (account.fate in ("ignored", "tied"))
    used = {name for account in source.accounts for name in account.into}
    assert used == source.entries.keys() == source.family.params(source.config, source.head).keys()
    if folder in ORIGINAL:
        assert {name: source.reader[name].shape for name in source.reader} == listed(folder)


def fates(source, fate):
    return {account.name: account.reason for account in source.accounts if account.fate == fate}


def test_of_a_translation_model_one_half_is_taken_and_the_other_ignored_for_a_reason():
    encoder, decoder = open_source(TRANSLATION), open_source(TRANSLATION, config={"is_encoder": False})
    assert (encoder.config.is_encoder, encoder.config.causal) == (True, False)
    assert (decoder.config.is_encoder, decoder.config.causal) == (False, True)
    assert "took the encoder; is_encoder=False takes the decoder" in encoder.notes
    assert "took the decoder; is_encoder=True takes the encoder" in decoder.notes
    ignored = fates(encoder, "ignored")
    assert ignored.pop("params.pred_probs")
    assert set(ignored) == {name for name in encoder.reader if name.startswith("decoder.")}
    assert set(ignored.values()) == {"the decoder's; is_encoder=False takes the decoder"}
    assert set(fates(decoder, "ignored")) - {"params.pred_probs"} == set(encoder.reader) - set(ignored)
    assert not np.array_equal(encoder.read("embedding.weight"), decoder.read("embedding.weight"))


def test_what_the_optimizer_had_is_ignored():
    ignored = fates(open_source(PARALLEL), "ignored")
    assert len(ignored) > 70
    assert all(name.startswith(("model_optimizer.", "params.")) for name in ignored)


def test_the_config_follows_from_the_parameters_in_the_file():
    wanted = {
        ASM: {"causal": True, "asm": True, "asm_cutoffs": [20, 40], "asm_div_value": 2.0, "tie_word_embeddings": False},
        PARALLEL: {"causal": False, "n_langs": 3, "n_heads": 3, "tie_word_embeddings": True, "gelu_activation": True},
        ENGLISH: {"sinusoidal_embeddings": True, "gelu_activation": False, "n_langs": 1, "n_heads": 2},
    }
    for folder, keys in wanted.items():
        source = open_source(folder)
        assert {key: getattr(source.config, key) for key in keys} == keys
        assert (source.config.max_position_embeddings, source.config.layer_norm_eps) == (512, 1e-12)
        assert source.told["n_heads"] == "the parameters in the file"
    assert open_source(ASM).told["causal"] == "how it was trained: on next words only"
    assert open_source(PARALLEL).told["causal"] == "how it was trained: not on next words only"
    assert dict(open_source(PARALLEL).config.lang2id) == {"de": 0, "en": 1, "fr": 2}


@pytest.mark.parametrize("folder", [ASM, PARALLEL], ids=lambda folder: folder.name)
def test_half_a_model_that_is_not_there_is_refused(folder):
    expected = r"is_encoder must be True for a file with an encoder only, got False$"
    with pytest.raises(ConfigError, match=expected):
        open_source(folder, config={"is_encoder": False})


class Runs:
    """A thing whose pickle makes a file when it is read as Python would."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_in_an_original_runs(tmp_path):
    torch = pytest.importorskip("torch")
    held = torch.load(ENGLISH / "model.pth", weights_only=False)
    marker, file = tmp_path / "marker", tmp_path / "model.pth"
    held["params"]["evil"] = held["dico_counts"]["evil"] = Runs(marker)
    torch.save(held, file)
    convert(plan(file, tmp_path / "ours"))
    assert_same(open_source(ENGLISH), open_source(tmp_path / "ours"))
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists()  # it would have


@pytest.mark.parametrize("key", ["dico_word2id", "params"])
def test_what_should_be_data_and_is_not_is_refused(key, tmp_path):
    torch = pytest.importorskip("torch")
    held = torch.load(ENGLISH / "model.pth", weights_only=False)
    held[key]["n_heads"] = Runs(tmp_path / "marker")
    torch.save(held, tmp_path / "model.pth")
    with pytest.raises(XLError):
        plan(tmp_path / "model.pth", tmp_path / "ours")
    assert not (tmp_path / "marker").exists()


# ------------------------------------------------------------------------------------------------ files of long ago


def old_file(folder, change):
    """Write HuggingFace's file anew, its tensors changed, under the config that it has."""
    reader = open_reader(HF[0])
    arrays = {name: reader.read(name) for name in reader}
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_bytes((HF[0] / "config.json").read_bytes())
    return folder


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_copies_that_differ_are_two_tensors(side, tmp_path):
    """As in transformers 5; 4.34 lets the later one win."""

    def change(arrays):
        arrays["pred_layer.proj.weight"] = arrays["pred_layer.proj.weight"] * 2

    folder = old_file(tmp_path, change)
    model = loaded(side, folder)
    assert model.config.tie_word_embeddings is False
    weights = side.weights(model)
    table = open_reader(HF[0]).read("transformer.embeddings.weight")
    assert np.array_equal(weights["embedding.weight"], table)
    assert np.array_equal(weights["lm_head.weight"], table * 2)
    assert any(note.endswith("differ: untied") for note in open_source(folder).notes)


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_old_names_and_buffers_are_known(side, tmp_path):
    def change(arrays):
        arrays["transformer.position_ids"] = np.arange(20)[None]
        for name in [name for name in arrays if "layer_norm" in name]:
            arrays[name.replace("weight", "gamma").replace("bias", "beta")] = arrays.pop(name)

    folder = old_file(tmp_path, change)
    ignored = fates(open_source(folder), "ignored")
    assert ignored == {"transformer.position_ids": "the numbers 0, 1, ... of the positions"}
    found, wanted = (side.weights(loaded(side, each)) for each in (folder, HF[0]))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


# ------------------------------------------------------------------------------------------------------- there, back


def tensors(source):
    return {name: source.read(name) for name in source.entries}


def assert_same(one, other):
    assert one.entries.keys() == other.entries.keys()
    assert one.head is other.head
    for name, array in tensors(one).items():
        assert other.read(name).tobytes() == array.tobytes(), name


HALVES = [(folder, {}) for folder in ORIGINAL] + [(TRANSLATION, {"is_encoder": False})]


@pytest.mark.parametrize(("folder", "keys"), HALVES, ids=lambda each: getattr(each, "name", str(each)))
def test_an_original_comes_back_from_our_files_bit_by_bit(folder, keys, tmp_path):
    convert(plan(folder, tmp_path / "ours", config=keys))
    convert(plan(tmp_path / "ours", tmp_path / "theirs", to="torch-original"))
    source = open_source(folder, config=keys)
    assert_same(source, open_source(tmp_path / "ours"))
    (tmp_path / "theirs" / "config.json").unlink()  # the file alone tells its config
    back = open_source(tmp_path / "theirs")
    assert back.origin.name == "torch-original"
    assert_same(source, back)
    first, last = source.config.to_dict(), back.config.to_dict()
    assert {key: last[key] for key in first if key in source.config.fields} == {
        key: first[key] for key in first if key in source.config.fields
    }
    assert dict(back.config.lang2id) == dict(source.config.lang2id)


def test_the_dictionary_comes_back(tmp_path):
    convert(plan(PARALLEL, tmp_path / "ours"))
    convert(plan(tmp_path / "ours", tmp_path / "theirs", to="torch-original"))
    before, after = (open_reader(path).extras for path in (PARALLEL, tmp_path / "theirs"))
    for key in ("dico_id2word", "dico_word2id"):
        assert dict(after[key]) == dict(before[key])
    assert list(after["dico_counts"]) == list(before["dico_counts"])
    assert list(after["dico_counts"].values()) == [0] * 14 + [1] * 47  # vocab.json has no counts
    known = ("emb_dim", "n_heads", "n_words", "share_inout_emb", "n_langs", "id2lang", "lang2id", "pad_index", "lgs")
    assert {key: after["params"][key] for key in known} == {key: before["params"][key] for key in known}


def test_the_authors_own_loader_finds_what_it_wants(tmp_path):
    """PyTorch reads what was written, nothing but data in it, and the state dict has the authors' names."""
    torch = pytest.importorskip("torch")
    convert(plan(ENGLISH, tmp_path / "theirs", to="torch-original"))
    held = torch.load(tmp_path / "theirs" / "model.pth", weights_only=True)
    assert list(held) == ["model", "dico_id2word", "dico_word2id", "dico_counts", "params"]
    wanted = listed(ENGLISH)
    assert {name: tuple(value.shape) for name, value in held["model"].items()} == wanted
    shared = held["model"]["pred_layer.proj.weight"], held["model"]["embeddings.weight"]
    assert shared[0].data_ptr() == shared[1].data_ptr()


# -------------------------------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_is_made_of_the_dictionary_and_the_codes(tmp_path):
    planned = plan(PARALLEL, tmp_path / "ours")
    assert planned.to_dict()["result"]["made"] == ["vocab.json", "tokenizer_config.json", "merges.txt"]
    assert any("made" in line and "vocab.json, tokenizer_config.json" in line for line in plan_lines(planned))
    convert(planned)
    assert (tmp_path / "ours" / "merges.txt").read_bytes() == (PARALLEL / "codes").read_bytes()
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer.do_lowercase_and_remove_accent
    assert tokenizer.lang2id == {"de": 0, "en": 1, "fr": 2}
    for case in json.loads((GOLDEN / "original" / "xlm_codes" / "bpe_cases.json").read_text())["cases"]:
        words = tokenizer.tokenize(case["text"], bypass_tokenizer=True)
        assert tokenizer.convert_tokens_to_ids(words) == case["ids"], case["text"]


def test_a_tokenizers_own_files_are_not_replaced(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.pth").write_bytes((ENGLISH / "model.pth").read_bytes())
    (folder / "vocab.json").write_text("{}")
    (folder / "codes_en").write_text("a b 1\n")
    source = open_source(folder)
    assert [path.name for path in source.carried] == ["vocab.json"]
    assert sorted(source.made) == ["merges.txt", "tokenizer_config.json"]
    assert (source.file("vocab.json"), source.file("merges.txt"), source.file("x")) == (b"{}", b"a b 1\n", None)
    (folder / "codes_fr").write_text("c d 1\n")  # whose they are, nothing tells
    assert sorted(open_source(folder).made) == ["tokenizer_config.json"]


def test_a_vocabulary_that_does_not_fit_makes_no_dictionary(tmp_path):
    convert(plan(ENGLISH, tmp_path / "ours"))
    (tmp_path / "ours" / "vocab.json").write_text('{"<s>": 0}')
    expected = r"^vocab\.json: must have one token for each id below 61, got 1 tokens for 1 ids up to 0$"
    with pytest.raises(FormatError, match=expected):
        convert(plan(tmp_path / "ours", tmp_path / "theirs", to="torch-original"))
    assert not (tmp_path / "theirs").exists()
