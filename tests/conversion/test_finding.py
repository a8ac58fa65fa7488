"""Which format a path is in: by what it holds; each thing that is no checkpoint is refused in one clear sentence."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from filled import ARRAYS, FLOAT32, assert_holds, entries_of, fill

from conversion.formats import FORMATS, find_format, open_reader
from xlcore import FormatError

GOLDEN = Path(__file__).parents[1] / "golden"
#: Names that every format can hold.
NAMED = {f"layer/{name}": array for name, array in FLOAT32.items()}


def written(folder: Path, name: str, file: str = "") -> Path:
    """Write a small checkpoint in a format."""
    fill(FORMATS[name].writer(entries_of(NAMED), name=file), folder, NAMED)
    return folder


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_writes_is_found_and_read(tmp_path, name):
    assert find_format(written(tmp_path, name)) == name
    reader = open_reader(tmp_path)
    assert reader.format == name
    assert_holds(reader, NAMED)
    assert not reader.notes
    file = tmp_path / FORMATS[name].weights
    assert find_format(file) == name
    assert_holds(open_reader(str(file)), NAMED)


@pytest.mark.parametrize("name", ["safetensors", "torch", "hdf5", "keras"])
def test_a_file_is_known_by_its_content_whatever_it_is_called(tmp_path, name):
    written(tmp_path, name)
    odd = tmp_path / "odd.name"
    (tmp_path / FORMATS[name].weights).rename(odd)
    assert find_format(odd) == name
    assert_holds(open_reader(odd), NAMED)


@pytest.mark.parametrize(
    ("name", "file", "index"),
    [
        ("safetensors", "", "model.safetensors.index.json"),
        ("torch", "", "pytorch_model.bin.index.json"),
        ("torch", "my.pt", "my.pt.index.json"),
        ("hdf5", "", "tf_model.h5.index.json"),
        ("keras", "my.weights.h5", "my.weights.json"),
    ],
)
def test_an_index_is_known_by_what_it_is_about(tmp_path, name, file, index):
    arrays = {f"layer/model/{key}/{number}": np.ones(9, "f4") for key in "ab" for number in range(2)}
    fill(FORMATS[name].writer(entries_of(arrays), name=file, max_bytes=40), tmp_path, arrays)
    assert find_format(tmp_path / index) == find_format(tmp_path) == name
    assert len(open_reader(tmp_path / index)) == len(open_reader(tmp_path)) == 4


def test_known_names_win_in_order_and_the_rest_is_told(tmp_path):
    for name in reversed(FORMATS):
        written(tmp_path / name, name)
        for file in (tmp_path / name).iterdir():
            file.rename(tmp_path / file.name)
    (tmp_path / "expected.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text("{}")
    for position, name in enumerate(FORMATS):
        reader = open_reader(tmp_path)
        assert reader.format == name
        for later in list(FORMATS)[position + 1 :]:
            assert FORMATS[later].known[0] in reader.notes[-1]
        assert reader.notes[-1].startswith(f"took {reader.files[0].name}; beside it lay ")
        assert "config.json" not in reader.notes[-1]
        for file in reader.files:
            file.unlink()
        (tmp_path / "checkpoint").unlink() if name == "tf1" else None
    assert open_reader(tmp_path).files == (tmp_path / "expected.safetensors",)


def test_originals_win_over_what_tests_leave_beside_them():
    for folder in sorted((GOLDEN / "original").glob("*_t*-*")):
        assert find_format(folder) in ("torch", "tf1"), folder
        assert open_reader(folder).notes[-1].endswith("beside it lay expected.safetensors")


@pytest.mark.parametrize("end", ["", ".index", ".data-00000-of-00001"])
def test_a_tensorflow_prefix_and_its_files_are_known(tmp_path, end):
    written(tmp_path, "tf1")
    assert find_format(tmp_path / f"model.ckpt{end}") == "tf1"
    assert_holds(open_reader(tmp_path / f"model.ckpt{end}"), NAMED)


WHAT = r"must hold model\.safetensors or weights of another kind \(torch, hdf5, keras, tf1\), got "


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file$"),
        (b"just some text", "a file that begins with b'just some te'$"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS; fetch the file itself with git lfs pull$",
        ),
        (b"\x93NUMPY", "a file that begins with"),
        (b"{}", "a file that begins with b'{}'$"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_what_it_is(tmp_path, content, told):
    file = tmp_path / "model.safetensors.old"
    file.write_bytes(content)
    assert find_format(file) is None
    with pytest.raises(FormatError, match=WHAT + told):
        open_reader(file)


def test_paths_without_weights_are_refused(tmp_path):
    for path, told in (
        (tmp_path / "nowhere", "no such file or folder$"),
        (tmp_path, "an empty folder$"),
    ):
        assert find_format(path) is None
        with pytest.raises(FormatError, match=WHAT + told):
            open_reader(path)
    for name in ("config.json", "vocab.bin", "README.md"):
        (tmp_path / name).touch()
    with pytest.raises(FormatError, match=WHAT + r"README\.md, config\.json, vocab\.bin$"):
        open_reader(tmp_path)


def test_zips_and_hdf5_of_other_kinds_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with pytest.raises(FormatError, match=WHAT + "a file that begins with b'PK"):
        open_reader(tmp_path / "x.npz")
    (tmp_path / "y.zip").write_bytes(b"PK\3\4")
    with pytest.raises(FormatError, match=r"y\.zip: must be a whole zip, got one that fails: File is not a zip file$"):
        open_reader(tmp_path / "y.zip")
    with h5py.File(tmp_path / "z.h5", "w") as file:
        file["link"] = h5py.SoftLink("/elsewhere")
    with pytest.raises(FormatError, match=r"z\.h5: 'link' must lie in the file itself, got a link$"):
        open_reader(tmp_path / "z.h5")


def test_a_path_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(FormatError, match=r": must be readable, got Permission denied$"):
        find_format(tmp_path)


def test_every_format_is_listed_with_what_it_needs():
    assert list(FORMATS) == ["safetensors", "torch", "hdf5", "keras", "tf1"]
    for name, each in FORMATS.items():
        assert each.name == name
    assert ARRAYS
