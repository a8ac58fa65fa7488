"""Reports for people and for machines: the table, JSON, JUnit XML, the HTML page and its plots."""

import io
import math
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from conversion.parity.reports import Progress, charts, read_json, svg, table, write_html, write_json, write_junit
from conversion.parity.reports.markup import Html, breakable, element, join
from conversion.parity.reports.page import html
from conversion.parity.reports.summary import (
    command,
    duration,
    failed,
    next_steps,
    percent,
    precision,
    reason,
    rerun,
    share,
    shell_lines,
    short,
    worst,
)
from conversion.parity.reports.terminal import WIDTH, shortened
from conversion.parity.results import KINDS, Check, Place, Report
from xlcore.errors import FormatError

INF, NAN = math.inf, math.nan
SIDES = ("torch", "tensorflow")
HOSTILE = "<&\"'\x00\x1b[31m\x85\ud800]]>\u202e</script>"
VOID = {"meta", "wbr", "br"}


def check(name="logits", kind="float32", distance=1e-7, floor=1e-7, limit=1e-6, **more):
    told = kind if kind in ("bfloat16", "float16") else "float32" if floor else "float64"
    given = {"head": "XLNetModel", "case": "plain", "seed": 0, "sides": SIDES, "scale": 1.0, "precision": told} | more
    return Check(kind=kind, name=name, distance=distance, floor=floor, limit=limit, **given)


def place(**more):
    given = {
        "head": "XLNetModel", "case": "memory", "seed": 0, "sides": SIDES, "layer": "blocks.3.attention",
        "operation": "scores", "lines": ("xl_torch/layers/attention.py:71", "xl_tf/layers/attention.py:74"),
        "distance": 0.0309, "index": (0, 2, 5), "values": (0.12345678901, -0.15446),
    }  # fmt: skip
    return Place(**(given | more))


def report(checks=(), places=(), **more):
    given = {
        "subject": "models/tiny", "config": {"d_model": 8, "eps": 1e-12}, "versions": {"torch": "2.6"},
        "options": {"frameworks": "torch,tensorflow", "seeds": 3}, "started": "2026-01-02T03:04:05", "seconds": 6.0,
    }  # fmt: skip
    return Report(**(given | more), checks=list(checks), places=list(places))


def passing(layers=3, heads=("XLNetModel", "XLNetLMHeadModel")):
    """Return a report with every kind of check, all good."""
    found = []
    for head in heads:
        found.append(check("embedding.weight", "static", 0.0, 0.0, 0.0, head=head, case="parameters"))
        for layer in range(layers + 1):
            name = f"hidden_states.{layer}"
            found.append(check(name, "float64", 1e-15, 0.0, 1e-9, head=head))
            found.append(check(name, "float32", (layer + 1) * 1e-7, head=head))
            found.append(check(name, "bfloat16", 1e-2, 1e-2, 1e-1, head=head, case="memory"))
        for layer in range(layers):
            found.append(check(f"blocks.{layer}.query.weight", "gradients", 1e-8, head=head, precision="float32"))
            found.append(check(f"blocks.{layer}.query.weight", "gradients", 1e-14, 0.0, 1e-9, head=head))
        found += [
            check(f"loss.{step}", "training", step * 1e-8, head=head, precision="float32") for step in range(1, 11)
        ]
        found.append(check("tokens", "tokens", 0.0, 0.0, 0.0, head=head))
        found.append(check("logits", "mode", 1e-7, head=head, sides=("torch eager", "torch compile")))
    return report(found)


def failing():
    """Return a report with failures of several kinds, and a place."""
    whole = passing()
    whole.checks += [
        check("hidden_states.2", "float64", 0.3, 0.0, 1e-9, case="memory"),
        check("hidden_states.2", "float32", 0.3, case="memory"),
        check("the_worst_tensor.weight", "gradients", INF, note="(3, 4) and (4, 3)"),
    ]
    whole.places.append(place())
    return whole


