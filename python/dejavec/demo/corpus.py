"""A real retrieval corpus on every machine with Python: the docstrings of the standard library.

:mod:`ast` reads the docstrings, so no module of the library is imported.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})
_MIN_BODY_WORDS = 10
_MIN_QUERY_WORDS = 5


@dataclass(frozen=True)
class Document:
    """One docstring: the qualified name, the first line, and the rest."""

    title: str
    first_line: str
    body: str


@dataclass(frozen=True)
class Corpus:
    """All documents, and the documents with a first line that serves as a query."""

    documents: list[Document]
    queries: list[Document]


def read_corpus(documents: int, queries: int, root: Path | None = None) -> Corpus:
    """Take evenly spaced documents from the standard library, and evenly spaced queries from these documents.

    A document is a docstring with at least ten words after its first line. A query is the first line of such
    a document. It has at least five words, and neither the line nor the rest occurs in another document.

    Args:
        documents: how many documents to take at most.
        queries: how many queries to take at most.
        root: the directory to read; None for the running Python's standard library.
    """
    found: dict[str, Document] = {}
    for title, docstring in docstrings(root or Path(sysconfig.get_path("stdlib"))):
        first_line, _, body = docstring.partition("\n")
        if len(body.split()) >= _MIN_BODY_WORDS:
            found.setdefault(title, Document(title, first_line.strip(), body.strip()))

    lines = Counter(document.first_line for document in found.values())
    bodies = Counter(document.body for document in found.values())
    chosen = _spaced(list(found.values()), documents)
    askable = [
        document
        for document in chosen
        if len(document.first_line.split()) >= _MIN_QUERY_WORDS
        and lines[document.first_line] == 1
        and bodies[document.body] == 1
    ]
    return Corpus(chosen, _spaced(askable, queries))


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Yield qualified name and docstring of every module, class and function below ``root``.

    The order is always the same. Installed packages and tests are left out.
    """
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not _NOT_THE_LIBRARY.isdisjoint(parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # A few files of the library cannot be parsed, on purpose.
        yield from _docstrings_of(tree, ".".join(parts).removesuffix(".__init__"))


def _docstrings_of(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield name, inspect.cleandoc(docstring)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings_of(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _docstrings_of(child, name)


def _spaced(items: Sequence[_T], count: int) -> list[_T]:
    """Return at most ``count`` of the items, evenly spaced."""
    if count >= len(items):
        return list(items)
    return [items[position * len(items) // count] for position in range(count)]
