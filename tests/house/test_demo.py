"""The cheap parts of `docs/demo.py`: what it reads, what it refuses, what it writes. It is not trained here."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xlcore import ParityError

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"


def load():
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = load()


def measured(float32: float = 2e-6, float64: float = 4e-15) -> dict[str, dict[str, float]]:
    floors = {"PyTorch floor": 1e-6, "Keras floor": 3e-6}
    names = ("log-probabilities", "hidden states, embedding", "hidden states, layer 1")
    return {name: {"float32": float32, **floors, "float64": float64} for name in names}


# --------------------------------------------------------------------------------------------------------- the text


def test_the_text_is_split_by_topics_and_nothing_held_out_was_learnt():
    topics = {f"topic {number:02}": f"Words of {number}.\n*****\n\nIn  every\none." for number in range(20)}
    learnt, held_out = demo.read_text(topics)
    assert learnt == ["Words of 0.", "In every one.", *(f"Words of {number}." for number in range(1, 18))]
    assert held_out == ["Words of 18.", "Words of 19."]
    assert demo.read_text(dict(reversed(topics.items()))) == (learnt, held_out)


def test_the_text_of_this_python_is_enough():
    from pydoc_data.topics import topics

    learnt, held_out = demo.read_text(topics)
    assert sum(map(len, learnt)) > 250_000
    assert sum(map(len, held_out)) > 15_000
    assert not set(learnt) & set(held_out)


def test_unigram_perplexity_is_that_of_the_counts():
    learnt = np.array([0, 0, 1])  # with one more of each: 3, 2, 1 of 6
    found = demo.unigram_perplexity(learnt, np.array([0, 2]), 3)
    assert math.isclose(found, math.sqrt(6 / 3 * 6 / 1))


# ------------------------------------------------------------------------------------------------------ the verdicts


def test_frameworks_that_agree_pass():
    demo.check_agreement(measured())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"float64": 2e-9}, "log-probabilities: frameworks must agree to 1.0e-09 in float64, got 2.0e-09"),
        ({"float32": 5e-6}, "log-probabilities: frameworks must agree to 4.0e-06 in float32, got 5.0e-06"),
        ({"float32": math.nan}, "log-probabilities: frameworks must agree to 4.0e-06 in float32, got nan"),
    ],
)
def test_frameworks_that_disagree_do_not(wrong, message):
    with pytest.raises(ParityError, match=f"^{re.escape(message)}$"):
        demo.check_agreement(measured(**wrong))


# ------------------------------------------------------------------------------------------------------- the report


def test_tables_line_up_and_say_zero_where_all_is_equal():
    screen, table = demo.tables(measured(float64=0.0))
    lines = screen.split("\n")
    assert lines[1] == "log-probabilities          2.0e-06         1.0e-06       3.0e-06         0"
    assert len({len(line) for line in lines}) == 1
    assert "<tr><td>log-probabilities</td><td>2.0e-06</td>" in table


def test_what_is_told_stands_in_the_report_without_being_html(capsys):
    report: list[str] = []
    demo.tell(report, "a <b> & c", "h2")
    assert report == ["<h2>a &lt;b&gt; &amp; c</h2>"]
    assert re.fullmatch(r"\n\[ *\d+ s\] a <b> & c\n", capsys.readouterr().out)


def test_pictures_lie_in_the_report_which_needs_no_other_file(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    history = {"held_out": [1000.0, 100.0, 50.0], "learnt": [200.0, 60.0]}
    equal = measured() | {"hidden states, layer 2": dict.fromkeys(measured()["log-probabilities"], 0.0)}
    with plt.rc_context(demo.LOOK):
        parts = [
            demo.HEAD,
            demo.draw_training(plt, tmp_path / "training.png", history, 220.0),
            demo.draw_agreement(plt, tmp_path / "agreement.png", equal),
        ]
    plt.close("all")
    for name, part in zip(("training", "agreement"), parts[1:], strict=True):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert re.fullmatch(r'<img alt="[\w -]+" src="data:image/png;base64,[\w+/=]+">', part)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link", re.sub('base64,[^"]+', "", "".join(parts)))


# -------------------------------------------------------------------------------------------------- the command line


def test_help_names_the_options_and_starts_no_framework():
    done = subprocess.run([sys.executable, DEMO, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "--out" in done.stdout
    assert "--epochs" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize("name", ["torch", "keras", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, name):
    monkeypatch.setattr(demo, "find_spec", lambda package: None if package == name else package)
    monkeypatch.setattr(demo.os, "environ", {})
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path)])
    with pytest.raises(
        SystemExit, match=re.escape(f"demo: {name} must be installed; pip install 'xlbridge[{demo.EXTRAS[name]}]'")
    ):
        demo.main()


def test_no_epochs_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--epochs", "0"])
    with pytest.raises(SystemExit):
        demo.main()
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err
