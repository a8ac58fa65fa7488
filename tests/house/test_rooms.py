"""Who may import whom: the syntax trees against the table of rooms, and imports with everything else blocked."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "keras", "tensorflow", "jax"}
OURS = {"xlcore", "conversion", "xl_torch", "xl_tf"}
# What each room may import of ours, and of the frameworks.
MAY = {
    "xlcore": {"xlcore"},
    "conversion": {"conversion", "xlcore"},
    "xl_torch": {"xl_torch", "xlcore", "conversion.checkpoint", "torch"},
    "xl_tf": {"xl_tf", "xlcore", "conversion.checkpoint", "keras"},
}
# JAX looks into no class that it was not told of, and Keras does not tell it.
EXCEPT = {
    "xl_tf/ops.py": {"jax.tree_util.register_pytree_node"},
    # What only the framework under Keras can do; no model uses it. Of TensorFlow's inside what it shows nowhere else:
    # whether XLA compiles, and whether a tape is there.
    "xl_tf/backend.py": {
        "jax",
        "tensorflow",
        "tensorflow.python.eager.record.could_possibly_record",
        "tensorflow.python.ops.control_flow_util.GraphOrParentsInXlaContext",
    },
}
FILES = {file.relative_to(ROOT): file for room in MAY for file in sorted((ROOT / room).rglob("*.py"))}


def imports_of(tree: ast.AST) -> set[str]:
    """Return the dotted name of everything that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def forbidden(room: str, tree: ast.AST) -> set[str]:
    """Return what a module of a room imports and must not."""
    concerned = {name for name in imports_of(tree) if within(name, OURS | FRAMEWORKS)}
    return {name for name in concerned if not within(name, MAY[room])}


def test_there_are_files_in_every_room():
    assert {file.parts[0] for file in FILES} == MAY.keys()
    assert len(FILES) > 30


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_downwards(file):
    assert forbidden(file.parts[0], ast.parse(FILES[file].read_text())) <= EXCEPT.get(str(file), set())


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("xlcore", "import torch.nn"),
        ("xlcore", "from conversion import checkpoint"),
        ("xlcore", "def f():\n    import keras"),
        ("conversion", "from xl_torch.model import Model"),
        ("conversion", "import tensorflow as tf"),
        ("xl_torch", "from xl_tf import ops"),
        ("xl_torch", "from keras import ops"),
        ("xl_torch", "from conversion.formats import safetensors"),
        ("xl_torch", "from conversion import folder"),
        ("xl_tf", "from torch import nn"),
        ("xl_tf", "import tensorflow"),
    ],
)
def test_the_walk_sees_what_is_forbidden(room, line):
    assert forbidden(room, ast.parse(line))


@pytest.mark.parametrize(
    "line", ["from conversion import checkpoint", "from conversion.checkpoint import save", "from xlcore import Config"]
)
def test_the_walk_lets_pass_what_is_allowed(line):
    assert not forbidden("xl_torch", ast.parse(line))
    assert not forbidden("xl_tf", ast.parse(line))


def family_names() -> set[str]:
    return {file.stem for file in (ROOT / "xlcore" / "families").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("file", [file for file in FILES if file.stem in family_names()], ids=str)
def test_a_family_file_imports_no_other_family(file):
    others = family_names() - {file.stem}
    assert not [name for name in imports_of(ast.parse(FILES[file].read_text())) if set(name.split(".")) & others]


def test_every_family_has_its_files():
    for family in family_names():
        for room in ("xl_torch", "xl_tf", "xlcore/families", "xlcore/maps"):
            assert (ROOT / room / f"{family}.py").is_file(), (room, family)


# -------------------------------------------------------------------------------------------- in a process of its own

BLOCKED = """
    import importlib.abc, os, pkgutil, sys
    import importlib
    allowed, blocked = set(sys.argv[2].split(",")), set(sys.argv[3].split(","))

    class Guard(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            top = name.split(".")[0]
            if top in blocked or (allowed != {"*"} and top not in allowed | sys.stdlib_module_names):
                raise ModuleNotFoundError(f"blocked: {name}", name=name)

    sys.meta_path.insert(0, Guard())
    for name in filter(None, sys.argv[4].split(",")):
        importlib.import_module(name)
    before = dict(os.environ)
    room = importlib.import_module(sys.argv[1])
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        if module.name != "xl_torch.layers.fused":  # for GPUs alone: it needs Triton, and is imported when it is used
            importlib.import_module(module.name)
    changed = {key for key in before.keys() | os.environ.keys() if before.get(key) != os.environ.get(key)}
    print("changed:", sorted(changed))
    print("loaded:", sorted({name.split(".")[0] for name in sys.modules} & {"torch", "keras", "tensorflow", "jax"}))
"""


def import_room(room: str, allowed: str, blocked: str, first: str = "") -> subprocess.CompletedProcess:
    """Import every module of a room where only `allowed` packages (`*` for any) and none of `blocked` can be found.

    What `first` names is imported before; what it does to the environment does not count.
    """
    command = [sys.executable, "-c", textwrap.dedent(BLOCKED), room, allowed, blocked, first]
    keys = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=keys, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_specification_needs_numpy_and_nothing_else():
    done = import_room("xlcore", "xlcore,numpy", "")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed: []\nloaded: []\n"


def test_files_need_no_framework():
    done = import_room("conversion", "*", "torch,keras,tensorflow,jax,jaxlib,xl_torch,xl_tf,transformers")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed: []\nloaded: []\n"


def test_torch_models_need_torch_only():
    pytest.importorskip("torch")
    done = import_room("xl_torch", "*", "keras,tensorflow,jax,jaxlib,xl_tf,transformers")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "changed: []\nloaded: ['torch']\n"


def test_keras_models_need_keras_and_its_backend_only():
    pytest.importorskip("keras")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    others = ",".join({"tensorflow", "jax", "jaxlib", "torch"} - {backend, f"{backend}lib"})
    done = import_room("xl_tf", "*", f"{others},xl_torch,transformers", first="keras")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"changed: []\nloaded: {sorted(['keras', backend])}\n"


def test_the_guard_blocks():
    done = import_room("conversion", "conversion,xlcore,numpy", "")
    assert done.returncode == 1
    assert "blocked: " in done.stderr


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_module_touches_the_environment(file):
    touched = ("environ", "putenv", "unsetenv")
    nodes = [node for node in ast.walk(ast.parse(FILES[file].read_text())) if isinstance(node, ast.Attribute)]
    assert [f"{file}:{node.lineno}" for node in nodes if node.attr in touched] == []
