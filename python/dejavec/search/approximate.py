"""Approximate search: any index that FAISS can make, trained on the rows of a cache and filled with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec._core import Numbering
from dejavec.errors import VectorsError
from dejavec.fill.settings import whole_number
from dejavec.search.candidates import candidates
from dejavec.search.dense import inverse_lengths
from dejavec.search.exact import query_rows
from dejavec.search.index_file import IndexFile, drop_table, saved_indexes
from dejavec.search.labels import Labels
from dejavec.search.metric import SIMILARITIES, Metric, import_faiss, metric_number, metric_of
from dejavec.search.result import SearchResult
from dejavec.search.selectors import search_among
from dejavec.storage.identity import digest
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.progress import progress
from dejavec.support.warn import warn
from dejavec.vectors.output import family_of

_BLOCK_NUMBERS = 1 << 20
"""How many numbers to read at a time. FAISS may take some dozen times their memory to encode them."""

_FEWEST_TO_TRAIN = 65_536
_ROWS_A_LIST = 30
"""FAISS asks for 39, and warns below. With 30 the recall is the same within its spread, with less memory."""

_MOST_TO_TRAIN_CODES = 32_768
"""FAISS takes 65,536 for codes of 8 bits, and keeps two copies: the rows and their residuals."""

_SEED = 0


@dataclass(frozen=True)
class _Rows:
    """The rows of a cache as they were at one moment.

    Attributes:
        count: how many rows there are.
        is_newest: whether each row is the newest of its key (count,).
        generation: how often the cache was compacted.
    """

    count: int
    is_newest: NDArray[np.bool_]
    generation: int

    @classmethod
    def of(cls, cache: KeyedCache) -> _Rows:
        newest = cache.is_newest()
        return cls(len(newest), newest, cache.generation)

    def replaced_before(self, end: int) -> int:
        """Return how many of the first ``end`` rows are not the newest of their key."""
        return int(end - np.count_nonzero(self.is_newest[:end]))


@dataclass(frozen=True, eq=False)
class BuiltIndex:
    """An index of FAISS over the rows that a cache had when it was built.

    Attributes:
        index: a ``faiss.IndexIDMap``, or ``faiss.IndexBinaryIDMap`` for ``"hamming"``. Its ids are row
            numbers. ``faiss.extract_index_ivf(index).nprobe`` sets how many lists a search visits.
        metric: how vectors are compared.
        cache: the cache.
        numbering: what its row numbers belong to: ``KeyedCache.numbering``.
    """

    index: Any
    metric: Metric
    cache: KeyedCache
    numbering: Numbering | None

    def __len__(self) -> int:
        """Return how many rows the index has."""
        return int(self.index.ntotal)

    def search(self, queries: object, k: int, *, among: object = None, texts: object = None) -> SearchResult:
        """Find the nearest vectors of each query, as the index approximates them.

        Args:
            queries: (n, dim). For ``"cosine"`` they may have any length.
            k: how many vectors to find for each query.
            among: as in :meth:`dejavec.EmbeddingCache.search`. FAISS selects while it searches. The flat,
                scalar-quantised, inverted-file and HNSW indexes can, refined or with a transform before them;
                of the binary ones the flat and the HNSW index.
            texts: as in :meth:`dejavec.EmbeddingCache.search`.

        Returns:
            What :meth:`dejavec.EmbeddingCache.search` returns.

        Raises:
            VectorsError: the queries or row numbers do not fit; FAISS does not select in such an index; or
                the cache was compacted or replaced since then.
            ItemError: a text is not a string.
        """
        k = whole_number("k", k)
        wanted = np.asarray(query_rows(self.cache, queries, self.metric))
        if self.metric == "hamming":
            wanted = wanted.view(np.uint8)
        labels = Labels(self.cache, texts)
        if among is None:
            distances, rows = self.index.search(wanted, k)
        else:
            distances, rows = self._among(wanted, k, candidates(self.cache, among))
        farthest = np.float32(-np.inf if self.metric in SIMILARITIES else np.inf)
        result = labels.result(np.where(rows < 0, farthest, distances).astype(np.float32), rows)
        if self.cache.numbering != self.numbering:
            raise VectorsError(
                self.cache.path,
                expected="the cache as the index was built of it",
                found="a compacted one, or another one in its place",
                remedy="build the index again",
            )
        return result

    def _among(
        self, queries: NDArray[Any], k: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        try:
            return search_among(self.index, queries, k, rows)
        except RuntimeError as error:
            raise VectorsError(
                "among=",
                expected="an index in which FAISS selects",
                found=f"another one ({str(error).splitlines()[0]})",
                remedy="use search of the cache, which compares these rows alone",
            ) from error


def build_index(
    cache: KeyedCache,
    factory: str,
    metric: Metric | None = None,
    train_rows: int | None = None,
    progress_shown: bool | None = None,
) -> BuiltIndex:
    """Do what ``EmbeddingCache.build_index`` says."""
    faiss = import_faiss()
    _refuse_other_than_dense(cache)
    metric = metric_of(cache, metric)
    numbering = cache.numbering
    rows = _Rows.of(cache)
    if train_rows is not None:
        train_rows = whole_number("train_rows", train_rows)
    if cache.dim is None or not rows.is_newest.any():
        raise VectorsError(
            cache.path, expected="vectors to build an index of", found="none", remedy="store some first"
        )
    made_of = _made_of(cache, factory, metric, train_rows)
    index, covered = _saved(cache, made_of, rows)
    if index is None:
        made = _made(factory, metric, cache.dim)
        _train(cache, made, rows, metric, train_rows)
        # Replaced rows are left out, so positions in the index are no row numbers. Its ids are.
        index = faiss.IndexBinaryIDMap(made) if metric == "hamming" else faiss.IndexIDMap(made)
    if covered < rows.count:
        with progress(progress_shown, rows.count - covered, "row") as advance:
            for numbers, vectors in _blocks(cache, metric, rows, covered, advance):
                index.add_with_ids(vectors, numbers)
        _save(cache, index, made_of, rows)
    return BuiltIndex(index, metric, cache, numbering)


def _refuse_other_than_dense(cache: KeyedCache) -> None:
    if family_of(cache.container) != "dense":
        raise VectorsError(
            cache.path,
            expected="one dense vector for each text, to build an index of",
            found=f"the container {cache.container}",
            remedy="use search, which compares all rows",
        )


def _made(factory: str, metric: Metric, dim: int) -> Any:
    """Return a new index.

    Raises:
        ValueError: FAISS does not know the factory string.
    """
    faiss = import_faiss()
    name = "index_binary_factory" if metric == "hamming" else "index_factory"
    try:
        if metric == "hamming":
            return faiss.index_binary_factory(8 * dim, factory)
        made = faiss.index_factory(dim, factory, metric_number("l2" if metric == "l2" else "ip"))
    except RuntimeError as error:
        raise ValueError(f"expected a string that faiss.{name} takes, found {factory!r}: {error}") from error
    drop_table(made)
    return made


def _made_of(cache: KeyedCache, factory: str, metric: Metric, train_rows: int | None) -> str:
    parts = {"cache": cache.uuid, "factory": factory, "metric": metric, "train_rows": train_rows}
    return digest(parts)[:12]


def _saved(cache: KeyedCache, made_of: str, rows: _Rows) -> tuple[Any | None, int]:
    """Return the saved index that covers the most rows and is still valid, and how many rows; else (None, 0).

    In one generation the set of replaced rows among the first n rows only grows, so their number identifies
    the set.
    """
    for file in saved_indexes(cache.path, made_of, cache.generation):
        if file.rows <= rows.count and file.replaced == rows.replaced_before(file.rows):
            index = file.read()
            if index is not None:
                return index, file.rows
    return None, 0


def _train(cache: KeyedCache, index: Any, rows: _Rows, metric: Metric, train_rows: int | None) -> None:
    """Train an index, if it needs training, on random rows. The same cache gives the same rows each time."""
    if index.is_trained:
        return
    faiss = import_faiss()
    if metric == "hamming":
        index.train(_sample(cache, metric, rows, train_rows or _FEWEST_TO_TRAIN))
        return
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is not None:
        inverted.cp.min_points_per_centroid = min(inverted.cp.min_points_per_centroid, _ROWS_A_LIST)
    if train_rows is None:
        train_rows = max(_FEWEST_TO_TRAIN, 0 if inverted is None else _ROWS_A_LIST * inverted.nlist)
    if isinstance(index, faiss.IndexIVF):
        # Train the coarse quantiser, then the codes: FAISS takes fewer rows for these, but copies them.
        sample = _sample(cache, metric, rows, train_rows)
        index.train_q1(len(sample), faiss.swig_ptr(sample), False, index.metric_type)
        del sample
        train_rows = min(train_rows, _MOST_TO_TRAIN_CODES, index.train_encoder_num_vectors() or train_rows)
    index.train(_sample(cache, metric, rows, train_rows))


def _sample(cache: KeyedCache, metric: Metric, rows: _Rows, count: int) -> NDArray[Any]:
    """Return vectors (n, dim) of the newest rows, at most ``count``, drawn at random."""
    drawn = np.flatnonzero(rows.is_newest)
    if count < len(drawn):
        drawn = np.sort(np.random.default_rng(_SEED).choice(drawn, count, replace=False))
    chosen = _Rows(rows.count, np.zeros(rows.count, np.bool_), rows.generation)
    chosen.is_newest[drawn] = True
    sample = np.empty((len(drawn), cache.dim or 0), np.uint8 if metric == "hamming" else np.float32)
    filled = 0
    for _, vectors in _blocks(cache, metric, chosen, 0, lambda _: None):
        sample[filled : filled + len(vectors)] = vectors
        filled += len(vectors)
    return sample[:filled]


def _blocks(
    cache: KeyedCache, metric: Metric, rows: _Rows, start: int, advance: Callable[[int], object]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield row numbers (k,) and vectors (k, dim) of the newest rows from ``start`` on, in blocks.

    The vectors are as the index compares them. Rows with a checksum mismatch are left out.
    """
    size = max(1, _BLOCK_NUMBERS // (cache.dim or 1))
    for first in range(start, rows.count, size):
        vectors, damaged = cache.read_rows(first, min(size, rows.count - first))
        sound = rows.is_newest[first : first + size].copy()
        sound[damaged] = False
        if sound.any():
            yield first + np.flatnonzero(sound), _as_indexed(vectors[sound], metric)
        advance(len(vectors))


def _as_indexed(vectors: NDArray[Any], metric: Metric) -> NDArray[Any]:
    if metric == "hamming":
        return vectors.view(np.uint8)
    with np.errstate(over="ignore"):
        numbers = vectors.astype(np.float32, copy=False)
    return numbers * inverse_lengths(numbers)[:, None] if metric == "cosine" else numbers


def _save(cache: KeyedCache, index: Any, made_of: str, rows: _Rows) -> None:
    """Save an index in the directory of the cache. If that fails, warn."""
    replaced = rows.replaced_before(rows.count)
    file = IndexFile(cache.path, made_of, rows.count, replaced, rows.generation)
    try:
        file.write(index)
    except (OSError, RuntimeError) as error:
        warn(f"{file.path}: the index could not be written and is kept in memory only: {error}")
