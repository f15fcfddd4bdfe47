"""Approximate search: any index that FAISS can make, trained on a cache, filled from it and kept beside it.

The files are named ``search-<made of>-<rows>-<replaced>.faiss``: 12 hex digits of the cache, the factory
string, the metric and the rows to train on; how many rows of the cache it covers; how many of these it leaves
out. So the name alone tells whether an index still is one of these rows.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import DejavecWarning, VectorsError
from dejavec.identity import digest
from dejavec.progress import progress
from dejavec.search import Metric, default_metric, import_faiss, metric_number

if TYPE_CHECKING:
    from dejavec.cache import EmbeddingCache

_BLOCK_NUMBERS = 4 << 20
"""Numbers that are read at a time."""

_FEWEST_TO_TRAIN = 65_536
_ROWS_A_LIST = 40
"""FAISS warns of fewer than 39 vectors for each inverted list."""

_NAME = re.compile(r"search-(?P<made_of>[0-9a-f]{12})-(?P<rows>\d+)-(?P<replaced>\d+)\.faiss")
_SEED = 0


@dataclass(frozen=True)
class _Rows:
    """The rows of a cache as they were at one moment.

    Attributes:
        count: how many there are.
        is_newest: whether each is the newest of its key (count,).
    """

    count: int
    is_newest: NDArray[np.bool_]

    @classmethod
    def of(cls, cache: EmbeddingCache) -> _Rows:
        count, _, bits = cache.newest()
        newest = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little", count=count)
        return cls(count, newest.view(np.bool_))

    def replaced_before(self, end: int) -> int:
        """Return how many of the first ``end`` rows are not the newest of their key."""
        return int(end - np.count_nonzero(self.is_newest[:end]))


def build_index(
    cache: EmbeddingCache,
    factory: str,
    metric: Metric | None = None,
    train_rows: int | None = None,
    progress_shown: bool | None = None,
) -> Any:
    """Do what ``EmbeddingCache.build_index`` says."""
    faiss = import_faiss()
    metric = metric or default_metric(cache)
    rows = _Rows.of(cache)
    if train_rows is not None and train_rows < 1:
        raise ValueError(f"expected train_rows of at least 1, found {train_rows}")
    if cache.dim is None or not rows.is_newest.any():
        raise VectorsError(
            f"{cache.path}: expected vectors to build an index of, found none; store some first",
            path=str(cache.path),
        )
    made_of = _made_of(cache, factory, metric, train_rows)
    index, covered = _saved(cache.path, made_of, rows)
    if index is None:
        made = faiss.index_factory(cache.dim, factory, metric_number(metric))
        # Rows that a later one replaced are left out, so the index is told each row's number.
        index, covered = faiss.IndexIDMap(made), 0
        if not made.is_trained:
            _train(cache, made, rows, train_rows)
    if covered < rows.count:
        with progress(progress_shown, rows.count - covered, "row") as advance:
            for numbers, vectors in _blocks(cache, index.d, rows, covered, advance):
                index.add_with_ids(vectors, numbers)
        _save(cache, index, made_of, rows)
    return index


def _made_of(cache: EmbeddingCache, factory: str, metric: Metric, train_rows: int | None) -> str:
    parts = {"cache": cache.uuid, "factory": factory, "metric": metric, "train_rows": train_rows}
    return digest(parts)[:12]


def _saved(directory: Path, made_of: str, rows: _Rows) -> tuple[Any, int]:
    """Return the saved index that covers the most rows as they are, and how many; else (None, 0)."""
    faiss = import_faiss()
    fitting = []
    for path, name in _files(directory, made_of):
        covered = int(name["rows"])
        if covered <= rows.count and int(name["replaced"]) == rows.replaced_before(covered):
            fitting.append((covered, path))
    for covered, path in sorted(fitting, reverse=True):
        try:
            index = faiss.read_index(os.fspath(path))
        except RuntimeError:
            continue  # Cut short or damaged: it is made anew.
        if index.ntotal <= covered:
            return index, covered
    return None, 0


def _files(directory: Path, made_of: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the saved indexes that are made of this, with their names taken apart."""
    for path in sorted(directory.glob(f"search-{made_of}-*.faiss")):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            yield path, name


def _train(cache: EmbeddingCache, index: Any, rows: _Rows, train_rows: int | None) -> None:
    """Train an index on rows drawn at random, always the same ones."""
    newest = np.flatnonzero(rows.is_newest)
    if train_rows is None:
        inverted = import_faiss().try_extract_index_ivf(index)
        train_rows = max(_FEWEST_TO_TRAIN, 0 if inverted is None else _ROWS_A_LIST * inverted.nlist)
    if train_rows < len(newest):
        newest = np.sort(np.random.default_rng(_SEED).choice(newest, train_rows, replace=False))
    chosen = _Rows(rows.count, np.zeros(rows.count, np.bool_))
    chosen.is_newest[newest] = True
    sample = np.empty((len(newest), index.d), np.float32)
    filled = 0
    for _, vectors in _blocks(cache, index.d, chosen, 0, lambda _: None):
        sample[filled : filled + len(vectors)] = vectors
        filled += len(vectors)
    index.train(sample[:filled])


def _blocks(
    cache: EmbeddingCache, dim: int, rows: _Rows, start: int, advance: Callable[[int], object]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield row numbers (k,) and vectors (k, dim) of the newest rows from ``start`` on, some at a time.

    Rows whose checksum does not hold are left out.
    """
    size = max(1, _BLOCK_NUMBERS // dim)
    for first in range(start, rows.count, size):
        vectors, damaged = cache.read_rows(first, min(size, rows.count - first))
        sound = rows.is_newest[first : first + size].copy()
        sound[damaged] = False
        if sound.any():
            yield first + np.flatnonzero(sound), np.ascontiguousarray(vectors[sound], np.float32)
        advance(len(vectors))


def _save(cache: EmbeddingCache, index: Any, made_of: str, rows: _Rows) -> None:
    """Write an index beside the cache under its name, and remove the older ones that it replaces."""
    name = f"search-{made_of}-{rows.count}-{rows.replaced_before(rows.count)}.faiss"
    path = cache.path / name
    temporary = path.with_name(f"{name}.tmp-{os.getpid()}")
    older = [old for old, _ in _files(cache.path, made_of) if old.name != name]
    try:
        import_faiss().write_index(index, os.fspath(temporary))
        shutil.copymode(cache.path / "meta.json", temporary)
        temporary.replace(path)
        for file in older:
            file.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        warnings.warn(
            f"{path}: the index could not be written and is kept in memory only: {error}",
            DejavecWarning,
            stacklevel=5,
        )
