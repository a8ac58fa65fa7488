"""The twins read side by side: the same classes, methods and local names; and no name that a framework keeps."""

import ast
import importlib
import inspect
import textwrap
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from xlcore import FAMILIES

ROOT = Path(__file__).parents[2]
TORCH, KERAS = ROOT / "xl_torch", ROOT / "xl_tf"
LEAST = 0.95
FEW = 2  # names of one side only, which a small file may have
FAMILY_FILES = {f"{file.stem}.py" for file in (ROOT / "xlcore" / "families").glob("*.py")} - {"__init__.py"}
# Files of one side only: spelling, names of variables that torch has by itself, what `fit` needs, and steps that are
# compiled; what Keras has as a method, and a kernel and graphs for GPUs.
KERAS_FILES = {"ops.py", "naming.py", "training.py", "backend.py", "layers/steps.py"}
TORCH_FILES = {"quantization.py", "fused.py", "graphs.py"}
PAIRS = [file.relative_to(TORCH) for file in sorted(TORCH.rglob("*.py")) if file.name not in TORCH_FILES]
# Public methods of one side only: what the framework itself asks for, or has already.
TORCH_METHODS = {
    "gradient_checkpointing_enable",
    "gradient_checkpointing_disable",
    "fused",
    "kernel_fits",
    "in_evaluation",
    "uncompiled",
}
KERAS_METHODS = {
    "__call__", "build", "stateless_call", "get_config", "from_config", "save_own_variables", "load_own_variables",
    "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "forget_traces",
    "fit", "evaluate", "export", "keep_settings", "take", "state", "compiled_reader", "rows_of", "__deepcopy__",
    "went_on", "go_on", "held", "hold", "roomy",
}  # fmt: skip
RENAMED = {"call": "forward"}
# Where the frameworks differ and nothing else can: how states are named, set and written.
LEAST_OF = {
    "sharding.py": 0.3,
    "model.py": 0.74,
    "probe.py": 0.85,
    "layers/word_loss.py": 0.35,
    "layers/shared_table.py": 0.7,
    "scoring.py": 0.9,
    "generation.py": 0.8,
    "layers/reading.py": 0.7,
    "layers/key_values.py": 0.5,
}


# ------------------------------------------------------------------------------------------------------- the walk


