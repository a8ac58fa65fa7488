"""Parity finds every planted fault (`faults.py`), names the layer and the operation, and finds none where none is."""

import hashlib
import importlib.util
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from conversion.parity.compare import Options, Subject, compare
from conversion.parity.method import EPSILON
from conversion.parity.sides import MODES, ROOMS, Side
from tests.parity.faults import FAULTS, Fault
from xlcore.families import FAMILIES
from xlcore.families.transfo_xl import EXAMPLES, TransfoXLConfig

for name in ("torch", "tensorflow"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "tensorflow")
FASTEST = {"torch": "eager", "tensorflow": "graph"}  # the mode beside eager that is quickly compiled
# A probe in whose process the package changes from one fault to the next, but the framework, slow to load, stays.
STAGE = """
import importlib, sys
from pathlib import Path
from xlcore.probe import serve

def answer(job):
    folder = Path(__file__).parents[1].joinpath("now").read_text()
    if sys.path[0] != folder:
        sys.path[0] = folder
        for name in list(sys.modules):
            if name.partition(".")[0] in ("xlcore", "conversion", "xl_torch", "xl_tf"):
                del sys.modules[name]
    return importlib.import_module("ROOM.probe").answer(job)

serve(answer)
"""


class Remembering(Side):
    """A side that does each job once: most faults ask the sound side the same."""

    def __post_init__(self):
        super().__post_init__()
        self._known = {}

    def ask(self, job):
        keys = {name: value for name, value in vars(job).items() if name not in ("arrays", "device")}
        content = hashlib.sha256(json.dumps(keys, sort_keys=True).encode())
        for name, array in sorted(job.arrays.items()):
            content.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        key = content.hexdigest()
        if key not in self._known:
            self._known[key] = super().ask(job)
        return self._known[key]


@pytest.fixture(scope="module")
def sound():
    """Both sides as they are, by framework; one thread each, for the models are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with Remembering("torch") as one, Remembering("tensorflow") as other:
            yield {"torch": one, "tensorflow": other}


@pytest.fixture(scope="module")
def planted(sound, tmp_path_factory):
    """A function that compares a package, a text in it replaced, with the sound one of the other framework."""
    stages = {name: tmp_path_factory.mktemp(name) for name in FRAMEWORKS}
    for name, stage in stages.items():
        (stage / ROOMS[name]).mkdir()
        (stage / ROOMS[name] / "__init__.py").touch()
        (stage / ROOMS[name] / "probe.py").write_text(STAGE.replace("ROOM", ROOMS[name]), encoding="utf-8")
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Side(name, path=(str(stages[name]),))) for name in FRAMEWORKS}

        def compared(framework, folder, config, options, file="", old="", new=""):
            changed(ROOMS[framework], folder, file, old, new)
            (stages[framework] / "now").write_text(str(folder), encoding="utf-8")
            (other,) = (side for name, side in sound.items() if name != framework)
            subject = Subject("planted", config)
            return compare((subject, subject), (sides[framework], other), options)

        yield compared


def changed(room, folder, file, old, new):
    """Copy a package into a folder, a text that occurs once in it replaced."""
    shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    if file:
        text = (folder / room / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file}: {old!r} must occur once, got {text.count(old)}"
        (folder / room / file).write_text(text.replace(old, new), encoding="utf-8")


def options_for(fault: Fault, framework: str) -> Options:
    """Ask for no more than what the fault should fail, beside float64."""
    modes = ("eager", FASTEST[framework]) if "mode" in fault.kinds else ("eager",)
    assert set(modes) <= set(MODES[framework])
    kinds = tuple(kind for kind in fault.kinds if kind in ("gradients", "training", "tokens"))
    return Options((fault.head,), modes, tuple(kind for kind in fault.kinds if kind in EPSILON), kinds=kinds)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_found_where_it_is(fault, planted, tmp_path):
    framework = next(name for name in FRAMEWORKS if ROOMS[name] == fault.room)
    family = FAMILIES[fault.family]
    config = family.config(**{**family.examples[fault.example], **fault.more})
    options = options_for(fault, framework)
    report = planted(framework, tmp_path, config, options, fault.file, fault.old, fault.new)
    failed = [check for check in report.checks if not check.passed]
    assert {check.kind for check in failed} == set(fault.kinds)
    named = [check.name for check in failed if check.kind == fault.kinds[0]]
    assert set(named[: len(fault.names)]) == set(fault.names)
    assert [f"{place.layer} > {place.operation}" for place in report.places] == ([fault.place] if fault.place else [])
    for place in report.places:
        assert all(line.startswith(("xl_torch/", "xl_tf/")) for line in place.lines)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_copy_without_fault_passes(framework, planted, tmp_path):
    """The same way, in all kinds at once."""
    config = TransfoXLConfig(**EXAMPLES["bins"])
    options = Options(("TransfoXLLMHeadModel",), ("eager", FASTEST[framework]))
    report = planted(framework, tmp_path, config, options)
    assert not report.failures
    assert not report.places
    made = {"static", "float64", "float32", "gradients", "training", "tokens"}
    assert {check.kind for check in report.checks} - {"mode"} == made


def test_the_table_names_enough():
    """At least 28 faults, 8 of them on the Keras side, no two alike."""
    assert len(FAULTS) >= 28
    assert sum(fault.room == "xl_tf" for fault in FAULTS) >= 8
    assert len({str(fault) for fault in FAULTS}) == len(FAULTS)
