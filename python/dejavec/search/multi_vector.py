"""Exact search among multi-vector and sparse rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.search.blocks import BLOCK_NUMBERS, at
from dejavec.search.dense import inverse_lengths
from dejavec.search.metric import Metric
from dejavec.search.nearest import Nearest
from dejavec.vectors.output import CSR_ARRAY, Output
from dejavec.vectors.ragged import Ragged
from dejavec.vectors.sparse import to_scipy

_TOKENS = 256
"""How many tokens of queries to compare with a block at a time."""

_MOST_BLOCK_ELEMENTS = 65_536
"""The most elements of a block of several rows."""

_MOST_ELEMENTS = 65_536
"""The most elements of a row, as in ``docs/format.md``."""


def lying(rows: Ragged, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chosen rows that have elements, and whose elements lie within those of the file.

    A damaged row may not; a row without elements is near to nothing.
    """
    starts, ends = rows.indptr[chosen], rows.indptr[chosen + 1]
    most = max(_MOST_ELEMENTS, rows.columns or 0)
    return chosen[(starts >= 0) & (starts < ends) & (ends - starts <= most) & (ends <= len(rows.data))]


def compare_tokens(
    rows: Ragged, chosen: NDArray[np.int64], queries: Ragged, metric: Metric, nearest: Nearest
) -> None:
    """Compare queries with multi-vector rows by MaxSim.

    MaxSim is the sum over the query's tokens of the largest product with a token of the row. The products of
    a block, of at most 65,536 elements and 256 tokens of queries, are all that is in memory.
    """
    tokens = queries.data.astype(np.float32, copy=False)
    if metric == "cosine":
        tokens = tokens * inverse_lengths(tokens)[:, None]
    of_query = np.repeat(np.arange(len(queries)), queries.lengths)
    most = min(_MOST_BLOCK_ELEMENTS, 8 * BLOCK_NUMBERS // max(rows.dim, len(queries)))
    for first, block in _ragged_blocks(rows, chosen, most):
        elements = block.data.astype(np.float32, copy=False)
        scale = inverse_lengths(elements)[:, None] if metric == "cosine" else None
        sums = np.zeros((len(queries), len(block)), np.float32)
        for start in range(0, len(tokens), _TOKENS):
            products = elements @ tokens[start : start + _TOKENS].T
            if scale is not None:
                products *= scale
            best = np.maximum.reduceat(products, block.indptr[:-1], axis=0)
            numbers = of_query[start : start + _TOKENS]
            begins = np.flatnonzero(np.diff(numbers, prepend=-1))
            sums[numbers[begins]] += np.add.reduceat(best, begins, axis=1).T
        nearest.compare(sums, first)


def compare_sparse(
    rows: Ragged, chosen: NDArray[np.int64], queries: Ragged, metric: Metric, nearest: Nearest
) -> None:
    """Compare queries with sparse rows by the inner product. Several entries of one column are added."""
    wanted = _matrix(queries, metric).T.tocsc()
    for first, block in _ragged_blocks(rows, chosen, 8 * BLOCK_NUMBERS // max(1, len(queries))):
        products = _matrix(block, metric) @ wanted
        nearest.compare(np.ascontiguousarray(products.toarray().T, np.float32), first)


def _matrix(rows: Ragged, metric: Metric) -> Any:
    """Return sparse rows as a ``csr_array`` of float32; of length one, for ``"cosine"``."""
    matrix = to_scipy(rows.astype(np.float32), Output("scipy", "float32", CSR_ARRAY, "int64"))
    if metric == "cosine":
        matrix.sum_duplicates()
        lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
        inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        matrix.data *= np.repeat(inverse, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _ragged_blocks(rows: Ragged, chosen: NDArray[np.int64], most: int) -> Iterator[tuple[int, Ragged]]:
    """Yield the chosen rows in blocks, and the position of each block in ``chosen``.

    A block has at most ``most`` rows, and elements if a row has not more.
    """
    most = max(1, most)
    ends = np.cumsum(rows.indptr[chosen + 1] - rows.indptr[chosen])
    first = 0
    while first < len(chosen):
        before = ends[first - 1] if first else 0
        end = int(np.searchsorted(ends, before + most, side="right"))
        end = min(max(end, first + 1), first + most)
        yield first, at(rows, chosen[first:end])
        first = end
