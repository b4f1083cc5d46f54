"""Public functions and methods say the types of their arguments and of what they return."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("analysis", "models", "training", "judging", "reporting", "harness", "experiments")
MAKERS = ("__init__", "__post_init__")  # they return nothing


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def public_functions(body, prefix=""):
    """(name, definition) of the functions of a module, and of the methods of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not is_private(node.name):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.FunctionDef) and not is_private(node.name):
            yield f"{prefix}{node.name}", node


def untyped(function):
    """The names of a function's arguments without a type, and `return` where that is missing."""
    known = function.args
    parts = [*known.posonlyargs, *known.args, known.vararg, *known.kwonlyargs, known.kwarg]
    missing = [part.arg for part in parts if part and not part.annotation and part.arg not in ("self", "cls")]
    return missing + ([] if function.returns or function.name in MAKERS else ["return"])


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_are_typed(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert len(files) > 5
    found = {}
    for path in files:
        for name, function in public_functions(ast.parse(path.read_text()).body):
            if missing := untyped(function):
                found[f"{path.relative_to(ROOT)}: {name}"] = missing
    assert not found


def test_what_is_untyped_is_found():
    source = """
def _f(a): ...
def f(a: int, *b, c=1, **d: str): ...
class C:
    def __init__(self, a): ...
    def g(self) -> int: ...
    def __len__(self): ...
class _C:
    def h(self, a): ...
"""
    found = {name: untyped(function) for name, function in public_functions(ast.parse(source).body)}
    assert found == {"f": ["b", "c", "return"], "C.__init__": ["a"], "C.g": [], "C.__len__": ["return"]}
