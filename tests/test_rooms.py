"""Rooms of the package: arrows point down as drawn, and private names stay where they are defined."""

from __future__ import annotations

import ast
import re
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
    "_inference": "sentence-transformers",
    "_input_length": "sentence-transformers",
    "_interleave_sorted_indices": "sentence-transformers",
    "_multi_process": "sentence-transformers",
    "_name_or_path": "transformers",
    "_buffers": "torch",
    "_modules": "torch",
    "_non_persistent_buffers_set": "torch",
    "_parameters": "torch",
    "_version": "torch",
    "_format_columns": "datasets",
    "_format_type": "datasets",
    "_hf_encoded": "datasets",
    "_indices": "datasets, torch",
    "_nnz": "torch",
    "_values": "torch",
    "_output_all_columns": "datasets",
    "_resolve_prompt": "mteb",
    "_has_meaningful_value": "mteb",
    "_commit_hash": "transformers",
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
            texts = [str(part.value) for part in node.args[:2] if isinstance(part, ast.Constant)]
            asks = isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr")
            if asks or (isinstance(node.func, ast.Attribute) and node.func.attr == "get"):
                yield from ((node.lineno, text) for text in texts if is_private(text))


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


def drawn_levels(page: str, title: str) -> dict[str, int]:
    """Return the line of each room in the drawing with this title, counted from the top."""
    drawing = rf'^```text title="{title}"\n(.*?)^```$'
    found = re.search(drawing, page, re.MULTILINE | re.DOTALL)
    assert found, "no drawing"
    return {room: at for at, line in enumerate(found[1].splitlines()) for room in line.split()}


def module_of(path: Path) -> str:
    return (
        str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".").removesuffix("__init__").rstrip(".")
    )


NAMES = {module_of(path) for path in MODULES} | {"_core"}


def room_of(module: str) -> str:
    """Return the room of a module: its directory, or itself if it stands beside the rooms."""
    inside = (PACKAGE / module.replace(".", "/")).is_dir()
    return (module if inside or "." not in module else module.rpartition(".")[0]).replace(".", "/")


def imports_of(source: str) -> Iterator[str]:
    """Yield the modules of the package that a source imports, wherever in it that is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dejavec":
            base = (node.module or "").removeprefix("dejavec").lstrip(".")
            for part in node.names:
                whole = f"{base}.{part.name}".lstrip(".")
                yield whole if whole in NAMES else base
        elif isinstance(node, ast.Import):
            yield from (
                part.name.removeprefix("dejavec.") for part in node.names if part.name.startswith("dejavec.")
            )


def wrong_arrows(module: str, source: str, levels: dict[str, int]) -> list[str]:
    """Return what a module imports from a room that does not stand below its own."""
    own = room_of(module)
    return [
        imported
        for imported in imports_of(source)
        if imported and room_of(imported) != own and levels[room_of(imported)] <= levels[own]
    ]


# The package itself and `python -m dejavec` are doors, not rooms.
ROOMED = [path for path in MODULES if module_of(path) not in ("", "__main__")]
PROJECT = Path(__file__).parents[1]
DESIGN = (PROJECT / "docs" / "design.md").read_text()
LEVELS = drawn_levels(DESIGN, "rooms of the package")


@pytest.mark.parametrize("path", ROOMED, ids=module_of)
def test_every_arrow_points_down_in_the_drawing(path: Path) -> None:
    assert wrong_arrows(module_of(path), path.read_text(), LEVELS) == []


def test_the_drawing_has_every_room_and_no_other() -> None:
    assert set(LEVELS) == {room_of(module_of(path)) for path in ROOMED} | {"_core"}


@pytest.mark.parametrize(
    "source",
    [
        "from dejavec.cache import EmbeddingCache",
        "from dejavec.search import exact",
        "def late():\n    from dejavec.mteb.wrapper import CachedEmbeddingWrapper",
        "import dejavec.cli.main",
    ],
)
def test_an_arrow_that_points_up_is_seen(source: str) -> None:
    assert len(wrong_arrows("storage.handle", source, LEVELS)) == 1


CORE = PROJECT / "rust" / "core" / "src"
CORE_FILES = sorted(path.relative_to(CORE) for path in CORE.rglob("*.rs") if path.name != "lib.rs")
CORE_LEVELS = drawn_levels(DESIGN, "rooms of the core")


def core_room_of(file: Path) -> str:
    """Return the room of a file of the core: the module of the crate that it belongs to."""
    return file.parts[0].removesuffix(".rs")


def core_imports_of(file: Path, source: str) -> set[str]:
    """Return the other rooms of the core that a file names outside of its tests and comments."""
    code = re.sub(r"//.*", "", re.split(r"^#\[cfg\(test\)\]\nmod ", source, flags=re.MULTILINE)[0])
    # `super` of a room is the crate, and so is `super::super` one directory below.
    root = rf"\b(?:crate::|(?<!super::)(?:super::){{{len(file.parts)}}}(?!super))"
    found = set(re.findall(rf"{root}(\w+)", code))
    for group in re.findall(rf"{root}\{{(.*?)\}};", code, re.DOTALL):
        found |= set(re.findall(r"(?:^|,)\s*(\w+)", re.sub(r"\{.*?\}", "", group, flags=re.DOTALL)))
    return found - {core_room_of(file)}


def wrong_core_arrows(file: Path, source: str, levels: dict[str, int]) -> list[str]:
    """Return what a file of the core imports from a room that does not stand below its own."""
    own = levels[core_room_of(file)]
    return sorted(room for room in core_imports_of(file, source) if levels.get(room, -1) <= own)


@pytest.mark.parametrize("file", CORE_FILES, ids=str)
def test_every_arrow_of_the_core_points_down_in_the_drawing(file: Path) -> None:
    assert wrong_core_arrows(file, (CORE / file).read_text(), CORE_LEVELS) == []


def test_the_drawing_of_the_core_has_every_room_and_no_other() -> None:
    declared = re.findall(r"^(?:pub(?:\(crate\))? )?mod (\w+);", (CORE / "lib.rs").read_text(), re.MULTILINE)
    assert set(CORE_LEVELS) == set(declared) == {core_room_of(file) for file in CORE_FILES}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("key.rs", "use crate::store::Store;"),
        ("key.rs", "use crate::checksum;"),
        ("key.rs", "use crate::fingerprint;"),
        ("key.rs", "fn f() { crate::store::open() }"),
        ("key.rs", "use crate::{parallel, store};"),
        ("key.rs", "use crate::{\n    parallel::{self, Found},\n    store::{Store, Spec},\n};"),
        ("key.rs", "use super::store::Store;"),
        ("storage/disk.rs", "use super::super::store::Store;"),
        ("key.rs", "use crate::nowhere;"),
    ],
)
def test_an_arrow_of_the_core_that_points_up_is_seen(file: str, source: str) -> None:
    assert len(wrong_core_arrows(Path(file), source, CORE_LEVELS)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "use crate::text::Texts;",
        "use crate::{parallel, sha256};",
        "// crate::store calls this",
        "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}",
    ],
)
def test_arrows_down_and_what_tests_import_are_allowed_in_the_core(source: str) -> None:
    assert wrong_core_arrows(Path("key.rs"), source, CORE_LEVELS) == []


def test_super_within_a_room_of_the_core_is_no_arrow() -> None:
    assert core_imports_of(Path("storage/disk.rs"), "use super::{Access, Storage};") == set()
