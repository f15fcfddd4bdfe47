"""No room of the package reaches into another: private names are used in the module that defines them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dejavec

PACKAGE = Path(dejavec.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

OF_OTHERS = {
    "_can_flatten_inputs": "sentence-transformers",
    "_quantization_level": "sentence-transformers",
    "_distributed_inference": "sentence-transformers",
    "_interleave_sorted_indices": "sentence-transformers",
    "_buffers": "torch",
    "_modules": "torch",
    "_non_persistent_buffers_set": "torch",
    "_parameters": "torch",
    "_version": "torch",
    "_format_columns": "datasets",
    "_format_type": "datasets",
    "_hf_encoded": "datasets",
    "_indices": "datasets",
    "_output_all_columns": "datasets",
    "_resolve_prompt": "mteb",
    "_has_meaningful_value": "mteb",
    "_sanitize_model": "mteb",
    "_serialize_experiment_kwargs_to_name": "mteb",
    "_upcast_low_precision": "mteb",
    "_getframe": "sys",
}
"""Private names of other libraries that this package cannot do without, and whose they are."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def names_defined_in(tree: ast.AST) -> set[str]:
    """Return the private names that a module makes: its functions, classes, variables, attributes of self."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            found.add(node.attr)
    return set(filter(is_private, found))


def is_own(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id in ("self", "cls")


def uses_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of each private name that is asked of another object or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, part.name) for part in node.names if is_private(part.name))
        elif isinstance(node, ast.Call):
            texts = (part.value for part in node.args[:2] if isinstance(part, ast.Constant))
            asks = isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr")
            if asks or (isinstance(node.func, ast.Attribute) and node.func.attr == "get"):
                yield from ((node.lineno, text) for text in texts if is_private(str(text)))


def foreign_uses(source: str, elsewhere: set[str]) -> list[tuple[int, str]]:
    """Return the uses of private names that this source does not define, and no other library does.

    Args:
        source: of a module.
        elsewhere: the private names that the whole package defines.
    """
    tree = ast.parse(source)
    own = names_defined_in(tree)
    return [
        (line, name)
        for line, name in uses_in(tree)
        if name not in own and name != "_core" and (name not in OF_OTHERS or name in elsewhere)
    ]


@pytest.fixture(scope="module")
def defined() -> set[str]:
    return set().union(*(names_defined_in(ast.parse(path.read_text())) for path in MODULES))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_name_of_one_module_is_used_in_another(path: Path, defined: set[str]) -> None:
    assert foreign_uses(path.read_text(), defined) == []


@pytest.mark.parametrize(
    "source",
    [
        "from dejavec.cache import _PLACE",
        "def size(cache): return len(cache._store)",
        "def size(cache): return len(getattr(cache, '_store'))",
        "def size(cache): return vars(cache).get('_store')",
        "class Cache:\n    def size(self): return self.other._store",
    ],
)
def test_a_use_of_another_modules_private_name_is_seen(source: str) -> None:
    assert len(foreign_uses(source, set())) == 1


def test_the_names_of_other_libraries_are_used() -> None:
    used = {name for path in MODULES for _, name in uses_in(ast.parse(path.read_text()))}
    assert set(OF_OTHERS) - used == set()
