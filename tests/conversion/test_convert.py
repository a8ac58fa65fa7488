"""`xlbridge convert`: found out by itself, whole or not at all, every bit accounted for."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import cli, staging
from conversion import convert as module
from conversion.checkpoint import Checkpoint, read_config
from conversion.convert import aims_for, convert, plan
from conversion.diff import diff
from conversion.proof import CHECKSUMS
from conversion.source import open_source
from conversion.target import Target
from tests.conversion.models import BFLOAT16, HF_FILES, ORIGINAL, save, tree
from xlcore import FAMILIES, ConfigError, FormatError, WeightError
from xlcore.families import find_head_by_name
from xlcore.maps import ORIGINS

ROOT = Path(__file__).parents[2]
ORIGINALS = [*sorted(ORIGINAL.glob("*_*-*")), *sorted(HF_FILES.glob("hf_*-*"))]
LM, CLASSIFIER = "TransfoXLLMHeadModel", "TransfoXLForSequenceClassification"


def turned(source, destination, *, verify=True, batch=0, **options):
    """Convert and return the report; the disk is made to hold every single tensor."""
    return convert(plan(source, destination, **options), verify=verify, batch=batch)


def canonical(path) -> dict[str, np.ndarray]:
    source = open_source(path)
    return {name: source.read(name) for name in source.entries}


def assert_same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def model(tmp_path) -> Path:
    save(tmp_path / "model")
    return tmp_path / "model"


# -------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("folder", ORIGINALS, ids=lambda folder: folder.name)
def test_whatever_comes_in_comes_out_as_a_folder_that_loads(folder, tmp_path):
    report = turned(folder, tmp_path / "out")
    assert report.verified
    config = read_config(tmp_path / "out")
    opened = Checkpoint(tmp_path / "out", config, find_head_by_name(config.architectures[0]))
    opened.settle()
    assert_same(dict(opened.tensors()), canonical(folder))
    kind = "float16" if folder.name == "xlmr_xl_fairseq-mnli" else "float32"
    assert config == open_source(folder).config.copy(architectures=config.architectures, torch_dtype=kind)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("folder", ORIGINALS, ids=lambda folder: folder.name)
def test_back_to_where_it_came_from_bit_by_bit(folder, tmp_path):
    source = open_source(folder)
    turned(folder, tmp_path / "out")
    turned(tmp_path / "out", tmp_path / "back", to=source.origin.name)
    difference = diff(source, open_source(tmp_path / "back"))
    assert difference.same_tensors
    assert difference.config == {}


@pytest.mark.parametrize("to", aims_for("transfo-xl"))
def test_everything_that_a_family_can_be_written_as(to, tmp_path):
    keys = {"untie_r": False} if to == "torch-original" else {}
    arrays = save(tmp_path / "model", **keys)
    turned(tmp_path / "model", tmp_path / "out", to=to)
    aim = aims_for("transfo-xl")[to]
    source = open_source(tmp_path / "out")
    assert (source.origin.name, source.format) == aim[:2]
    assert not aim.name or (tmp_path / "out" / aim.name).is_file()
    assert_same(canonical(tmp_path / "out"), arrays)
    turned(tmp_path / "out", tmp_path / "back")
    assert tree(tmp_path / "back")["model.safetensors"] == tree(tmp_path / "model")["model.safetensors"]


def test_the_names_that_to_takes():
    aims = aims_for("transfo-xl")
    assert {origin.name for origin in ORIGINS if origin.model_type == "transfo-xl"} <= aims.keys()
    wanted = {
        "hf": ("hf", "safetensors", ""), "safetensors": ("hf", "safetensors", ""), "torch": ("hf", "torch", ""),
        "pytorch_model.bin": ("hf", "torch", ""), "tf_model.h5": ("hf-tf", "hdf5", ""), "keras": ("keras", "keras", ""),
        ".keras": ("keras", "keras", "model.keras"), "tf1": ("tf1", "tf1", ""),
    }  # fmt: skip
    assert {name: aims[name] for name in wanted} == wanted


def test_the_help_tells_what_to_takes(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for name in {name for model_type in FAMILIES for name in aims_for(model_type)}:
        assert re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.]*\w)", told), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_dtype_is_what_numpy_makes_of_it(dtype, model, tmp_path):
    before = canonical(model)
    report = turned(model, tmp_path / "out", dtype=dtype)
    kind = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    assert_same(canonical(tmp_path / "out"), {name: array.astype(kind) for name, array in before.items()})
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype
    for name, array in before.items():
        wanted = np.abs(array.astype(kind).astype("float64") - array).max()
        found = report.roundings[name].largest if name in report.roundings else 0.0
        assert found == pytest.approx(wanted), name


def test_shards_are_as_large_as_asked_for(model, tmp_path):
    turned(model, tmp_path / "out", max_shard_size="2KB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert_same(canonical(tmp_path / "out"), canonical(model))
    largest = max(array.nbytes for array in canonical(model).values())
    assert all(sum(array.nbytes for array in load_file(shard).values()) <= max(2000, largest) for shard in shards)


def test_a_head_that_is_asked_for(model, tmp_path):
    report = turned(model, tmp_path / "out", head="TransfoXLModel")
    assert read_config(tmp_path / "out").architectures == ["TransfoXLModel"]
    left_out = {each.name for each in report.plan.source.accounts if each.fate == "ignored"}
    assert left_out == {name for name in load_file(model / "model.safetensors") if name.startswith("crit.")}


def test_keys_of_the_config_that_are_given_win(model, tmp_path):
    turned(model, tmp_path / "out", config={"mem_len": 77})
    assert read_config(tmp_path / "out").mem_len == 77


def test_vocabulary_and_tokenizer_come_along_as_they_are(model, tmp_path):
    side = {"vocab.txt": b"a\r\nb\n", "tokenizer_config.json": b"{ }", "generation_config.json": b"{}"}
    for name, content in {**side, "notes.txt": b"mine"}.items():
        (model / name).write_bytes(content)
    turned(model, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == {*side, "config.json", "model.safetensors", CHECKSUMS}
    assert {name: tree(tmp_path / "out")[name] for name in side} == side


def test_the_checksums_are_those_of_the_tensors(model, tmp_path):
    report = turned(model, tmp_path / "out", dtype="bfloat16", to="hf")
    told = json.loads((tmp_path / "out" / CHECKSUMS).read_text())["tensors"]
    arrays = canonical(tmp_path / "out")
    assert told.keys() == arrays.keys()
    for name, array in arrays.items():
        assert told[name]["sha256"] == hashlib.sha256(array.tobytes()).hexdigest() == report.digests[name]
        assert told[name]["shape"] == list(array.shape)
        assert told[name]["dtype"] == "bfloat16"


def test_the_checksums_do_not_depend_on_the_layout(tmp_path):
    save(tmp_path / "model")
    digests = [turned(tmp_path / "model", tmp_path / to, to=to).digests for to in ("hf", "torch", "hf-tf", "tf1")]
    assert all(each == digests[0] for each in digests)


def test_checksums_cover_what_an_origin_leaves_out(tmp_path):
    folder = ORIGINAL / "transfo_xl_tf1-lm1b"  # whose projections of the first bin are none
    report = turned(folder, tmp_path / "out")
    assert "embedding.bins.0.projection" in report.digests
    back = turned(tmp_path / "out", tmp_path / "back", to="tf1")
    assert back.digests == report.digests
    assert "embedding.bins.0.projection" not in {part for parts in back.plan.target.parts.values() for part in parts}


def test_what_is_left_out_has_the_dtype_that_is_asked_for(tmp_path):
    turned(ORIGINAL / "transfo_xl_tf1-lm1b", tmp_path / "out", to="tf1", dtype="float16")
    told = json.loads((tmp_path / "out" / CHECKSUMS).read_text())["tensors"]["embedding.bins.0.projection"]
    assert told["dtype"] == "float16"
    assert told["sha256"] == hashlib.sha256(np.eye(told["shape"][0], dtype="float16").tobytes()).hexdigest()


def test_a_result_is_the_same_bytes_each_time(model, tmp_path):
    for name in ("one", "other"):
        turned(model, tmp_path / name, to="hf-tf", batch=1 << 30)
    assert tree(tmp_path / "one") == tree(tmp_path / "other")


def test_a_relative_destination_in_the_current_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turned("model", "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


# ------------------------------------------------------------------------------------------------- what is in the way


def test_an_empty_folder_is_a_free_destination(model, tmp_path):
    (tmp_path / "out").mkdir(mode=0o750)
    turned(model, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


@pytest.mark.parametrize("inner", [".", "deep/er"])
def test_the_folder_that_one_is_in_is_refused(model, tmp_path, monkeypatch, inner):
    """It would be another one afterwards, and the shell in the one that is gone."""
    out = tmp_path / "out"
    (out / inner).mkdir(parents=True)
    monkeypatch.chdir(out / inner)
    before, number = tree(tmp_path), out.stat().st_ino
    wanted = r"must not be the folder that you are in, or one around it, got .* as the current one; name another$"
    if inner != ".":
        wanted = "must not exist yet, .*, got a folder with files in it; name another$"
    with pytest.raises(FormatError, match=wanted):
        turned(model, "." if inner == "." else out)
    assert tree(tmp_path) == before
    assert out.stat().st_ino == number


def test_what_comes_to_stand_there_at_the_last_moment_stays(model, tmp_path, monkeypatch):
    """Between the last look and the last step nothing is lost either: the system itself refuses."""
    true = staging.become

    def become(content, destination):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_bytes(b"x")
        true(content, destination)

    monkeypatch.setattr(staging, "become", become)
    with pytest.raises(FormatError, match="must not exist yet"):
        turned(model, tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine": b"x"}
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


@pytest.mark.parametrize("kind", ["file", "folder", "another result", "another dtype"])
def test_what_stands_at_the_destination_stays(model, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_bytes(b"mine")
    elif kind == "folder":
        out.mkdir()
        (out / "mine").write_bytes(b"x")
    elif kind == "another result":
        save(tmp_path / "other", seed=5)
        turned(tmp_path / "other", out)
    else:
        turned(model, out, dtype="float16")
    before = tree(tmp_path)
    what = "a file" if kind == "file" else "a folder with files in it"
    wanted = "out: must not exist yet, be an empty folder, or hold this very result, got"
    with pytest.raises(FormatError, match=f"{wanted} {what}; remove it, or name another$"):
        turned(model, out)
    assert tree(tmp_path) == before


def test_onto_itself_is_refused(model):
    before = tree(model)
    with pytest.raises(FormatError, match="must not exist yet"):
        turned(model, model)
    assert tree(model) == before


def test_the_very_result_that_stands_there_is_found_to_be_right(model, tmp_path):
    first = turned(model, tmp_path / "out", dtype="float16")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    again = turned(model, tmp_path / "out", dtype="float16")
    assert (again.stood, again.verified, again.digests) == (True, True, first.digests)
    assert again.roundings == first.roundings
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()} == before


def test_what_a_run_left_that_was_killed_at_its_very_end_is_removed(model, tmp_path):
    turned(model, tmp_path / "out")
    (tmp_path / ".out.converting").mkdir()
    (tmp_path / ".out.converting" / "journal").write_bytes(b"")
    assert turned(model, tmp_path / "out").stood
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


def test_a_result_that_was_spoilt_is_not_found_to_be_right(model, tmp_path):
    turned(model, tmp_path / "out")
    content = bytearray((tmp_path / "out" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "out" / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match="out: the result must read back as it was written, got other bytes in "):
        turned(model, tmp_path / "out")


def test_something_that_comes_to_stand_there_meanwhile_stays(model, tmp_path, monkeypatch):
    true = module.prove

    def prove(*arguments):
        true(*arguments)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_bytes(b"x")

    monkeypatch.setattr(module, "prove", prove)
    with pytest.raises(FormatError, match="must not exist yet"):
        turned(model, tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine": b"x"}
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


# ------------------------------------------------------------------------------------------------------ what can fail


def refused(model, tmp_path, message, **options):
    """Hold a conversion that fails against the error that it must raise, and nothing that it may leave."""
    before = tree(tmp_path)
    with pytest.raises(FormatError, match=message):
        turned(model, tmp_path / "deep" / "out", **options)
    assert tree(tmp_path) == before
    assert not (tmp_path / "deep").exists()


def when_made(monkeypatch, number: int, do) -> None:
    """Do something just before the n-th tensor is made."""
    true, count = module.Plan._make, []

    def make(self, entry):
        count.append(entry)
        if len(count) == number:
            do()
        return true(self, entry)

    monkeypatch.setattr(module.Plan, "_make", make)


def test_a_source_that_changes_while_it_is_read(model, tmp_path, monkeypatch):
    def touch():
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (model / "model.safetensors").write_bytes(content)

    when_made(monkeypatch, 3, touch)
    with pytest.raises(FormatError, match=r"model.safetensors: must stay as it is while it is read, got a change"):
        turned(model, tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == ["model"]


def test_a_source_that_is_cut_off_while_it_is_read(model, tmp_path, monkeypatch):
    when_made(monkeypatch, 3, lambda: os.truncate(model / "model.safetensors", 500))
    with pytest.raises(FormatError, match=r"model.safetensors: "):
        turned(model, tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == ["model"]


def test_a_source_that_goes_away_while_it_is_read(model, tmp_path, monkeypatch):
    when_made(monkeypatch, 3, lambda: shutil.rmtree(model))
    with pytest.raises(FormatError, match=r"model.safetensors: must be there, got no such file"):
        turned(model, tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == []


def test_a_source_that_goes_away_after_it_was_read(model, tmp_path, monkeypatch):
    true = module.Plan.digests

    def digests(self, written):
        shutil.rmtree(model)
        return true(self, written)

    monkeypatch.setattr(module.Plan, "digests", digests)
    with pytest.raises(
        FormatError, match=r"must be there while it is read, got No such file or directory; nothing was"
    ):
        turned(model, tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == []


def test_a_source_that_cannot_be_read(model, tmp_path, monkeypatch):
    planned = plan(model, tmp_path / "out")

    def read(name, **_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(planned.source, "read", read)
    with pytest.raises(FormatError, match=r"model: must be readable, got Input/output error; nothing was written$"):
        convert(planned)
    assert os.listdir(tmp_path) == ["model"]


# A file system of its own, of 100 KB; on it a folder is converted to, and the errors are printed.
SMALL_DISK = """
    mount -t tmpfs -o size=100k none "$1" || exit 77
    cd "$1"
    "$2" -m conversion.cli convert "$3" "$1/deep/out" 2>&1 >/dev/null
    echo "status $?"
    find "$1" -mindepth 1
    "$2" -m conversion.cli convert "$3" "$1" && ls -A "$1"