def big(number=20_000):
    return report(
        check(f"blocks.{i % 480}.weight", "gradients", 1e-8, head=f"Head{i % 11}", seed=i // 5000)
        for i in range(number)
    )


# ------------------------------------------------------------------------------------------------------------- summary


def test_a_share_is_never_nan_and_failures_are_above_one():
    assert share(check(distance=2.5e-7)) == pytest.approx(0.25)
    assert share(check(distance=0.0, limit=0.0)) == 0.0
    assert share(check(distance=INF, limit=INF)) == 0.0
    assert share(check(distance=1e-5)) == pytest.approx(10)
    for distance, limit in ((INF, 1.0), (NAN, 1.0), (1.0, NAN), (1.0, 0.0), (NAN, NAN), (INF, 0.0)):
        assert share(check(distance=distance, limit=limit)) == INF


def test_the_worst_is_a_failure_and_nan_before_infinity_before_numbers():
    order = [check(distance=d) for d in (0.0, 1e-7, 1e-5, INF, NAN)]
    for number in range(1, len(order) + 1):
        assert worst(order[:number][::-1]) is order[number - 1]
    assert failed(order) == order[:1:-1]
    assert worst([check(limit=NAN), check()]).limit is NAN


@pytest.mark.parametrize(
    ("distance", "limit", "text"),
    [
        (0.0, 0.0, "0%"), (1e-10, 1e-6, "<0.1%"), (1.23e-8, 1e-6, "1.2%"), (9.99e-7, 1e-6, "100%"),
        (1e-6, 1e-6, "100%"), (3.4e-6, 1e-6, "3.4x"), (0.2, 1e-9, "2e8x"), (40.0, 1e-9, "4e10x"), (INF, 1e-9, "inf"),
        (NAN, 1e-9, "NaN"), (1e-9, 0.0, "inf"),
    ],
)  # fmt: skip
def test_a_share_in_words(distance, limit, text):
    assert percent(check(distance=distance, limit=limit)) == text


def test_numbers_and_durations():
    assert [short(value) for value in (1.234e-7, 0.0, INF, NAN, -2.0)] == ["1.23e-07", "0", "inf", "nan", "-2.00e+00"]
    told = {0.04: "0.0 s", 9.5: "9.5 s", 9.97: "10 s", 59.7: "1 min 00 s", 185: "3 min 05 s", 7380: "2 h 03 min"}
    assert {seconds: duration(seconds) for seconds in told} == told


def test_the_precision_is_the_checks_own_and_shapes_have_none():
    assert precision(check(kind="bfloat16")) == "bfloat16"
    assert precision(check(kind="gradients", floor=0.0, precision="float32")) == "float32"
    assert precision(check(kind="gradients", floor=0.0)) == "float64"
    assert precision(check(kind="training")) == "float32"
    assert precision(check(kind="static")) == "static"


def test_the_reason_is_one_sentence():
    assert reason(report()) == "No check was made, so nothing is shown to agree."
    assert reason(report([check()])) == "The one check passes: logits of XLNetModel (float32) takes 10% of its limit."
    assert re.fullmatch(
        r"All 62 checks of 2 heads pass; .* hidden_states.3 of XLNetModel \(float32\), at 40%\.", reason(passing())
    )
    text = reason(failing())
    assert text.startswith(
        "3 of 65 checks failed in 1 of 2 heads, beginning with float64: hidden_states.2 of XLNetModel"
    )
    assert text.endswith("is 3.00e-01 apart where 1.00e-09 is allowed.")
    assert "(one has none)" in reason(report([check(distance=INF, note="one has none")]))


@pytest.mark.parametrize("kind", [*KINDS, "unheard-of"])
def test_every_kind_has_advice_and_a_command_for_the_head_where_it_begins(kind):
    found = report([check(head="A"), check(head="B", kind=kind, distance=INF)])
    assert len(next_steps(found)) == (kind in KINDS)
    assert rerun(found).endswith("--heads B --seeds 3")


def test_the_command_has_the_options_that_have_a_flag():
    assert command(passing()) == "xlbridge parity models/tiny --frameworks torch,tensorflow --seeds 3"
    odd = report(
        subject="a b against c", options={"heads": ["X", "Y"], "kinds": "training", "device": None, "modes": ()}
    )
    assert command(odd) == "xlbridge parity 'a b' --against c --heads X,Y"
    assert command(report(options={"all": True})) == "xlbridge parity --all"
    assert command(report(options={"path": "there"})) == "xlbridge parity there"


def test_a_long_command_is_broken_before_options_only():
    text = "xlbridge parity 'a --b' " + " ".join(f"--option{i} value" for i in range(9))
    lines = shell_lines(text, 60)
    assert all(len(line) <= 60 for line in lines)
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shell_lines("short --one", 60) == ["short --one"]


# ------------------------------------------------------------------------------------------------------------ terminal


def rows_of(text):
    return [line.split() for line in text.splitlines() if line.startswith("  ") and line.endswith(("ok", "DIFFERS"))]


def test_the_table_of_success():
    text = table(passing(), colour=False)
    assert len(rows_of(text)) == 2 * 8
    assert ["float32", "4", "hidden_states.3", "4.00e-07", "1.00e-07", "1.00e-06", "ok"] in rows_of(text)
    assert ["static", "1", "embedding.weight", "0", "-", "0", "ok"] in rows_of(text)
    assert "DIFFERS" not in text
    assert "Next:" not in text
    assert " ".join(text.split()).endswith("at 40%. It took 6.0 s.")


def test_the_table_of_failure_names_places_notes_and_next_steps():
    text = table(failing(), colour=False)
    flat = " ".join(text.split())
    assert ["float64", "5", "hidden_states.2", "3.00e-01", "-", "1.00e-09", "DIFFERS"] in rows_of(text)
    assert ["gradients", "7", "the_worst_tensor.weight", "inf", "1.00e-07", "1.00e-06", "DIFFERS"] in rows_of(text)
    assert str(place()) in flat
    assert "XLNetModel, plain, the_worst_tensor.weight: (3, 4) and (4, 3)" in flat
    assert "1. The maths differs" in flat
    assert "xlbridge parity models/tiny --frameworks torch,tensorflow --heads XLNetModel --seeds 3" in flat
    assert "The sides differ. 3 of 65 checks failed" in flat


def test_the_table_of_nothing():
    text = table(report(), colour=False)
    assert "Nothing was compared" in text
    assert "Name at least one head" in text
    assert rows_of(text) == []


def test_the_table_is_narrow_plain_ascii_whatever_the_names():
    long = "XLNetForSomething" * 3 + "LongNames"
    checks = [check(long + HOSTILE, head=long, kind=HOSTILE, distance=NAN, note=HOSTILE), check("é" * 60)]
    found = report(
        checks, [place(layer=HOSTILE, lines=(long, long))] * 9, subject=long + HOSTILE, options={"all": True}
    )
    text = table(found, colour=False)
    assert text.isascii()
    assert all(each.isprintable() for line in text.splitlines() for each in line)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "... and 4 more places" in text


def test_the_table_has_colour_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain = table(failing(), colour=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert table(failing()) == plain
    monkeypatch.setattr("sys.stdout", Terminal())
    painted = table(failing())
    assert "\x1b[31;1mDIFFERS\x1b[0m" in painted
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(failing()) == plain


@pytest.mark.parametrize("width", range(1, 12))
def test_a_name_is_shortened_in_its_middle(width):
    text = shortened("abcdefghij", width)
    assert len(text) == min(width, 10)
    assert width >= 10 or width <= 3 or text.endswith("j")


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    with Progress(3) as progress:
        progress.advance("one")
    assert capsys.readouterr() == ("", "")


def test_progress_says_what_begins_and_grows(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with Progress(2) as progress:
        for text in ("first", "second", "third", "fourth \x1b]0;evil\x07"):
            progress.advance(text)
            progress._bar.refresh()
    shown = screen.getvalue()
    assert "0/2 " in shown
    assert "3/4 " in shown
    assert "fourth \\x1b" in shown
    assert "evil\x07" not in shown


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("made", [report, passing, failing], ids=lambda made: made.__name__)
def test_json_comes_back_exactly(made, tmp_path):
    found = made()
    write_json(found, tmp_path / "new" / "report.json")
    assert read_json(tmp_path / "new" / "report.json") == found
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["report.json"]


def test_json_keeps_numbers_that_are_none_and_hostile_names(tmp_path):
    checks = [check(HOSTILE, distance=INF, note=HOSTILE), check(distance=NAN, floor=NAN, limit=INF), check(distance=1)]
    found = report(checks, [place(values=(NAN, -INF), distance=INF)], seconds=0.1 + 0.2)
    write_json(found, tmp_path / "r.json")
    back = read_json(tmp_path / "r.json")
    assert repr(back) == repr(replace(found, checks=[*checks[:2], check(distance=1.0)]))
    assert back.places[0].index == (0, 2, 5)
    assert isinstance(back.checks[0].sides, tuple)


def test_json_takes_numpy_scalars(tmp_path):
    import numpy as np

    found = report([check(distance=np.float32(0.5), seed=np.int64(3))], [place(index=(np.int64(1),))])
    found.config = {"path": tmp_path, "wide": np.arange(2), "far": np.float32("inf")}
    write_json(found, tmp_path / "r.json")
    back = read_json(tmp_path / "r.json")
    assert (back.checks[0].distance, back.checks[0].seed, back.places[0].index) == (0.5, 3, (1,))
    assert back.config == {"path": str(tmp_path), "wide": [0, 1], "far": "inf"}


def test_json_has_a_line_for_each_check(tmp_path):
    write_json(failing(), tmp_path / "r.json")
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert sum('"distance"' in line for line in lines) == len(failing().checks) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"r\.json: the file must be JSON"),
        ("[]", r"r\.json: the file must be a parity report, got"),
        ('{"subject": "x"}', r"r\.json: the file must be a parity report, got one that fails: KeyError: 'config'"),
    ],
)
def test_json_that_is_no_report(text, message, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_json(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"passed": false', '"passed": true', "'passed' must be False as the checks are, got True"),
        ('"floor": ', '"flor": ', "must be a parity report, got one that fails: TypeError"),
        ('"subject": ', '"more": 1, "subject": ', "must be a parity report, got one that fails: KeyError: 'more'"),
        ('"distance": 0.3', '"distance": "far"', "must be a parity report, got one that fails: ValueError"),
    ],
)
def test_json_that_was_changed(old, new, message, tmp_path):
    write_json(failing(), tmp_path / "r.json")
    (tmp_path / "r.json").write_text((tmp_path / "r.json").read_text().replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        read_json(tmp_path / "r.json")


# --------------------------------------------------------------------------------------------------------------- JUnit


def junit(found, tmp_path):
    write_junit(found, tmp_path / "junit.xml")
    return ElementTree.parse(tmp_path / "junit.xml").getroot()


def test_junit_counts_suites_tests_and_failures(tmp_path):
    root = junit(failing(), tmp_path)
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["XLNetModel", "XLNetLMHeadModel"]
    # static, float64, float32, bfloat16, gradients, training, tokens, mode; float64 and float32 have a second case
    assert [suite.get("tests") for suite in root] == ["10", "8"]
    assert [suite.get("failures") for suite in root] == ["3", "0"]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("18", "3", "0")
    for suite in root:
        assert len(suite.findall("testcase")) == int(suite.get("tests"))
        assert len(suite.findall("testcase/failure")) == int(suite.get("failures"))
        names = [test.get("name") for test in suite.iter("testcase")]
        assert len(set(names)) == len(names)


def test_junit_says_what_failed_and_where(tmp_path):
    tests = {test.get("name"): test for test in junit(failing(), tmp_path)[0].iter("testcase")}
    failure = tests["float64, memory: torch and tensorflow"].find("failure")
    assert failure.get("message").startswith("1 of 1 tensor differ, worst hidden_states.2, seed 0: distance 3.00e-01")
    assert "floor -, limit 1.00e-09, 3e8x the limit" in failure.text
    assert str(place()) in failure.text
    assert "(3, 4) and (4, 3)" in tests["gradients, plain: torch and tensorflow"].find("failure").text
    good = tests["tokens, plain: torch and tensorflow"]
    assert good.find("failure") is None
    assert "nearest to its limit tokens, seed 0: distance 0" in good.find("system-out").text


def test_junit_shares_out_the_time(tmp_path):
    root = junit(failing(), tmp_path)
    assert float(root.get("time")) == 6
    assert sum(float(suite.get("time")) for suite in root) == pytest.approx(6, abs=1e-3)
    assert sum(float(test.get("time")) for test in root.iter("testcase")) == pytest.approx(6, abs=1e-3)


def test_junit_merges_seeds_and_lists_a_hundred(tmp_path):
    found = report(check(f"t{number}", distance=INF, seed=number % 3) for number in range(250))
    (test,) = junit(found, tmp_path).iter("testcase")
    assert len(test.find("failure").text.splitlines()) == 101
    assert test.find("failure").text.endswith("... and 150 more")


def test_junit_of_nothing_is_an_error_and_no_success(tmp_path):
    root = junit(report(), tmp_path)
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert root.find("testsuite/testcase/error").text == "No check was made, so nothing is shown to agree."


def test_junit_survives_hostile_names(tmp_path):
    checks = [check(HOSTILE, head=HOSTILE, case=HOSTILE, distance=NAN, note=HOSTILE, sides=(HOSTILE, "b"))]
    places = [place(head=HOSTILE, sides=(HOSTILE, "b"), layer=HOSTILE)]
    options = {HOSTILE: HOSTILE}
    root = junit(report(checks, places, subject=HOSTILE, started=HOSTILE, versions=options, options=options), tmp_path)
    kept = re.sub("[\x00\x1b\x85\ud800]", "", HOSTILE)
    assert root.find("testsuite").get("name") == kept
    assert kept in root.find("testsuite/testcase/failure").text
    assert "nan" in root.find("testsuite/testcase/failure").text


# ---------------------------------------------------------------------------------------------------------------- HTML


class Page(HTMLParser):
    """A page's text and attributes; says which tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.attributes, self.words, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        self.wrong += self.open
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def assert_sound(text):
    """Hold a page to being whole, and to loading and running nothing."""
    page = Page(text)
    assert page.wrong == []
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "srcset", "action", "data", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    assert not {"script", "link", "img", "iframe", "object", "base", "form", "a"} & set(page.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "nan" not in " ".join(value for name, value in page.attributes if name in ("d", "x", "y", "cx", "cy"))
    return page


@pytest.mark.parametrize("made", [report, passing, failing, big], ids=lambda made: made.__name__)
def test_the_page_is_whole_and_needs_nothing(made, tmp_path):
    write_html(made(), tmp_path / "report.html")
    assert_sound((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_what_was_found():
    page = assert_sound(html(failing()))
    assert "✗The sides differ" in page.text
    assert reason(failing()) in page.text
    for words in (
        "models/tiny",
        "torch 2.6",
        "seeds = 3",
        "6.0 s",
        "65, of which 3 failed",
        "Draws1, by seed 0",
        '"eps": 1e-12',
    ):
        assert words in page.text, words
    for words in ("the_worst_tensor.weight", "(3, 4) and (4, 3)", "inf", "3e8x", "✗ 3e8x"):
        assert words in page.text, words
    for words in ("blocks.3.attention › scores[0, 2, 5]", "0.12345678901", "-0.15446", *place().lines, "3.09e-02"):
        assert words in page.text, words
    for title in (
        "Error in each layer, against its floor",
        "The same in half precision",
        "Gradient error",
        "Training:",
    ):
        assert title in page.text, title
    assert "How far rounding alone takes" in page.text
    assert "xlbridge parity models/tiny" in page.text


def test_the_page_of_success():
    page = assert_sound(html(passing()))
    assert "✓The sides agree" in page.text
    assert "62, all passed" in page.text
    assert "What to do next" not in page.text
    assert "Where the sides part" not in page.text
    assert ("class", "bad") not in page.attributes


def test_the_page_of_nothing_and_of_one():
    page = assert_sound(html(report()))
    assert "✗Nothing was compared" in page.text
    assert "svg" not in page.tags
    page = assert_sound(html(report([check("hidden_states.0")])))
    assert "The one check passes" in page.text
    assert "1e-6" in page.text


def test_the_page_survives_hostile_and_endless_values():
    kinds = [HOSTILE, *KINDS]
    values = (0.0, NAN, INF, 1e-320, 1e308, 1e-7)
    names = ("hidden_states.0", "loss.1", HOSTILE, "hidden_states.x", "n" * 60)
    checks = [
        check(name, kind, value, floor, limit, head=HOSTILE, case=HOSTILE, sides=(HOSTILE, HOSTILE), note=HOSTILE)
        for kind in kinds
        for name in names
        for value in values
        for floor in values
        for limit in values
    ]
    places = [place(layer=HOSTILE, operation=HOSTILE, lines=(HOSTILE, HOSTILE), values=(NAN, INF), index=())]
    words = {HOSTILE: HOSTILE}
    found = report(checks, places, subject=HOSTILE, started=HOSTILE, config=words, versions=words, options=words)
    page = assert_sound(html(found))
    assert re.sub("[\x00\x1b\x85\ud800]", "", HOSTILE) in page.text


def test_the_maps_have_a_number_in_each_cell_and_mark_failures_by_a_sign():
    page = Page(charts.heads_by_kind(failing()))
    classes = [value for name, value in page.attributes if name == "class"]
    assert classes.count("bad") == page.text.count("✗") == 3
    assert len([value for value in classes if value[0] == "s"]) == 2 * 8 - 3
    assert "memory" in Page(charts.heads_by_case(failing())).text
    assert "parameters" not in charts.heads_by_case(failing())
    assert "torch compile" in Page(charts.heads_by_sides(failing())).text.replace("\u00a0", " ")
    assert charts.heads_by_case(report([check()])) is None
    assert charts.heads_by_sides(report([check()])) is None
    assert ("class", "none") in Page(charts.heads_by_kind(report([check(), check(head="B", kind="mode")]))).attributes


def test_a_map_of_many_columns_and_few_heads_is_turned():
    cases = [f"case {number}{variant}" for number in range(12) for variant in ("", "/unlabelled")]
    tall = Page(charts.heads_by_case(report(check(case=case, head=head) for case in cases for head in "AB")))
    assert tall.tags.count("tr") == 1 + 12
    assert tall.tags.count("td") == 2 * 12
    assert tall.text.startswith("case \\ headAB")
    wide = Page(charts.heads_by_case(report(check(case=case, head=f"H{h}") for case in cases for h in range(12))))
    assert wide.text.startswith("head \\ case")


@pytest.mark.parametrize("layers", [1, 40])
def test_the_plot_of_layers_shows_distance_and_floor_of_each(layers):
    page = Page(charts.layers(passing(layers, heads=["A"]), ("float32", "float64"), "Layers"))
    classes = [value for name, value in page.attributes if name == "class"]
    for style, mark in (("one", "circle"), ("two", "square")):
        assert classes.count(f"mark {style}") == layers + 2, mark  # one is in the legend
    assert classes.count("level floor one") == 2
    assert classes.count("level floor two") == 0
    assert "float32: floor" in page.text
    assert "largest absolute difference (log)" in page.text


def test_the_plot_of_gradients_labels_the_worst_few_only():
    page = Page(charts.gradients(big()))
    assert page.tags.count("li") == 3 + 6 - 1  # distance, limit, and the numbered; nothing is over its limit
    assert "480 parameters, sorted by distance" in page.text
    many = report(check(f"p{number}", "gradients", 1e-9 * number) for number in range(1, 1300))
    page = Page(charts.gradients(many))
    assert "1,000 parameters" in page.text
    assert page.tags.count("path") < 1100
    assert "p1299" in page.text
    assert charts.gradients(report([check()])) is None


def test_plots_are_left_out_where_there_is_nothing_to_show():
    assert charts.training(report([check("step1.weight", "training")])) is None
    assert charts.layers(report([check()]), ("float32",), "Layers") is None
    assert "<svg" in charts.training(report([check("loss.1", "training", NAN)]))


def test_a_limit_of_zero_is_no_line():
    drawn = charts.training(
        report(check(f"loss.{n}", "training", 0.0, 0.0, n and 1e-6, precision="float32") for n in range(3))
    )
    _, limit = re.findall(r'd="([^"]*)" class="level limit one"', drawn)  # the first is in the legend
    assert limit.count("M") == 1
    assert limit.count("H") == 2


def test_tags_stand_side_by_side_within_the_plot():
    places = svg.spread([5, 5, 5, 6, 150, 299, 300], 24, 0, 300)
    assert all(b - a >= 24 for a, b in pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= 300
    assert places[4] == 150
    assert svg.spread([], 24, 0, 300) == []


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (0, 12), (0, 40), (1, 480), (1, 1000)])
def test_ticks_leave_room_for_their_numbers(first, last):
    ticks = svg._whole_ticks(first, last)
    assert 1 <= len(ticks) <= 26
    assert first <= ticks[0]
    assert ticks[-1] <= last


def test_a_logarithmic_axis_has_room_for_zero_and_for_no_number():
    points = [svg.Point(x, y) for x, y in enumerate((0.0, 1e-9, 1e-3, INF, NAN))]
    axes = svg.Axes(svg.Plot("t", "x", "y", [svg.Series("s", "one", points, "circle")]))
    heights = [axes.y(point.y) for point in points]
    assert heights[0] > heights[1] > heights[2] > heights[3] == heights[4]
    assert heights[0] - axes.ground > 12
    assert axes.roof - heights[3] > 12
    assert [axes.x(x) for x in range(5)] == sorted(axes.x(x) for x in range(5))


def test_markup_escapes_what_is_no_markup():
    assert (
        element("b", "<i>", Html("<u>"), None, 3, class_='x"y', data_a=None) == '<b class="x&quot;y">&lt;i&gt;<u>3</b>'
    )
    assert join("a&", "b") == "a&amp;b"
    assert breakable("blocks.3.a_b<XLNetModel>") == "blocks.<wbr>3.<wbr>a_<wbr>b&lt;XLNet<wbr>Model&gt;"


# ---------------------------------------------------------------------------------------------------------------- size


def test_twenty_thousand_checks_take_seconds(tmp_path):
    found = big()
    began = time.process_time()
    text = table(found)
    write_html(found, tmp_path / "r.html")
    write_junit(found, tmp_path / "r.xml")
    write_json(found, tmp_path / "r.json")
    spent = time.process_time() - began
    assert len(text.splitlines()) < 100
    assert (tmp_path / "r.html").stat().st_size < 2**20
    assert spent < 4, f"{spent:.1f} s"