def classes_of(file: Path) -> dict[str, ast.ClassDef]:
    """Return the classes of a file in order, without the prefix TF; the file itself under the empty name."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.name.removeprefix("TF"): node for node in classes} | {"": tree}


def methods_of(scope: ast.AST) -> dict[str, ast.FunctionDef]:
    """Return the functions of a class or file in order, `call` as `forward`."""
    found = [node for node in scope.body if isinstance(node, ast.FunctionDef)]
    return {RENAMED.get(node.name, node.name): node for node in found}


def names_assigned(function: ast.FunctionDef) -> list[str]:
    """Return every name and attribute that a function gives a value, in the order of the source.

    Without sizes (B, T, ...: Keras spells out what torch infers) and `self.built`, which Keras asks for.
    """
    stores = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]
    names = [ast.unparse(node) for node in sorted(stores, key=lambda node: (node.lineno, node.col_offset))]
    return [name for name in names if name != "self.built" and not (len(name) == 1 and name.isupper())]


def names_of_pair(torch_file: Path, keras_file: Path) -> tuple[list[str], list[str]]:
    """Return the names assigned on either side, in the methods that both sides have."""
    sides: tuple[list[str], list[str]] = ([], [])
    torch_classes, keras_classes = classes_of(torch_file), classes_of(keras_file)
    for name in torch_classes.keys() & keras_classes.keys():
        theirs, ours = methods_of(torch_classes[name]), methods_of(keras_classes[name])
        for method in theirs:
            if method in ours:
                where = f"{name}.{method}: " if name else f"{method}: "
                sides[0].extend(where + each for each in names_assigned(theirs[method]))
                sides[1].extend(where + each for each in names_assigned(ours[method]))
    return sides


def difference(torch_names: list[str], keras_names: list[str]) -> tuple[float, list[str]]:
    """Return how alike two lists are, and the entries of either side alone."""
    matcher = SequenceMatcher(None, torch_names, keras_names, autojunk=False)
    alone = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            alone += [f"torch {name}" for name in torch_names[a:b]] + [f"keras {name}" for name in keras_names[c:d]]
    return matcher.ratio(), alone


# ------------------------------------------------------------------------------------------------- side by side


def test_every_file_has_its_twin():
    keras_files = {file.relative_to(KERAS) for file in KERAS.rglob("*.py")}
    assert {str(file) for file in keras_files.symmetric_difference(PAIRS)} == KERAS_FILES
    assert {file.name for file in TORCH.rglob("*.py")} >= TORCH_FILES
    assert {str(file) for file in PAIRS} >= FAMILY_FILES


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_twins_have_the_same_classes_in_the_same_order(file):
    assert list(classes_of(TORCH / file)) == list(classes_of(KERAS / file))


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_twins_have_the_same_methods_in_the_same_order(file):
    torch_classes, keras_classes = classes_of(TORCH / file), classes_of(KERAS / file)
    for name, scope in torch_classes.items():
        theirs, ours = list(methods_of(scope)), list(methods_of(keras_classes[name]))
        assert [each for each in theirs if each in ours] == [each for each in ours if each in theirs], name
        alone = set(theirs) ^ set(ours)
        public = {each for each in alone if not each.startswith("_") or each.startswith("__")}
        assert public <= TORCH_METHODS | KERAS_METHODS, name
        if file.name in FAMILY_FILES:
            assert len(alone - public) <= 1, f"{name}: {alone}"


@pytest.mark.parametrize("file", PAIRS, ids=str)
def test_twins_have_the_same_local_names_in_the_same_order(file):
    likeness, alone = difference(*names_of_pair(TORCH / file, KERAS / file))
    least = LEAST_OF.get(str(file), LEAST)
    assert likeness >= least or len(alone) <= FEW, f"{file}: {likeness:.1%} alike; {'; '.join(alone)}"


def test_public_models_of_keras_have_the_prefix_and_nothing_else_has():
    for family in FAMILIES.values():
        for head in family.heads:
            assert hasattr(importlib.import_module("xl_torch"), head.name)
            assert hasattr(importlib.import_module("xl_tf"), f"TF{head.name}")
    heads = {head.name for family in FAMILIES.values() for head in family.heads}
    for file in FAMILY_FILES:
        tree = ast.parse((KERAS / file).read_text(encoding="utf-8"))
        prefixed = {node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith("TF")}
        assert {name.removeprefix("TF") for name in prefixed} <= heads


@pytest.mark.parametrize("file", sorted(FAMILY_FILES))
def test_twins_take_the_same_arguments(file):
    torch_classes, keras_classes = classes_of(TORCH / file), classes_of(KERAS / file)
    for name in torch_classes.keys() - {""}:
        theirs = [each.arg for each in methods_of(torch_classes[name])["forward"].args.args]
        ours = [each.arg for each in methods_of(keras_classes[name])["forward"].args.args]
        assert [each for each in ours if each != "training"] == theirs, name


def test_the_comparison_sees_order_and_names():
    assert difference(["a", "b", "c"], ["a", "b", "c"]) == (1.0, [])
    likeness, alone = difference(["a", "b"], ["a", "x"])
    assert (likeness, alone) == (0.5, ["torch b", "keras x"])
    assert difference(["a", "b"], ["b", "a"])[0] == 0.5
    source = (
        "def f(self):\n    self.x, y = 1, 2\n    for z in y:\n        z.w = [v for v in z]\n        if (u := z): pass"
    )
    assert names_assigned(ast.parse(source).body[0]) == ["self.x", "y", "z", "z.w", "v", "u"]


# --------------------------------------------------------------------------------------------------- reserved names

RESERVED_LAYER = {"input", "output", "losses", "metrics", "dtype", "weights", "variables", "path"}
RESERVED_MODEL = RESERVED_LAYER | {"layers", "loss", "summary"}
RESERVED_TORCH = {"type", "half", "float", "train", "eval"}
# What a framework defines for its subclasses to define anew, or to reset.
MEANT_FOR_US = {
    "torch": {"forward"},
    "keras": {
        "build", "built", "call", "compute_loss", "compute_metrics", "evaluate", "export", "fit", "from_config",
        "get_config", "load_own_variables", "predict_function",
        "predict_step", "save_own_variables", "stateless_call", "test_function", "test_step", "train_function",
        "train_step",
    },
}  # fmt: skip


def our_classes(framework: str) -> list[type]:
    """Return every layer and model that the side of a framework defines, and what they inherit from of ours."""
    room, folder = {"torch": ("xl_torch", TORCH), "keras": ("xl_tf", KERAS)}[framework]
    found = []
    for file in sorted(set(folder.rglob("*.py")) - {TORCH / "layers" / "fused.py"}):  # needs Triton, and has no layers
        name = ".".join((room, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        module = importlib.import_module(name)
        found += [each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == name]
    return found


def names_defined(owner: type) -> set[str]:
    """Return the attributes that a class defines: in its body, and on `self` in its methods."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    on_self = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    return {name for name in vars(owner) if not name.startswith("__")} | on_self


