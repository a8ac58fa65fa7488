"""`xlbridge diff`: two checkpoints of any formats, parameter by parameter."""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import cli
from conversion.convert import convert, plan
from conversion.diff import Compared, Difference, diff, size_of
from conversion.shown import difference_lines
from conversion.source import open_source
from tests.conversion.models import FAMILY, SMALL, save
from xlcore import FAMILIES, WeightError

NAME = "blocks.1.attention.position.weight"


def compared(one: Path, other: Path) -> Difference:
    return diff(open_source(one, whole=False), open_source(other, whole=False))


def of(difference: Difference, name: str = NAME) -> Compared:
    return next(each for each in difference.tensors if each.name == name)


def states(difference: Difference) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in difference.tensors:
        found.setdefault(each.state, set()).add(each.name)
    return found


def pair(tmp_path, change=lambda arrays: None, dtypes=("float32", "float32"), **keys) -> Difference:
    """Compare two models that are the same but for a change in the second."""
    save(tmp_path / "a", dtype=dtypes[0])
    save(tmp_path / "b", dtype=dtypes[1], change=change, **keys)
    return compared(tmp_path / "a", tmp_path / "b")


def test_the_same_is_equal_bit_by_bit(tmp_path):
    difference = pair(tmp_path)
    assert states(difference).keys() == {"equal"}
    assert (difference.same_tensors, difference.config) == (True, {})


@pytest.mark.parametrize("to", ["torch", "hf-tf", "tf1", "keras"])
def test_formats_make_no_difference(to, tmp_path):
    save(tmp_path / "a")
    convert(plan(tmp_path / "a", tmp_path / "b", to=to))
    counted: list[int] = []
    one, other = open_source(tmp_path / "a"), open_source(tmp_path / "b")
    difference = diff(one, other, counted.append)
    assert states(difference).keys() == {"equal"}
    assert difference.config == {}
    assert sum(counted) == size_of(one, other)


def change_two(arrays):
    arrays[NAME][0, 1] = np.nextafter(arrays[NAME][0, 1], np.float32(9))
    arrays[NAME][2, 3] += 0.5


def test_a_difference_is_measured(tmp_path):
    difference = pair(tmp_path, change_two)
    found = of(difference)
    assert found.state == "different"
    assert found.share == pytest.approx(2 / 48)
    assert found.largest == pytest.approx(0.5)
    assert found.steps > 1000
    assert states(difference)["different"] == {NAME}
    assert not difference.same_tensors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_steps_count_numbers_of_the_dtype(tmp_path, dtype):
    """One step apart on either side of zero, of a power of two, and at the end."""
    kind = np.dtype(dtype)
    below = np.array([1.0, -1.0, 0.0, 2.0, 3.0], kind)
    above = np.array([1.0, -1.0, -0.0, 2.0, 3.0], kind)
    bits = above.view(f"u{kind.itemsize}")
    bits[0] += 3  # three steps up
    bits[1] -= 2  # two steps up, towards zero

    def put(values):
        def change(arrays):
            arrays[NAME][0, :5] = values.astype("float32")

        return change

    save(tmp_path / "a", dtype=dtype, change=put(below))
    save(tmp_path / "b", dtype=dtype, change=put(above))
    found = of(compared(tmp_path / "a", tmp_path / "b"))
    assert found.steps == 3
    assert found.share == pytest.approx(3 / 48)  # -0 is another bit pattern, at no distance


def test_numbers_on_both_sides_of_zero(tmp_path):
    tiny = np.float32(1e-45)  # the smallest
    save(tmp_path / "a", change=lambda arrays: arrays[NAME].fill(-tiny))
    save(tmp_path / "b", change=lambda arrays: arrays[NAME].fill(tiny))
    found = of(compared(tmp_path / "a", tmp_path / "b"))
    assert (found.steps, found.share) == (2, 1.0)
    assert found.largest == pytest.approx(2 * float(tiny))


def test_numbers_in_parts_are_one_result(tmp_path, monkeypatch):
    whole = pair(tmp_path, change_two)
    monkeypatch.setattr("conversion.diff._PART", 5)
    assert compared(tmp_path / "a", tmp_path / "b").tensors == whole.tensors


@pytest.mark.parametrize(("one", "other"), [(np.nan, 1.0), (np.inf, 1.0), (np.inf, -np.inf), (np.nan, np.inf)])
def test_what_is_no_number_differs_without_end(tmp_path, one, other, capsys):
    for name, value in (("a", one), ("b", other)):
        save(tmp_path / name, change=lambda arrays, value=value: arrays[NAME].__setitem__((0, 0), value))
    found = of(compared(tmp_path / "a", tmp_path / "b"))
    assert (found.state, found.largest) == ("different", math.inf)
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)["tensors"]}
    assert told[NAME]["largest"] == "inf"


def test_the_same_nan_is_equal(tmp_path):
    for name in "ab":
        save(tmp_path / name, change=lambda arrays: arrays[NAME].fill(np.nan))
    assert of(compared(tmp_path / "a", tmp_path / "b")).state == "equal"


def test_equal_numbers_in_two_dtypes(tmp_path):
    def rounded(arrays):
        for name, array in arrays.items():
            arrays[name] = array.astype(ml_dtypes.bfloat16).astype("float32")

    save(tmp_path / "a", change=rounded)
    save(tmp_path / "b", change=rounded, dtype=ml_dtypes.bfloat16)
    difference = compared(tmp_path / "a", tmp_path / "b")
    assert states(difference).keys() == {"equal values"}
    assert of(difference).dtypes == ("float32", "bfloat16")
    assert difference.same_tensors


