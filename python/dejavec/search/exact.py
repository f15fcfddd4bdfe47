"""Exact search: every stored vector is compared with every query, over the mapped file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.fill.settings import whole_number
from dejavec.search.candidates import candidates
from dejavec.search.dense import FEW_QUERIES, compare_dense, prepared
from dejavec.search.labels import Labels
from dejavec.search.metric import SIMILARITIES, Metric, import_faiss, metric_of
from dejavec.search.multi_vector import compare_sparse, compare_tokens, lying
from dejavec.search.nearest import Nearest
from dejavec.search.result import SearchResult
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.arrays import to_dense_rows, to_rows
from dejavec.vectors.output import family_of
from dejavec.vectors.ragged import Ragged, Rows, dim_of

_QUERIES = 1024
"""How many queries to compare with each block of rows."""

_ROWS_TO_SHARE = 10_000
"""From how many rows on few queries are compared by all cores."""

_REMEDY = "embed them with the cache's model"


def search(
    cache: KeyedCache,
    queries: object,
    k: int,
    *,
    metric: Metric | None = None,
    among: object = None,
    texts: object = None,
) -> SearchResult:
    """Do what ``EmbeddingCache.search`` says."""
    import_faiss()
    k = whole_number("k", k)
    metric = metric_of(cache, metric)
    wanted = query_rows(cache, queries, metric)
    labels = Labels(cache, texts)

    def found() -> SearchResult:
        chosen = candidates(cache, among)
        rows = cache.vectors
        parts = [
            _nearest(rows, chosen, wanted[start : start + _QUERIES], metric, k)
            for start in range(0, max(len(wanted), 1), _QUERIES)
        ]
        distances, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
        return labels.result(distances, numbers)

    return cache.unmoved(found)


def query_rows(cache: KeyedCache, queries: Any, metric: Metric) -> Rows:
    """Return queries in the form of the stored rows: float32 and of length one if the metric needs that.

    Raises:
        VectorsError: they do not fit the cache.
    """
    first = next(iter(queries), None) if isinstance(queries, list | tuple) else queries
    if isinstance(first, str):
        raise VectorsError("the queries", expected="vectors (n, dim)", found="texts", remedy=_REMEDY)
    family = family_of(cache.container)
    if family == "dense":
        wanted: Rows = to_dense_rows(queries, None, "the queries")[0]
    else:
        wanted, output = to_rows(queries, None, "the queries")
        if output.family != family:
            expected = "multi-vector items (tokens, dim)" if family == "ragged" else "sparse vectors"
            found = f"{output.family} vectors"
            raise VectorsError("the queries", expected=expected, found=found, remedy=_REMEDY)
    if cache.dim not in (None, dim_of(wanted)):
        expected, found = f"dimension {cache.dim}", f"{dim_of(wanted)}"
        raise VectorsError("the queries", expected=expected, found=found, remedy=_REMEDY)
    return wanted if isinstance(wanted, Ragged) else prepared(wanted, metric, cache.dtype)


def _nearest(
    rows: Rows, chosen: NDArray[np.int64], queries: Rows, metric: Metric, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return distances and row numbers (n, k) of the nearest of the chosen rows."""
    if isinstance(rows, Ragged):
        chosen = lying(rows, chosen)

    def compared(part: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        nearest = Nearest(len(queries), k, more_is_nearer=metric in SIMILARITIES)
        if isinstance(rows, Ragged) and isinstance(queries, Ragged):
            compare = compare_tokens if rows.indices is None else compare_sparse
            compare(rows, part, queries, metric, nearest)
        elif not isinstance(rows, Ragged) and not isinstance(queries, Ragged):
            compare_dense(rows, part, queries, metric, nearest)
        distances, positions = nearest.found()
        return distances, np.append(part, -1)[positions]

    if len(queries) >= FEW_QUERIES or len(chosen) < _ROWS_TO_SHARE:
        return compared(chosen)
    parts = np.array_split(chosen, os.cpu_count() or 1)
    nearest = Nearest(len(queries), k, more_is_nearer=metric in SIMILARITIES)
    with ThreadPoolExecutor(len(parts)) as pool:
        for distances, numbers in pool.map(compared, parts):
            nearest.merge(distances, numbers)
    return nearest.found()
