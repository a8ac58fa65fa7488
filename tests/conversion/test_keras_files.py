"""Keras' files: read without Keras, and written so that Keras loads them into our models, bit by bit."""

import json
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from filled import ARRAYS, BFLOAT16, assert_holds, entries_of, fill
from fuzz import damaged, survive
from helpers import BODY, CASES, CLASSIFIER, KERAS, LM, random_weights

from conversion.formats.base import Entry
from conversion.formats.keras_files import ARCHIVE, INDEX, WEIGHTS, Reader, Writer
from xlcore import FormatError
from xlcore.maps.keras import archive_config, h5_paths, is_turned

keras = pytest.importorskip("keras")
READER = "conversion.formats.keras_files:Reader"
ALL = {f"layers/{name}/vars/0": array for name, array in (ARRAYS | BFLOAT16).items()}

each_model = pytest.mark.parametrize("case", [BODY, LM, CLASSIFIER], ids=str)
SOME = [case for case in CASES if case.variant in ("default", "shared_biases", "untied") or case.head is LM.head]


def stored(case, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables of a model as its file holds them, by path, from canonical weights."""
    config = case.config()
    table, ties = case.family.params(config, case.head), case.family.ties_within(config, case.head)
    found = {}
    for name, path in h5_paths(case.family, config, case.head).items():
        first = ties.get(name, name)
        array = weights[first]
        found[path] = np.ascontiguousarray(array.T if is_turned(first, table[first]) else array)
    return found


# --------------------------------------------------------------------------------------------------------- with Keras


@pytest.mark.parametrize("case", SOME, ids=str)
def test_the_rule_names_every_variable_that_keras_writes(tmp_path, case):
    KERAS.model(case).save_weights(tmp_path / WEIGHTS)
    assert_holds(Reader(tmp_path), stored(case, random_weights(case, case.config())))


@each_model
def test_keras_loads_what_is_written(tmp_path, case):
    weights = random_weights(case, case.config())
    arrays = stored(case, weights)
    fill(Writer(entries_of(arrays)), tmp_path, arrays)
    model = KERAS.model_class(case)(case.config())
    model.load_weights(tmp_path / WEIGHTS)
    assert all(found.tobytes() == weights[name].tobytes() for name, found in turned_back(case, model).items())


def turned_back(case, model) -> dict[str, np.ndarray]:
    table = case.family.params(case.config(), case.head)
    found = {name: np.asarray(value) for name, value in model.canonical_parameters().items()}
    return {name: np.ascontiguousarray(a.T if is_turned(name, table[name]) else a) for name, a in found.items()}


def test_shards_go_both_ways(tmp_path):
    weights = random_weights(LM, LM.config())
    arrays = stored(LM, weights)
    writer = Writer(entries_of(arrays), max_bytes=6000)
    fill(writer, tmp_path, arrays)
    assert len(writer.files) > 2
    assert_holds(Reader(tmp_path), arrays)
    model = KERAS.model_class(LM)(LM.config())
    model.load_weights(tmp_path / INDEX)
    assert all(found.tobytes() == weights[name].tobytes() for name, found in turned_back(LM, model).items())
    (tmp_path / "theirs").mkdir()
    model.save_weights(tmp_path / "theirs" / INDEX, max_shard_size=6000 / 1024**3)
    assert_holds(Reader(tmp_path / "theirs"), arrays)
    assert len(Reader(tmp_path / "theirs" / INDEX).files) > 2


@pytest.mark.parametrize("case", [case for case in SOME if case.variant == "default"], ids=str)
def test_an_archive_holds_the_config_that_keras_serializes(case):
    ours = archive_config(case.config(), case.head, "bfloat16")
    model = KERAS.model_class(case)(case.config(), dtype="bfloat16", name=ours["config"]["name"])
    assert ours == json.loads(json.dumps(keras.saving.serialize_keras_object(model)))


@each_model
def test_archives_go_both_ways(tmp_path, case):
    weights = random_weights(case, case.config())
    arrays = stored(case, weights)
    config = archive_config(case.config(), case.head)
    fill(Writer(entries_of(arrays), extras={"config": config}, name=ARCHIVE), tmp_path, arrays)
    with zipfile.ZipFile(tmp_path / ARCHIVE) as archive:
        assert archive.testzip() is None
    model = keras.saving.load_model(tmp_path / ARCHIVE)
    assert type(model) is KERAS.model_class(case)
    assert model.config.to_dict() == case.config().to_dict()
    assert all(found.tobytes() == weights[name].tobytes() for name, found in turned_back(case, model).items())
    model.save(tmp_path / "theirs.keras")
    reader = Reader(tmp_path / "theirs.keras")
    assert_holds(reader, arrays)
    assert reader.extras["config"]["config"]["config"] == config["config"]["config"]
    assert Reader(tmp_path / ARCHIVE).extras["config"] == config


def test_bfloat16_goes_both_ways(tmp_path):
    weights = {name: array.astype(ml_dtypes.bfloat16) for name, array in random_weights(BODY, BODY.config()).items()}
    arrays = stored(BODY, weights)
    fill(Writer(entries_of(arrays)), tmp_path, arrays)
    model = KERAS.model_class(BODY)(BODY.config(), dtype="bfloat16")
    model.load_weights(tmp_path / WEIGHTS)
    assert all(found.tobytes() == weights[name].tobytes() for name, found in turned_back(BODY, model).items())
    model.save_weights(tmp_path / "theirs.weights.h5")
    assert_holds(Reader(tmp_path / "theirs.weights.h5"), arrays)


def test_an_optimizers_variables_lie_aside(tmp_path):
    model = KERAS.model(CLASSIFIER)
    model.compile(optimizer="adam")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / ARCHIVE)
    reader = Reader(tmp_path)
    assert_holds(reader, stored(CLASSIFIER, random_weights(CLASSIFIER, CLASSIFIER.config())))
    assert len(reader.aside) > len(reader)
    assert all(name.startswith("optimizer/vars/") for name in reader.aside)


# ------------------------------------------------------------------------------------------------------ without Keras


@pytest.mark.parametrize("name", [WEIGHTS, "other.weights.h5", ARCHIVE])
def test_what_is_written_is_read_bit_by_bit(tmp_path, name):
    for folder in "ab":
        fill(Writer(entries_of(ALL), extras={"config": {"a": 1}}, name=name), tmp_path / folder, ALL)
        reader = Reader(tmp_path / folder)
        assert_holds(reader, ALL)
        assert reader.files == (tmp_path / folder / name,)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_variables_of_a_layer_lie_in_one_shard(tmp_path):
    arrays = {f"{layer}/vars/{number}": np.ones(10, "f4") for layer in "abc" for number in range(2)}
    writer = Writer(entries_of(arrays), max_bytes=100, name="my.weights.h5")
    fill(writer, tmp_path, arrays)
    assert writer.files == ("my_00000.weights.h5", "my_00001.weights.h5", "my_00002.weights.h5", "my.weights.json")
    index = json.loads((tmp_path / "my.weights.json").read_text())
    assert index["weight_map"] == {f"/{layer}/vars": f"my_0000{n}.weights.h5" for n, layer in enumerate("abc")}
    assert_holds(Reader(tmp_path), arrays)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(
        FormatError, match=r"^keras: 'x' must have dtype float64, .* or a whole number, got float8_e5m2$"
    ):
        Writer([Entry("x", (1,), np.dtype(ml_dtypes.float8_e5m2))])
    with pytest.raises(FormatError, match=r"^keras: extras must have the model's config for an archive, got none$"):
        Writer([], name=ARCHIVE)
    with pytest.raises(FormatError, match=r"^keras: every tensor must have bytes of its own, got 'b' shared"):
        Writer([], shared={"b": "a"})


def test_folders_are_searched(tmp_path):
    with pytest.raises(
        FormatError, match=r"must hold model\.weights\.h5, model\.weights\.json or model\.keras, got an em"
    ):
        Reader(tmp_path)
    fill(Writer(entries_of(ALL), name="a.weights.h5"), tmp_path / "x", ALL)
    for name in ("a.weights.h5", "b.weights.h5"):
        (tmp_path / name).write_bytes((tmp_path / "x" / "a.weights.h5").read_bytes())
    with pytest.raises(
        FormatError, match=r"must hold one checkpoint, got a\.weights\.h5, b\.weights\.h5; give the path"
    ):
        Reader(tmp_path)
    (tmp_path / "b.weights.h5").rename(tmp_path / WEIGHTS)
    assert Reader(tmp_path).files == (tmp_path / WEIGHTS,)


# ----------------------------------------------------------------------------------------------------------- hostile


def zipped(path: Path, contents: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_archives_that_hold_something_else_are_refused(tmp_path):
    file = tmp_path / "x.keras"
    for contents, kind, told in (
        ({"a": b"", "b": b""}, zipfile.ZIP_STORED, r"must hold model\.weights\.h5, got a, b$"),
        ({}, zipfile.ZIP_STORED, r"must be a whole HDF5 file"),
        (
            {WEIGHTS: bytes(9)},
            zipfile.ZIP_DEFLATED,
            r"model\.weights\.h5 must be stored as it is, got it packed; unpack",
        ),
        (
            {WEIGHTS: bytes(9)},
            zipfile.ZIP_STORED,
            r"must be a whole HDF5 file, got one that its library fails on: OSEr",
        ),
        (
            {WEIGHTS: b"", "config.json": b"{"},
            zipfile.ZIP_STORED,
            r"must be a whole zip, got one that fails: Expecting",
        ),
        (
            {WEIGHTS: b"", "config.json": b" " * (65 << 20)},
            zipfile.ZIP_DEFLATED,
            r"config\.json must have at most 671088",
        ),
    ):
        with pytest.raises(FormatError, match=rf"x\.keras: {told}"):
            Reader(zipped(file, contents, kind))


def test_an_archive_that_lies_about_its_weights_is_refused(tmp_path):
    file = zipped(tmp_path / "x.keras", {WEIGHTS: bytes(100)})
    content = file.read_bytes()
    size = (100).to_bytes(4, "little")
    at = content.rindex(b"PK\1\2")
    file.write_bytes(content[:at] + content[at:].replace(size, (1 << 30).to_bytes(4, "little")))
    with pytest.raises(
        FormatError, match=r"model\.weights\.h5 must lie in the archive, got a claim of 1073741824 bytes$"
    ):
        Reader(file)
    file.write_bytes(b"PK\3\4" + bytes(40) + content[44:])
    with pytest.raises(FormatError, match=r"x\.keras: "):
        Reader(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "must hold JSON"),
        ("[]", "must hold a JSON object, got list"),
        ("{}", "weight_map must map groups to files, got another value$"),
        ('{"weight_map": {}}', "weight_map must map groups to files, got another value$"),
        ('{"weight_map": {"a": 3}}', "weight_map must map groups to files, got another value$"),
        ('{"weight_map": {"a": ["b", {}]}}', "weight_map must map groups to files, got another value$"),
        ('{"weight_map": {"a": "../x"}}', r"weight_map must name files of the same folder, got '\.\./x'$"),
    ],
)
def test_a_broken_index_is_refused_by_name(tmp_path, content, told):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(FormatError, match=rf"model\.weights\.json: {told}"):
        Reader(tmp_path)


def test_shards_that_lack_or_repeat_are_named(tmp_path):
    arrays = {"a/vars/0": np.ones(3, "f4")}
    fill(Writer(entries_of(arrays), name="a.weights.h5"), tmp_path, arrays)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"/a/vars": ["a.weights.h5", "b.weights.h5"]}}))
    with pytest.raises(FormatError, match=r"b\.weights\.h5: must be there, got No such file or directory$"):
        Reader(tmp_path)
    (tmp_path / "b.weights.h5").write_bytes((tmp_path / "a.weights.h5").read_bytes())
    with pytest.raises(
        FormatError, match=r"b\.weights\.h5: 'a/vars/0' must lie in one file, got it in a\.weights\.h5, too"
    ):
        Reader(tmp_path)


def test_opaque_bytes_are_bfloat16_only_where_it_is_said(tmp_path):
    with h5py.File(tmp_path / WEIGHTS, "w") as file:
        file["a"] = np.zeros(3, "V2")
    with pytest.raises(FormatError, match=r"'a' must hold numbers, got \|V2$"):
        Reader(tmp_path)


def test_damaged_archives_raise_format_errors_only(tmp_path):
    fill(Writer(entries_of(ALL), extras={"config": {"a": 1}}, name=ARCHIVE), tmp_path / "good", ALL)
    paths = []
    for number, each in enumerate(damaged((tmp_path / "good" / ARCHIVE).read_bytes(), 24)):
        paths.append(tmp_path / f"{number}.keras")
        paths[-1].write_bytes(each)
    told = survive(READER, paths, tmp_path)
    assert 2 < told.count("read") < 23
