"""`xlbridge inspect` tells what a checkpoint is, without reading a tensor."""

import json
import os
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import cli
from conversion.fit import Fit
from conversion.formats.base import Entry
from conversion.inspect import bytes_by_dtype, described, inspect, missing, rows
from conversion.shown import inspection_lines
from conversion.target import Target
from tests.conversion.models import FAMILY, HEADS, HF_FILES, ORIGINAL, SMALL, save

FOLDERS = [*sorted(ORIGINAL.glob("transfo_xl_*")), *sorted(HF_FILES.glob("*transfo_xl*"))]


@pytest.fixture
def model(tmp_path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_tensor_is_read(folder, monkeypatch):
    monkeypatch.setattr(Fit, "read", lambda *_, **__: pytest.fail("must not be called"))
    source = inspect(folder)
    monkeypatch.setattr(type(source.reader), "read", lambda *_: pytest.fail("must not be called"))
    known = described(inspect(folder))
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["missing"] == []
    assert known["parameters"] == sum(int(np.prod(shape)) for _, shape in known["shapes"].values())
    assert len(known["accounts"]) == len(source.accounts)
    assert "\n".join(inspection_lines(source)).isascii()


def test_what_it_tells(model, capsys):
    (model / "vocab.txt").write_text("a\n")
    assert cli.main(["inspect", str(model), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    count = sum(param.shape and int(np.prod(param.shape)) for param in FAMILY.params(
        FAMILY.config(**SMALL), HEADS["TransfoXLLMHeadModel"]).values())  # fmt: skip
    assert known["parameters"] == count
    assert known["bytes"] == {"float32": 4 * count}
    assert known["needs"] == {
        "load in float32": 4 * count,
        "load in bfloat16 or float16": 2 * count,
        "train with Adam in float32": 16 * count,
        "train with Adam in bfloat16, weights kept in float32": 16 * count,
    }
    assert (known["family"], known["head"], known["origin"]) == ("transfo-xl", "TransfoXLLMHeadModel", "hf")
    assert known["tokenizer"] == ["vocab.txt"]
    assert known["tied"]["crit.bins.0.weight"] == "embedding.bins.0.weight"
    assert known["config"]["d_model"] == 8
    assert known["config_from"] == {}
    assert known["files"] == {"model.safetensors": (model / "model.safetensors").stat().st_size}
    assert {each["fate"] for each in known["accounts"]} == {"used", "split"}


def test_bytes_of_several_dtypes(model):
    tensors = load_file(model / "model.safetensors")
    half = {name: array.astype(ml_dtypes.bfloat16) if "pos_ff" in name else array for name, array in tensors.items()}
    save_file(half, model / "model.safetensors", metadata={"format": "pt"})
    wanted = {"float32": 0, "bfloat16": 0}
    for array in half.values():
        wanted[str(array.dtype)] += array.nbytes
    assert bytes_by_dtype(inspect(model)) == wanted


def test_derived_keys_are_marked_with_where_they_come_from(capsys):
    folder = ORIGINAL / "transfo_xl_tf1-wt103_large"
    told = described(inspect(folder))["config_from"]
    assert told["d_model"] == "the shapes of the tensors"
    assert told["mem_len"] == "flags.json"
    assert told["window_rule"] == "the authors' TensorFlow"
    assert "eos_token_id" not in told
    cli.main(["inspect", str(folder)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "d_model=32*" in shown
    assert "eos_token_id=0," in shown
    assert "* derived, see the notes" in shown


def test_keys_that_are_given_win_and_are_marked(model, tmp_path, capsys):
    (tmp_path / "keys.json").write_text('{"mem_len": 9}')
    cli.main(["inspect", str(model), "--config", str(tmp_path / "keys.json"), "--json"])
    known = json.loads(capsys.readouterr().out)
    assert (known["config"]["mem_len"], known["config_from"]) == (9, {"mem_len": "the caller"})


def test_what_does_not_fit_is_told_and_no_error(model, capsys):
    tensors = load_file(model / "model.safetensors")
    del tensors["transformer.layers.1.pos_ff.CoreNet.0.bias"]
    tensors["stranger"] = np.zeros(3, "float32")
    tensors["crit.out_layers.0.bias"] = np.zeros(7, "float32")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    source = inspect(model)
    assert missing(source) == ["blocks.1.feed_forward.inner.bias", "crit.bins.0.bias"]
    fates = {each.name: (each.fate, each.reason) for each in source.accounts}
    assert fates["stranger"] == ("unexpected", "TransfoXLLMHeadModel has no place for it")
    assert fates["crit.out_layers.0.bias"] == ("unexpected", "must have shape [10]")
    assert cli.main(["inspect", str(model)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "missing blocks.1.feed_forward.inner.bias, crit.bins.0.bias" in shown
    assert "1 unexpected, must have shape [10] (crit.out_layers.0.bias)" in shown


def test_another_head(model, capsys):
    assert cli.main(["inspect", str(model), "--head", "TransfoXLModel", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["head"] == "TransfoXLModel"
    assert {each["reason"] for each in known["accounts"] if each["fate"] == "ignored"} == {
        "of a head that TransfoXLModel does not have"
    }


def test_layers_that_are_alike_are_one_row():
    def entry(name, shape=(2,), dtype="float32"):
        return Entry(name, shape, np.dtype(dtype))

    entries = [entry(f"blocks.{number}.weight") for number in range(4)]
    entries += [entry("blocks.4.weight", (3,)), entry("bins.0.bias"), entry("bins.2.bias"), entry("norm")]
    assert [(row.name, row.count, row.shape) for row in rows(entries)] == [
        ("blocks.{0-3}.weight", 4, (2,)),
        ("blocks.4.weight", 1, (3,)),
        ("bins.{0,2}.bias", 2, (2,)),
        ("norm", 1, (2,)),
    ]


def test_every_parameter_is_shown_on_demand(model, capsys):
    for options, wanted in (
        ((), "blocks.{0-1}.attention.query.weight"),
        (("--every",), "blocks.1.attention.query.weight"),
    ):
        cli.main(["inspect", str(model), *options])
        assert wanted in capsys.readouterr().out


def test_an_error_is_told_with_its_status(tmp_path, capsys):
    assert cli.main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"xlbridge inspect: {tmp_path}: must hold ")


def test_a_file_of_40_gigabytes_takes_no_time_and_no_memory(tmp_path, capsys):
    """The file has holes in place of tensors, as large as those of a model of that size."""
    head = HEADS["TransfoXLLMHeadModel"]
    config = FAMILY.config(**SMALL | {"d_model": 8192, "d_embed": 8192, "n_head": 64, "d_head": 128, "d_inner": 32768,
                                      "n_layer": 11, "vocab_size": 250000, "cutoffs": [1000, 100000]})  # fmt: skip
    target = Target("hf", config, head, np.dtype("float32"))
    (tmp_path / "model").mkdir()
    target.writer.begin(tmp_path / "model")
    config.copy(architectures=[head.name]).save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    assert file.stat().st_size > 40e9
    assert file.stat().st_blocks * 512 < 1e6
    began = time.process_time()
    assert cli.main(["inspect", str(tmp_path / "model"), "--json"]) == 0
    assert time.process_time() - began < 1
    assert json.loads(capsys.readouterr().out)["bytes"]["float32"] > 40e9
    assert cli.main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--dry-run"]) == 0
    assert os.listdir(tmp_path) == ["model"]
