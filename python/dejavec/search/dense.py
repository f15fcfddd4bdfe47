"""Exact search among dense rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.search.blocks import BLOCK_NUMBERS, LARGE_BLOCK_NUMBERS, dense_blocks
from dejavec.search.metric import Metric, import_faiss
from dejavec.search.nearest import Nearest

FEW_QUERIES = 8
"""Fewer queries than this are compared by cores that share the rows; BLAS splits larger products itself."""


def compare_dense(
    rows: NDArray[Any],
    chosen: NDArray[np.int64],
    queries: NDArray[Any],
    metric: Metric,
    nearest: Nearest,
) -> None:
    """Compare each query (n, dim) with the chosen rows (rows, dim).

    Inner products are multiplied by NumPy: FAISS reads all rows for each query if there are few queries.
    FAISS finds the others, since it does not subtract large numbers from each other for a small distance.
    """
    faiss = import_faiss()
    few = len(queries) < FEW_QUERIES
    numbers = BLOCK_NUMBERS if few else LARGE_BLOCK_NUMBERS
    if metric == "hamming":
        for first, block in dense_blocks(rows, chosen, rows.dtype, LARGE_BLOCK_NUMBERS):
            bits = np.ascontiguousarray(block).view(np.uint8)
            distances, positions = faiss.knn_hamming(queries.view(np.uint8), bits, min(nearest.k, len(bits)))
            nearest.merge(distances, _shifted(positions, first))
        return
    for first, block in dense_blocks(rows, chosen, np.float32, numbers):
        if metric == "l2":
            nearest.merge(*_nearest_by_l2(queries, block, min(nearest.k, len(block)), first))
            continue
        # BLAS waits for its threads more than it gains, for few queries.
        products = np.vecdot(queries[:, None], block) if few else queries @ block.T
        if metric == "cosine":
            products *= inverse_lengths(block)
        nearest.compare(products, first)


def prepared(queries: NDArray[Any], metric: Metric, dtype: np.dtype[Any] | None) -> NDArray[Any]:
    """Return queries (n, dim) as :func:`compare_dense` takes them.

    Args:
        queries: the queries.
        metric: the metric.
        dtype: the stored dtype; None before the first vector.

    Raises:
        VectorsError: they are no packed bits, for ``"hamming"``, or hold NaN or infinity.
    """
    if metric == "hamming":
        if queries.dtype.itemsize != 1 or (dtype is not None and queries.dtype != dtype):
            raise VectorsError(
                "the queries",
                expected=f"packed bits of {dtype or 'uint8'}",
                found=str(queries.dtype),
                remedy="pack them as the stored vectors were",
            )
        return queries
    with np.errstate(over="ignore"):
        numbers = queries.astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))[0]
        raise VectorsError(
            "the queries",
            expected="finite numbers",
            found=f"NaN, infinity or a number that float32 does not hold at position {bad}",
            remedy="leave that query out",
        )
    return numbers * inverse_lengths(numbers)[:, None] if metric == "cosine" else numbers


def inverse_lengths(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / length of each row (n,); 0 for rows of zeros, so that their cosine is 0.

    Example:
        >>> inverse_lengths(np.array([[3, 4], [0, 0]], np.float32))
        array([0.2, 0. ], dtype=float32)
    """
    lengths = np.sqrt(np.vecdot(rows, rows))
    inverse: NDArray[np.float32] = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return inverse


def _nearest_by_l2(
    queries: NDArray[np.float32], block: NDArray[np.float32], k: int, first: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    distances, positions = import_faiss().knn(queries, block, k)
    return distances, _shifted(positions, first)


def _shifted(positions: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Return positions in a block as positions among all candidates; -1 stays."""
    return np.where(positions < 0, positions, positions + first)