def test_other_numbers_in_two_dtypes_are_counted_in_steps_of_the_coarser(tmp_path):
    difference = pair(tmp_path, lambda arrays: arrays[NAME].__imul__(1.02), ("float32", "bfloat16"))
    found = of(difference)
    assert found.state == "different"
    assert 1 <= found.steps <= 6  # 2 % are some 2.6 to 5.1 steps of bfloat16
    assert of(pair(tmp_path / "x", dtypes=("float16", "bfloat16"))).steps == 1  # twice rounded


def test_a_shape(tmp_path):
    difference = pair(tmp_path, d_inner=14)
    assert of(difference, "blocks.0.feed_forward.inner.weight") == Compared(
        "blocks.0.feed_forward.inner.weight", "reshaped", ((12, 8), (14, 8)), ("float32", "float32")
    )
    assert difference.config == {"d_inner": (12, 14)}
    assert not difference.same_tensors


def test_what_only_one_side_has(tmp_path):
    difference = pair(tmp_path, n_layer=3)
    missing = states(difference)["missing"]
    assert missing == {
        name for name in FAMILY.body(FAMILY.config(**SMALL | {"n_layer": 3})) if name.startswith("blocks.2.")
    }
    assert of(difference, "blocks.2.attention_norm.bias").shapes == (None, (8,))
    backwards = compared(tmp_path / "b", tmp_path / "a")
    assert of(backwards, "blocks.2.attention_norm.bias").shapes == ((8,), None)


def test_what_is_tied_is_compared_with_what_it_is_tied_to(tmp_path):
    tied = save(tmp_path / "a")
    ties = FAMILY.ties(FAMILY.config(**SMALL))

    def change(arrays):
        for name in arrays:
            arrays[name] = tied[ties.get(name, name)].copy()

    def change_a_copy(arrays):
        change(arrays)
        arrays["crit.bins.1.weight"][0, 0] += 1

    untied = {"tie_word_embeddings": False, "tie_projs": [False] * 3}
    save(tmp_path / "b", change=change, **untied)
    difference = compared(tmp_path / "a", tmp_path / "b")
    assert states(difference) == {"equal": {*tied, *ties}}
    assert difference.config.keys() == {"tie_word_embeddings", "tie_projs"}
    save(tmp_path / "c", change=change_a_copy, **untied)
    assert states(compared(tmp_path / "c", tmp_path / "a"))["different"] == {"crit.bins.1.weight"}


def test_a_tensor_that_has_no_place_makes_a_difference(tmp_path, capsys):
    save(tmp_path / "a")
    save(tmp_path / "b")
    tensors = load_file(tmp_path / "b" / "model.safetensors")
    save_file({**tensors, "stranger": np.zeros(2)}, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    assert not compared(tmp_path / "a", tmp_path / "b").same_tensors
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "stranger has no place" in capsys.readouterr().out


def test_two_families_are_not_compared(tmp_path):
    save(tmp_path / "a")
    one, other = open_source(tmp_path / "a"), open_source(tmp_path / "a")
    other.config = FAMILIES["xlnet"].config()
    with pytest.raises(WeightError, match=r"a: tensors must be those of transfo-xl, as .*a, got xlnet$"):
        diff(one, other)


# ------------------------------------------------------------------------------------------------------- command line


def test_the_exit_status(tmp_path, capsys):
    save(tmp_path / "a")
    save(tmp_path / "b", mem_len=9)
    save(tmp_path / "c", change=change_two)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert cli.main(["diff", a, a]) == 0
    assert "equal bit by bit; the configs are equal." in capsys.readouterr().out
    assert cli.main(["diff", a, b]) == 1
    assert "config    mem_len: 4 in A, 9 in B" in capsys.readouterr().out
    assert cli.main(["diff", a, b, "--tensors-only"]) == 0
    assert cli.main(["diff", a, c, "--tensors-only"]) == 1
    assert cli.main(["diff", a, str(tmp_path / "nothing")]) == 2
    assert "xlbridge diff: " in capsys.readouterr().err


def test_what_is_shown(tmp_path, capsys):
    save(tmp_path / "a", "TransfoXLModel")
    save(tmp_path / "b", "TransfoXLModel", change=change_two, n_layer=3)
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in shown.splitlines() if line.startswith("blocks.")}
    assert rows[NAME][1:8] == ["different", "float32", "[6,", "8]", "float32", "[6,", "8]"]
    assert rows[NAME][8] == "0.5"
    assert rows[NAME][-1] == "4.17%"
    assert rows["blocks.2.attention_norm.bias"][1:] == ["missing", "-", "float32", "[8]"]
    assert "1 different, 15 missing; 1 keys of the config differ." in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_json_holds_everything(tmp_path):
    told = pair(tmp_path, change_two, mem_len=5).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False))["config"] == {"mem_len": [4, 5]}
    assert told["heads"] == ["TransfoXLLMHeadModel"] * 2
    assert told["same_tensors"] is False
    assert next(each for each in told["tensors"] if each["name"] == NAME)["state"] == "different"


def test_lines_say_how_many_are_equal(tmp_path):
    lines = list(difference_lines(pair(tmp_path, change_two)))
    count = len(pair(tmp_path / "again").tensors)
    assert lines[-1] == f"{count - 1} of {count} parameters are equal bit by bit, 1 different; the configs are equal."