def kept_by(framework: str, owner: type) -> set[str]:
    """Return the public names that the framework's class behind one of ours has for itself."""
    if framework == "torch":
        from torch import nn

        return {name for name in dir(nn.Module()) if not name.startswith("_")} | RESERVED_TORCH
    import keras

    base, reserved = (keras.Model, RESERVED_MODEL) if issubclass(owner, keras.Model) else (keras.Layer, RESERVED_LAYER)
    return {name for name in dir(base()) if not name.startswith("_")} | reserved


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_no_class_takes_a_name_that_its_framework_keeps(framework):
    pytest.importorskip(framework)
    owners = our_classes(framework)
    assert len(owners) >= 10
    taken = {
        owner.__name__: names
        for owner in owners
        if (names := (names_defined(owner) & kept_by(framework, owner)) - MEANT_FOR_US[framework])
    }
    assert taken == {}


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_what_is_meant_for_us_is_there_and_used(framework):
    pytest.importorskip(framework)
    used = set().union(*map(names_defined, our_classes(framework)))
    kept = set().union(*(kept_by(framework, owner) for owner in our_classes(framework)))
    assert MEANT_FOR_US[framework] <= kept
    assert {"forward"} <= used if framework == "torch" else {"call", "get_config", "train_step"} <= used


def test_the_frameworks_still_keep_the_names_that_we_avoid():
    keras = pytest.importorskip("keras")
    nn = pytest.importorskip("torch.nn")
    assert set(dir(keras.Layer)) >= RESERVED_LAYER
    assert set(dir(keras.Model)) | set(vars(keras.Model())) >= RESERVED_MODEL - {"loss"}
    assert set(dir(nn.Module)) >= RESERVED_TORCH


def test_no_call_has_an_argument_named_mask():
    for file in sorted(KERAS.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "call":
                names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                assert "mask" not in names, f"{file.relative_to(ROOT)}:{node.lineno}"


def test_parameters_of_the_specification_are_no_reserved_names():
    """A parameter's name becomes attributes on both sides, so each part must be free on both."""
    kept = RESERVED_MODEL | RESERVED_TORCH
    for family in FAMILIES.values():
        config = family.config()
        for head in family.heads:
            parts = {part for name in family.params(config, head) for part in name.split(".")[:-1]}
            assert not parts & kept
