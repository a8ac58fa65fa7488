"""The command, the function and the fixture, as people use them."""

import json
import re
from threading import Barrier
from xml.etree import ElementTree

import pytest

from conversion.cli import main
from conversion.parity import Options, Side, Subject, assert_parity, command, compare, subjects
from conversion.parity.compare import planned
from conversion.parity.results import Report
from xlcore import FormatError, ParityError, TransfoXLConfig, XLMConfig, XLNetConfig
from xlcore.families import FAMILIES

pytest.importorskip("torch")
pytest.importorskip("keras")

CONFIG = TransfoXLConfig(**FAMILIES["transfo-xl"].examples["bins"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two models that differ in one number, and a config alone."""
    from xl_torch import TransfoXLLMHeadModel

    root = tmp_path_factory.mktemp("models")
    model = TransfoXLLMHeadModel(CONFIG)
    model.save_pretrained(root / "one")
    model.transformer.blocks[1].feed_forward.outer.bias.data[3] += 1e-3
    model.save_pretrained(root / "other")
    CONFIG.to_json_file(root / "config.json")
    return root


def test_a_folder_agrees_and_reports_are_written(folders, capsys):
    files = {kind: folders / f"report.{kind}" for kind in ("json", "junit", "html")}
    options = [f"--{kind}={path}" for kind, path in files.items()]
    assert main(["parity", str(folders / "one"), *options]) == 0
    assert "agree" in capsys.readouterr().out
    report = json.loads(files["json"].read_text())
    assert report["passed"]
    assert {check["kind"] for check in report["checks"]} >= {
        "static",
        "float64",
        "float32",
        "gradients",
        "training",
        "tokens",
    }
    assert {check["head"] for check in report["checks"]} == {"TransfoXLLMHeadModel"}  # as config.json says
    assert int(ElementTree.parse(files["junit"]).getroot().find(".//testsuite").get("failures")) == 0
    assert "<html" in files["html"].read_text()


def test_two_folders_that_differ_are_told_apart_and_the_place_is_named(folders, capsys):
    pair = [str(folders / "one"), "--against", str(folders / "other"), "--frameworks", "torch,torch"]
    assert main(["parity", *pair, "--heads", "TransfoXLModel"]) == 1
    said = capsys.readouterr().out
    assert "blocks.1.feed_forward" in said
    assert "DIFFERS" in said


def test_the_differing_number_can_be_found(folders):
    from conversion.parity.subjects import subject_of

    one, other = subject_of(folders / "one"), subject_of(folders / "other")
    with Side("torch") as first, Side("torch") as second:
        report = compare((one, other), (first, second), Options(heads=("TransfoXLModel",), kinds=()))
    place = report.places[0]
    assert place.layer == "blocks.1.feed_forward"
    assert place.index[-1] == 3
    assert place.values[1] - place.values[0] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PATH or --all must be given, one of them, got neither"),
        (["{one}", "--all"], "PATH or --all must be given, one of them, got both"),
        (["{nowhere}"], "must be a folder that holds config.json, or a checkpoint, got no such folder"),
        (["{one}", "--frameworks", "torch"], "--frameworks must be two names, such as torch,tensorflow, got 'torch'"),
        (["{one}", "--frameworks", "torch,theano"], "a framework must be one of torch, tensorflow, jax, got 'theano'"),
        (["{one}", "--modes", "fast"], "--modes must be among eager, compile, graph, xla, got 'fast'"),
        (["{one}", "--modes", "xla", "--frameworks", "torch,torch"], "--modes must be among eager, compile, got 'xla'"),
        (
            ["{one}", "--modes", "compile", "--frameworks", "jax,jax"],
            "--modes must be among eager, graph, got 'compile'",
        ),
        (["{one}", "--first"], "--first must go with --all, got it with"),
        (["{one}", "--device", "nope"], "a device must be cpu, cuda or cuda:N, got 'nope'"),
        (["{one}", "--device", "cuda:x"], "a device must be cpu, cuda or cuda:N, got 'cuda:x'"),
        (["{one}", "--dtypes", "int8"], "--dtypes must be among float32, bfloat16, float16, got 'int8'"),
        (["{one}", "--heads", "XLNetModel"], "--heads must be among TransfoXLModel"),
        (["{one}", "--seeds", "0"], "--seeds must be positive, got 0"),
        (["--all", "--jobs", "0"], "--jobs must be positive, got 0"),
    ],
)
def test_errors_are_told_and_exit_with_2(folders, capsys, arguments, message):
    places = {"one": folders / "one", "nowhere": folders / "nowhere"}
    assert main(["parity", *(argument.format(**places) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_framework_that_is_missing_is_named(folders, monkeypatch, tmp_path, capsys):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["parity", str(folders / "config.json"), "--heads", "TransfoXLModel"]) == 2
    assert "torch: python -m xl_torch.probe must run" in capsys.readouterr().err


@pytest.mark.parity(kinds=("gradients", "training"))
def test_the_fixture_takes_a_head_of_ones_own(parity):
    from own_heads import TaggedModel, TFTaggedModel

    report = parity(CONFIG, torch=TaggedModel, keras=TFTaggedModel)
    names = {check.name for check in report.checks if check.kind == "gradients"}
    assert {"tagger.weight", "tagger.bias", "tagger_norm.weight", "tagger_norm.bias"} <= names
    shapes = [check for check in report.checks if check.name == "tagger.weight" and check.kind == "training"]
    assert shapes


def test_a_wrong_head_of_ones_own_is_caught(parity):
    from own_heads import TaggedModel, TFWrongModel

    with pytest.raises(ParityError, match="last_hidden_state"):
        parity(CONFIG, torch=TaggedModel, keras=TFWrongModel, kinds=())


def test_the_function_says_what_is_no_model(folders):
    with pytest.raises(FormatError, match="must be a folder that holds config"):
        assert_parity(folders / "config.jsn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("gradient",)}, "kinds must be among gradients, training, tokens, got 'gradient'"),
        ({"kinds": "gradients"}, "kinds must be a tuple of names, got 'gradients'"),
        ({"modes": ("compiled",)}, "modes must be among eager, compile, graph, xla, got 'compiled'"),
        ({"dtypes": ("float99",)}, "dtypes must be among float32, float16, bfloat16, got 'float99'"),
        ({"seeds": 0}, "seeds must be positive, got 0"),
    ],
)
def test_what_is_asked_for_by_a_wrong_name_is_not_left_out(options, message):
    with pytest.raises(ParityError, match=message):
        Options(**options)


@pytest.mark.parametrize("more", [[], ["--first"]], ids=str)
def test_all_are_all_examples_or_the_first_of_each_family(more, monkeypatch):
    """The first in all modes, the others eagerly."""
    asked = []

    def compared(pair, sides, options, advance):
        asked.append((pair[0].name, options.modes))
        return Report(pair[0].name, {}, {}, {}, "now")

    monkeypatch.setattr(command, "compare", compared)
    main(["parity", "--all", "--modes", "all", *more])
    names = [f"{kind}: {name}" for kind, family in FAMILIES.items() for name in family.examples]
    firsts = {f"{kind}: {next(iter(family.examples))}" for kind, family in FAMILIES.items()}
    assert [name for name, _ in asked] == [name for name in names if name in firsts or not more]
    for name, modes in asked:
        assert modes == (("eager", "compile", "graph", "xla") if name in firsts else ("eager",))


def test_against_is_of_the_same_family(tmp_path, capsys):
    for name, config in (("one", XLNetConfig()), ("other", XLMConfig())):
        (tmp_path / f"{name}.json").write_text(json.dumps(config.to_dict()))
    assert main(["parity", str(tmp_path / "one.json"), "--against", str(tmp_path / "other.json")]) == 2
    assert "--against must be a model of the same family, got xlnet and xlm" in capsys.readouterr().err


def test_against_goes_with_a_path(capsys):
    assert main(["parity", "--all", "--against", "elsewhere"]) == 2
    assert "--against must go with PATH" in capsys.readouterr().err


def test_a_mode_that_neither_side_has_is_not_left_out():
    with pytest.raises(ParityError, match=r"modes of torch must be among eager, compile, got 'graph'"):
        assert_parity(CONFIG, frameworks=("torch", "torch"), modes=("eager", "graph"))


def test_heads_of_all_families(monkeypatch, capsys):
    """As the report of a failed run asks for them; other families are left out."""
    asked = []

    def compared(pair, sides, options, advance):
        asked.append((pair[0].config.model_type, options.heads))
        return Report(pair[0].name, pair[0].config.to_dict(), {}, {}, "")

    monkeypatch.setattr(command, "compare", compared)
    main(["parity", "--all", "--heads", "XLMForMultipleChoice,TFXLNetModel", "--first"])
    assert asked == [("xlnet", ("XLNetModel",)), ("xlm", ("XLMForMultipleChoice",))]
    assert main(["parity", "--all", "--heads", "XLMForEverything"]) == 2
    assert re.search(r"--heads must be among TransfoXLModel, .*, got 'XLMForEverything'", capsys.readouterr().err)


@pytest.mark.parametrize("broken", [False, True])
def test_several_models_at_a_time(broken, monkeypatch):
    """Each with sides of its own, reports in order; one that breaks ends the others."""
    meeting, seen = Barrier(2, timeout=20), []

    def compared(pair, sides, options, advance):
        seen.append((pair[0].name, sides))
        if len(seen) <= 2:
            meeting.wait()
        if broken and pair[0].name == seen[0][0]:
            raise ParityError("parity: it must work, got nothing")
        return Report(pair[0].name, pair[0].config.to_dict(), {}, {}, "")

    order = []
    monkeypatch.setattr(command, "compare", compared)
    monkeypatch.setattr(command, "merged", lambda reports: order.extend(reports) or reports[0])
    assert main(["parity", "--all", "--jobs", "2"]) == (2 if broken else 1)  # a report without a check is no proof
    assert len({id(side) for _, sides in seen for side in sides}) == 4
    if not broken:
        assert [report.subject for report in order] == [one.name for one in subjects.examples()]


def test_as_many_steps_are_planned_as_told():
    """Each draw is a step, and each compiled mode, with the first draw, on each side that has it."""
    subject, told = Subject("bins", CONFIG), []
    options = Options(("TransfoXLModel",), ("eager", "graph"), seeds=2, kinds=())
    with Side("torch") as one, Side("tensorflow") as other:
        assert compare((subject, subject), (one, other), options, told.append).passed
    assert len(told) == planned(CONFIG, options, ("torch", "tensorflow")) == 3
    every = Options(modes=("eager", "compile", "graph", "xla"))
    assert planned(CONFIG, every, ("torch", "tensorflow")) == 3 * (1 + 3)
    assert planned(CONFIG, every, ("torch", "torch")) == 3 * (1 + 2)