"""


def test_a_disk_that_is_really_full_and_one_that_is_the_destination(model, tmp_path):
    (tmp_path / "disk").mkdir()
    save(tmp_path / "large", vocab_size=20000, cutoffs=[10, 30])
    script = textwrap.dedent(SMALL_DISK).replace('"$3" "$1/deep', f'"{tmp_path}/large" "$1/deep')
    command = ["unshare", "-rm", "sh", "-c", script, "sh", tmp_path / "disk", sys.executable, model]
    try:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("the system has no unshare")
    if "status" not in done.stdout:
        pytest.skip(f"no file system of one's own here: {done.stderr}")
    first, second, *rest = done.stdout.splitlines()
    assert re.search(r"out: the disk must have room for 4\d\d KB, got \d+.* KB; nothing was written$", first)
    assert second == "status 2", "and nothing must be left"
    assert rest[0].startswith("source ")
    assert rest[-3:] == [CHECKSUMS, "config.json", "model.safetensors"]


@pytest.mark.parametrize("step", ["pwrite", "posix_fallocate", "fdatasync", "rename", "fsync"])
def test_a_full_disk(model, tmp_path, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    refused(model, tmp_path, r"out: the disk must have room for \d.* KB, got .*; nothing was written$")


def test_bits_that_the_disk_turned_are_seen(model, tmp_path, monkeypatch):
    true = module.prove

    def prove(folder, *rest):
        content = bytearray((folder / "model.safetensors").read_bytes())
        content[-3] ^= 4
        (folder / "model.safetensors").write_bytes(content)
        true(folder, *rest)

    monkeypatch.setattr(module, "prove", prove)
    refused(
        model, tmp_path, "out: the result must read back as it was written, got other bytes in .*disk or memory may"
    )


@pytest.mark.parametrize(
    ("harm", "got"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"short"), "an error: "),
        (lambda folder: rewritten(folder / "config.json", "mem_len", 5), "mem_len=5 in place of 4$"),
        (
            lambda folder: rewritten(folder / "config.json", "architectures", ["TransfoXLModel"]),
            "TransfoXLModel in place",
        ),
    ],
)
def test_a_result_that_opens_otherwise_is_seen(model, tmp_path, monkeypatch, harm, got):
    true = module.prove

    def prove(folder, *rest):
        harm(folder)
        true(folder, *rest)

    monkeypatch.setattr(module, "prove", prove)
    refused(model, tmp_path, f"out: the result must read back as it was written, got {got}")


def rewritten(file: Path, key: str, value) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))


def test_without_verification_nothing_is_read_back(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "prove", lambda *_: pytest.fail("must not be called"))
    assert not turned(model, tmp_path / "out", verify=False).verified


def test_a_number_too_large_for_the_dtype_names_the_tensor_and_leaves_nothing(tmp_path):
    def grow(arrays):
        arrays["blocks.1.attention.key.weight"][2, 3] = 1e5

    save(tmp_path / "model", change=grow)
    message = r"^blocks.1.attention.key.weight: values must fit into float16, got 100000; choose --dtype bfloat16 or"
    with pytest.raises(WeightError, match=message):
        turned(tmp_path / "model", tmp_path / "out", dtype="float16")
    assert os.listdir(tmp_path) == ["model"]
    turned(tmp_path / "model", tmp_path / "out", dtype="bfloat16")


def test_what_is_no_number_is_refused(tmp_path):
    def spoil(arrays):
        arrays["blocks.0.attention.out.weight"][0, 0] = np.nan

    save(tmp_path / "model", change=spoil)
    with pytest.raises(WeightError, match=r"o_net\.weight' must be finite, got NaN or infinity in it"):
        turned(tmp_path / "model", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"to": "torhc"},
            FormatError,
            r"^convert: transfo-xl must be written as one of .*, got 'torhc'; did you mean 'torch'",
        ),
        (
            {"dtype": "float61"},
            FormatError,
            r"^convert: dtype must be one of float32, .*, got 'float61'; did you mean 'float16'",
        ),
        ({"max_shard_size": "big"}, FormatError, "^max_shard_size: must be a size such as '5GB'"),
        ({"head": "TransfoXLHead"}, ConfigError, "must be a known model class"),
        ({"to": "tf1", "config": {"pre_lnorm": True}}, ConfigError, "^tf1: pre_lnorm must be False there, got True"),
        ({"to": "tf_model.h5", "dtype": "bfloat16"}, FormatError, "must have dtype .*, got bfloat16"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(model, tmp_path, options, kind, message):
    with pytest.raises(kind, match=message):
        plan(model, tmp_path / "out", **options)
    assert os.listdir(tmp_path) == ["model"]


# Tells the most memory that the process had at any time.
PEAK = """
    import sys
    from pathlib import Path
    from conversion.cli import main
    assert main(sys.argv[1:]) == 0
    print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


