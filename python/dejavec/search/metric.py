"""How vectors are compared, and the package that compares them."""

from __future__ import annotations

from typing import Any, Literal

from dejavec.errors import MissingPackageError, VectorsError
from dejavec.fill.settings import check_choice
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.output import family_of

FileMetric = Literal["l2", "ip"]
"""The metrics that a file of FAISS may have."""

Metric = Literal["cosine", "ip", "l2", "hamming"]
"""Cosine or inner product (more is nearer); squared Euclidean distance or number of different bits (less is
nearer)."""

SIMILARITIES: tuple[Metric, ...] = ("cosine", "ip")
"""The metrics by which more is nearer."""

_PACKED = ("uint8", "int8")
"""The dtypes of packed bits: sentence-transformers has ``precision="ubinary"`` and ``"binary"``."""


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


def metric_number(metric: FileMetric) -> int:
    """Return FAISS's number for a metric."""
    faiss = import_faiss()
    number: int = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    return number


def file_metric(cache: KeyedCache) -> FileMetric:
    """Return the metric of the cache's file, or ``"l2"`` for ``vectors.npy``, which has none."""
    return "ip" if cache.container == "faiss-ip" else "l2"


def metric_of(cache: KeyedCache, metric: Metric | None) -> Metric:
    """Return the metric of a search; None gives that of the file, or ``"ip"`` for ragged and sparse rows.

    Raises:
        ValueError: there is no such metric.
        VectorsError: it does not fit the vectors of the cache.
    """
    if metric is not None:
        check_choice("metric", metric, Metric)
    if family_of(cache.container) != "dense":
        if metric not in (None, *SIMILARITIES):
            raise VectorsError(
                cache.path,
                expected=f"dense vectors, for metric={metric!r}",
                found=f"the container {cache.container}",
                remedy='use metric="ip" or "cosine"',
            )
        return metric or "ip"
    if metric == "hamming" and cache.dtype is not None and cache.dtype.name not in _PACKED:
        raise VectorsError(
            cache.path,
            expected='packed bits (uint8 or int8), for metric="hamming"',
            found=f"vectors of {cache.dtype}",
            remedy="use another metric, or a cache of vectors that np.packbits made",
        )
    return metric or file_metric(cache)
