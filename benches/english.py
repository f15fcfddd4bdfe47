"""Real English for the benchmarks: docstrings of the standard library and of installed packages."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from dejavec.demo.corpus import docstrings

PACKAGES = ("torch", "transformers", "sklearn", "scipy", "sympy", "pandas", "networkx")
MEAN_BYTES = 377


def texts(count: int) -> list[str]:
    """Different texts of about :data:`MEAN_BYTES` bytes, each beginning with its own number.

    The docstrings are joined and cut at spaces. If they do not suffice, they come again under other numbers.
    """
    pieces = cycle(_pieces(_prose(count * MEAN_BYTES)))
    return [f"{number} {next(pieces)}" for number in range(count)]


def number_of(text: str) -> int:
    """The number that a text of :func:`texts` begins with."""
    return int(text[: text.index(" ")])


def _pieces(prose: str) -> list[str]:
    """Cut prose at spaces, into pieces of three lengths whose mean is right with number and blank."""
    found = []
    start = 0
    for length in cycle((MEAN_BYTES // 2, MEAN_BYTES, MEAN_BYTES + MEAN_BYTES // 2)):
        stop = prose.rfind(" ", start, start + length - 3)
        if stop <= start or start + length > len(prose):
            break
        found.append(prose[start:stop])
        start = stop + 1
    return found


def _prose(wanted: int) -> str:
    found = []
    for docstring in _docstrings():
        found.append(" ".join(docstring.split()))
        wanted -= len(found[-1])
        if wanted < 0:
            break
    return " ".join(found)


def _docstrings() -> Iterator[str]:
    roots = [Path(sysconfig.get_path("stdlib"))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        roots += map(Path, spec.submodule_search_locations or ()) if spec else ()
    for root in roots:
        for _, docstring in docstrings(root):
            # A word longer than a piece could not be cut.
            if all(len(word) < MEAN_BYTES // 4 for word in docstring.split()):
                yield docstring
