"""How the code reads: small files and functions, documented names, errors that say where."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("xlcore", "conversion", "xl_torch", "xl_tf")
FILES = [file.relative_to(ROOT) for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
MOST_LINES, MOST_BODY, MOST_NESTING = 450, 40, 3
ERRORS = {
    "XLError", "ConfigError", "ShapeError", "WeightError", "FormatError", "TokenizerError", "ParityError", "KeyError",
    "AttributeError", "ValueError", "TypeError", "IndexError", "RuntimeError", "NotImplementedError",
}  # fmt: skip
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# `where: what must ...`: a name, or a path or name filled in, before the first colon.
PLACED = re.compile(r"\{where\}[:, ]|(\{\}|[A-Za-z_][\w.]*)(\{\}|[\w.\[\]'/ ])*: \S")


def tree_of(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def body_lines(function: ast.FunctionDef) -> int:
    """Count the lines of a body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def nesting(node: ast.AST) -> int:
    """Return how deep blocks stand in each other; an `elif` is no deeper than its `if`, functions begin anew."""
    deepest = 0
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, FUNCTIONS):
                continue
            is_elif = isinstance(node, ast.If) and name == "orelse" and len(value) == 1 and isinstance(child, ast.If)
            deepest = max(deepest, nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def text_of(message: ast.expr) -> str | None:
    """Return the text of an error's message with `{}` for what is filled in, None if it is not written in place.

    What is called `where` stays as `{where}`: it says the place, and may say the thing, too.
    """
    if isinstance(message, ast.Constant) and isinstance(message.value, str):
        return message.value
    if isinstance(message, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else hole(part) for part in message.values)
    return None


def hole(part: ast.FormattedValue) -> str:
    return "{where}" if isinstance(part.value, ast.Name) and part.value.id == "where" else "{}"


def raised(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, kind and text of every error that is raised with its message in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = node.exc.func.id if isinstance(node.exc.func, ast.Name) else ""
            text = text_of(node.exc.args[0])
            if kind in ERRORS and text is not None:
                yield node.lineno, kind, text


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_is_small(file):
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=str)
def test_functions_are_short_and_flat(file):
    for function in functions(tree_of(file)):
        where = f"{file}:{function.lineno} {function.name}"
        assert body_lines(function) <= MOST_BODY, f"{where}: {body_lines(function)} lines"
        assert nesting(function) <= MOST_NESTING, f"{where}: {nesting(function)} blocks deep"


def is_setter(node: ast.AST) -> bool:
    """Tell whether a function sets a property, whose getter has the docstring."""
    return any(isinstance(by, ast.Attribute) and by.attr == "setter" for by in node.decorator_list)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_is_public_is_documented(file):
    tree = tree_of(file)
    assert ast.get_docstring(tree) or not tree.body, f"{file}: no docstring"
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
    for scope in scopes:
        for node in scope.body:
            if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_") and not is_setter(node):
                assert ast.get_docstring(node), f"{file}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_error_says_where(file):
    unplaced = [
        f"{file}:{line} {kind}({text!r})"
        for line, kind, text in raised(tree_of(file))
        if not PLACED.match(text) and not (kind in ("KeyError", "AttributeError") and " has no " in text)
    ]
    assert unplaced == []


def test_the_errors_of_the_house_are_looked_at():
    found = [entry for file in FILES for entry in raised(tree_of(file))]
    assert len(found) > 30
    kinds = {kind for _, kind, _ in found}
    assert {"ConfigError", "ShapeError", "WeightError", "FormatError"} <= kinds


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("{}: {} must {}, got {}", True),
        ("WeightMap: {} must be a known tensor", True),
        ("{}: got 3", True),
        ("{where}: got 3", True),
        ("{where}, got missing", True),
        ("{}, got missing", False),
        ("something is wrong", False),
        ("wrong value: {}", True),
        (": {}", False),
    ],
)
def test_the_pattern_of_a_place(text, good):
    assert bool(PLACED.match(text)) == good


def test_the_measures_measure():
    source = (
        'def f():\n    """Doc.\n\n    More.\n    """\n    for a in b:\n        if a:\n            pass\n'
        "        elif b:\n            with c:\n                pass\n"
    )
    function = next(functions(ast.parse(source)))
    assert body_lines(function) == 6
    assert nesting(function) == 3


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_line_names_this_machine(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"/(work|home|root|Users)/", text)
