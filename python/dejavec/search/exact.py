"""Exact search among the vectors of a cache, by FAISS, over the mapped file."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import MissingPackageError, VectorsError
from dejavec.fill.settings import whole_number
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.arrays import to_dense_rows

Metric = Literal["l2", "ip"]
"""Squared Euclidean distance (less is nearer) or inner product (more is nearer)."""


def import_faiss() -> Any:
    """Return the module ``faiss``.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            "search",
            expected="the package faiss-cpu",
            found=f"none ({error})",
            remedy="pip install 'dejavec[faiss]'",
        ) from error
    return faiss


def metric_number(metric: Metric) -> int:
    """Return FAISS's number for a metric.

    Raises:
        ValueError: there is no such metric.
    """
    faiss = import_faiss()
    numbers: dict[str, int] = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
    if metric not in numbers:
        raise ValueError(f"expected metric to be one of {tuple(numbers)}, found {metric!r}")
    return numbers[metric]


def flat_index(vectors: NDArray[Any], metric: Metric) -> Any:
    """Return a flat index over vectors in memory, without a copy.

    Args:
        vectors: (rows, dim), float32 or float16, C-contiguous; aligned or not.
        metric: how vectors are compared.

    Returns:
        ``faiss.IndexFlatL2`` or ``IndexFlatIP``; for float16, ``faiss.IndexScalarQuantizer``. It holds a
        reference to the vectors; copies made by ``faiss.clone_index`` do not. It is for searching only:
        FAISS ends the process if something is added to an index over memory that FAISS does not own.

    Raises:
        VectorsError: the vectors have another dtype.
    """
    faiss = import_faiss()
    number, dim = metric_number(metric), vectors.shape[1]
    if vectors.dtype == np.float32:
        index = faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)
    elif vectors.dtype == np.float16:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, number)
    else:
        raise VectorsError(
            "search",
            expected="vectors of float32 or float16",
            found=str(vectors.dtype),
            remedy='use build_index("Flat"), which converts them',
        )
    if len(vectors) == 0:
        return index
    codes = vectors.view(np.uint8).reshape(-1)
    # FAISS's view needs an owner; an owning vector's `owner` is null. Keep `index` alive until it is read.
    nobody = index.codes.owner
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(codes), codes.nbytes, nobody)
    index.ntotal = len(vectors)
    index.referenced_objects = [vectors]
    return index


def refuse_other_than_dense(cache: KeyedCache) -> None:
    """Refuse to search a cache of multi-vector or sparse rows.

    Raises:
        VectorsError: it is one.
    """
    output = cache.output
    if output is not None and output.family != "dense":
        raise VectorsError(
            cache.path,
            expected="one dense vector for each text, to search",
            found=f"the container {cache.container}",
            remedy="score its rows with the model's own similarity",
        )


def search(
    cache: KeyedCache, queries: object, k: int, metric: Metric | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Do what ``EmbeddingCache.search`` says."""
    faiss = import_faiss()
    k = whole_number("k", k)
    refuse_other_than_dense(cache)
    first = next(iter(queries), None) if isinstance(queries, list | tuple) else queries
    if isinstance(first, str):
        raise VectorsError(
            "the queries",
            expected="vectors (n, dim)",
            found="texts",
            remedy="embed them with the cache's model",
        )
    wanted = to_dense_rows(queries, None, "the queries")[0].astype(np.float32, copy=False)
    if cache.dim not in (None, wanted.shape[1]):
        found = f"{wanted.shape[1]}"
        raise VectorsError(
            "the queries",
            expected=f"dimension {cache.dim}",
            found=found,
            remedy="embed them with the cache's model",
        )
    rows, replaced, bits = cache.newest()
    vectors = np.asarray(cache.vectors[:rows]) if rows else np.empty((0, wanted.shape[1]), np.float32)
    index = flat_index(vectors, metric or default_metric(cache))
    parameters = None
    if replaced:
        newest = np.frombuffer(bits, np.uint8)
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(newest))
    distances, found = index.search(wanted, k, params=parameters)
    return distances, found


def default_metric(cache: KeyedCache) -> Metric:
    """Return the metric of the cache's file, or ``"l2"`` for ``vectors.npy``, which has none."""
    return "ip" if cache.container == "faiss-ip" else "l2"
