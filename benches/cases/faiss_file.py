"""The file that FAISS reads: appending to it, opening it, and building an index of what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, measured, timed
from benches.cases.large import keys
from benches.work import Setup, Vectors

DEJAVEC = "dejavec FaissCache"
FAISS = "faiss"
FACTORY = "IVF4096,PQ48np"
_APPENDED = 10_000
_FILLED_AT_ONCE = 100_000


class FaissFile(Case):
    """A flat index of random vectors, grown in place by us."""

    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 1_000_000)]

    def contestants(self) -> Sequence[str]:
        return (DEJAVEC, FAISS)

    def prepare(self, place: Place) -> None:
        if not directory(place).exists():
            with _open(directory(place), durability="close") as cache:
                for start in range(0, place.setup.rows, _FILLED_AT_ONCE):
                    stop = min(start + _FILLED_AT_ONCE, place.setup.rows)
                    parts = [_vectors(place.setup, first) for first in range(start, stop, _APPENDED)]
                    _append(cache, start, np.concatenate(parts))


class FaissAppend(FaissFile):
    """Append 10,000 rows to the file; FAISS writes it whole."""

    name = "faiss-append"
    title = "Append 10,000 rows to a flat index on disk"
    item = "row"

    def measure(self, place: Place) -> Measured:
        with _open(directory(place)) as cache:
            first = len(cache)
            added = _vectors(place.setup, first)
            if place.contestant == FAISS:
                import faiss

                index = faiss.read_index(str(directory(place) / "vectors.faiss"))
                path = str(place.scratch / "vectors.faiss")
                index.add(added)
                seconds, _ = timed(lambda: faiss.write_index(index, path))
                checks.equal(
                    "rows written", faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC).ntotal, index.ntotal
                )
            else:
                seconds, _ = timed(lambda: _append(cache, first, added))
                checks.same(cache.vectors[first:], added)
        return Measured(seconds, _APPENDED)


class FaissOpen(FaissFile):
    """Open the file as an index and reconstruct one row."""

    name = "faiss-open"
    title = "Open a flat index on disk, and read one row"
    item = "call"

    def measure(self, place: Place) -> Measured:
        import faiss

        from dejavec import FaissCache

        path = directory(place)
        if place.contestant == FAISS:
            seconds, row = timed(lambda: faiss.read_index(str(path / "vectors.faiss")).reconstruct(0))
        else:

            def read() -> Any:
                index = FaissCache(path).index
                return None if index is None else index.reconstruct(0)

            seconds, row = timed(read)
        checks.same(row[None], _vectors(place.setup, 0)[:1])
        return Measured(seconds, 1)


class FaissBuild(FaissFile):
    """Train an index and fill it from the cache."""

    name = "faiss-build"
    title = f"Build {FACTORY} from a cache"
    item = "row"

    def contestants(self) -> Sequence[str]:
        return (DEJAVEC,)

    def measure(self, place: Place) -> Measured:
        from dejavec.search.approximate import build_index

        with _open(directory(place)) as cache:
            for saved in directory(place).glob("search-*"):
                saved.unlink()
            found, index = measured(lambda: build_index(cache, FACTORY), len(cache))
            checks.equal("rows in the index", len(index), len(cache))
            return Measured(found.seconds, found.items, found.memory | {"matrix": cache.vectors.nbytes})


def directory(place: Place) -> Path:
    """Where the cache lies that all of these use."""
    return place.directory / f"faiss-file-{place.setup.slug}"


def _open(path: Path, **options: Any) -> Any:
    from dejavec.storage.identity import describe
    from dejavec.storage.keyed_cache import KeyedCache

    return KeyedCache(path, identity=describe("numbered@1", None), containers=("faiss-l2",), **options)


def _append(cache: Any, first: int, vectors: Vectors) -> None:
    from dejavec.vectors.output import Output

    cache.append(keys(first, first + len(vectors)), vectors, Output("numpy", "float32"))


def _vectors(setup: Setup, first: int) -> Vectors:
    """The vectors of 10,000 rows from ``first`` on."""
    return np.random.default_rng(first).standard_normal((_APPENDED, setup.dim), np.float32)