@pytest.mark.parametrize("options", [(), ("--to", "keras"), ("--to", "torch", "--dtype", "bfloat16")], ids=str)
def test_memory_is_bounded_whatever_the_size_of_the_file(options, tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell")
    config = FAMILIES["transfo-xl"].config(
        vocab_size=1000,
        cutoffs=[],
        div_val=1,
        d_model=1024,
        d_embed=1024,
        n_head=8,
        d_head=128,
        d_inner=2048,
        n_layer=14,
    )
    target = Target("hf", config, find_head_by_name(LM), np.dtype("float32"))
    (tmp_path / "model").mkdir()
    target.writer.begin(tmp_path / "model")  # with holes in place of tensors
    config.copy(architectures=[LM]).save_pretrained(tmp_path / "model")
    largest = max(entry.nbytes for entry in target.entries)
    assert sum(entry.nbytes for entry in target.entries) > 1.4 * (300e6 + 2 * largest)
    command = [sys.executable, "-c", textwrap.dedent(PEAK), "convert", tmp_path / "model", tmp_path / "out", *options]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) * 1024 < 300e6 + 2 * largest


# ------------------------------------------------------------------------------------------------------- command line


def run(*arguments, capsys) -> tuple[int, str, str]:
    code = cli.main([str(each) for each in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_says_what_it_found_and_did(tmp_path, capsys):
    code, out, err = run(
        "convert", ORIGINAL / "transfo_xl_tf1-wt103_large", tmp_path / "out", "--dtype", "float16", capsys=capsys
    )
    assert (code, err) == (0, "")
    for part in (
        "tf1 (tf1, as of the authors' code)", "TransfoXLLMHeadModel (transfo-xl), 20,262 parameters",
        "111: 32 used; 4 split; 74 ignored, the optimizer's (beta1_power, ...); 1 ignored, a count of",
        "layer_norm_epsilon=1e-12", "safetensors (hf), 38 tensors, 40.5 KB in float16", "rounded: by 0.000481 at most",
        "every tensor read back and compared",
    ):  # fmt: skip
        assert part in out
    assert max(map(len, out.splitlines())) <= 110


def test_a_dry_run_shows_everything_and_writes_nothing(model, tmp_path, capsys):
    code, out, _ = run("convert", model, tmp_path / "deep" / "out", "--to", "hf-tf", "--dry-run", capsys=capsys)
    assert code == 0
    assert "tf_model.h5" in out
    assert all(name in out for name in ("crit/cluster_bias:0", "crit.cluster.bias"))
    code, out, _ = run(
        "convert", model, tmp_path / "deep" / "out", "--dry-run", "--json", "--max-shard-size", "2KB", capsys=capsys
    )
    told = json.loads(out)
    turned(model, tmp_path / "real", max_shard_size="2KB")
    assert sorted(told["result"]["files"]) == sorted(os.listdir(tmp_path / "real"))
    for tensor in told["result"]["tensors"]:
        wanted = load_file(tmp_path / "real" / tensor["file"])[tensor["name"]]
        with (tmp_path / "real" / tensor["file"]).open("rb") as stream:
            stream.seek(tensor["offset"])
            assert stream.read(wanted.nbytes) == wanted.tobytes()
        assert tensor["shape"] == list(wanted.shape)
    assert len(told["source"]["accounts"]) == len(load_file(model / "model.safetensors"))
    assert sorted(os.listdir(tmp_path)) == ["model", "real"]


def test_copies_that_differ_under_a_config_that_ties_them_are_a_warning(tmp_path, capsys):
    """Nothing is lost in silence."""
    arrays = save(tmp_path / "model")
    held = load_file(tmp_path / "model" / "model.safetensors")
    table, copy = "transformer.word_emb.emb_layers.1.weight", "crit.out_layers.1.weight"
    save_file({**held, copy: held[table] + 1}, tmp_path / "model" / "model.safetensors")
    lost = f"{table} and {copy} differ, although the config ties them: used {copy}, as transformers does; the other's"
    assert cli.main(["convert", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"WARNING {lost} numbers are lost" in told
    assert np.array_equal(canonical(tmp_path / "out")["embedding.bins.1.weight"], arrays["embedding.bins.1.weight"] + 1)
    assert cli.main(["convert", str(tmp_path / "model"), str(tmp_path / "again"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["source"]["warnings"] == [f"{lost} numbers are lost"]
    assert err == f"xlbridge convert: warning: {lost} numbers are lost\n"


def test_json_tells_plan_and_outcome(model, tmp_path, capsys):
    code, out, _ = run("convert", model, tmp_path / "out", "--dtype", "bfloat16", "--json", capsys=capsys)
    told = json.loads(out)
    assert (code, told["done"]["verified"], told["done"]["resumed_bytes"]) == (0, True, 0)
    assert told["done"]["sha256"].keys() == told["done"]["roundings"].keys() == canonical(model).keys()
    assert told["source"]["config"]["d_model"] == 8


def test_an_error_is_one_line_and_two(model, capsys):
    code, _, err = run("convert", model, model, capsys=capsys)
    assert code == 2
    assert err.startswith(f"xlbridge convert: {model}: must not exist yet")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("convert", "", "out"), ("convert", "model", ""), ("inspect", ""), ("diff", "", "x")]
)
def test_an_empty_path_is_not_the_current_folder(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert capsys.readouterr().err.endswith(": a path must be named, got an empty one\n")


def test_a_current_folder_that_is_gone_is_one_line(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code = cli.main(["convert", str(model), "out"])
    os.chdir(tmp_path)  # so that pytest has one to come back from
    assert (code, capsys.readouterr().err.splitlines()[-1]) == (
        2,
        "xlbridge convert: must be usable, got No such file or directory",
    )


def test_a_config_from_a_file(model, tmp_path, capsys):
    (tmp_path / "keys.json").write_text('{"mem_len": 9}')
    assert run("convert", model, tmp_path / "out", "--config", tmp_path / "keys.json", capsys=capsys)[0] == 0
    assert read_config(tmp_path / "out").mem_len == 9


def test_an_interrupt_says_that_it_can_go_on(model, tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    when_made(monkeypatch, 5, interrupt)
    code, out, err = run("convert", model, tmp_path / "out", capsys=capsys)
    assert (code, err) == (2, "xlbridge convert: stopped; start it again to go on from here\n")
    assert "Written" not in out
    code, out, _ = run("convert", model, tmp_path / "out", capsys=capsys)
    assert code == 0
    assert "went on where an earlier run was stopped: " in out
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]


def test_another_plan_begins_anew_and_says_so(model, tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        when_made(patched, 5, interrupt)
        run("convert", model, tmp_path / "out", capsys=capsys)
    code, out, _ = run("convert", model, tmp_path / "out", "--dtype", "float16", capsys=capsys)
    assert code == 0
    assert "an earlier run was stopped, but source or plan were others: begun anew" in out


def test_progress_is_shown_on_a_terminal_only(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, _, err = run("convert", model, tmp_path / "out", capsys=capsys)
    assert "convert: " in err
    assert "B/s" in err or "?B/s" in err


def test_threads_of_one_process_are_kept_apart_too(model, tmp_path):
    errors = []

    def one():
        try:
            turned(model, tmp_path / "out")
        except FormatError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("one process at a time" in each for each in errors)
    assert sorted(os.listdir(tmp_path)) == ["model", "out"]
    assert_same(canonical(tmp_path / "out"), canonical(model))
