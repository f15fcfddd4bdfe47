"""Rows of a cache in blocks, each compared while it is in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_NUMBERS = 1 << 19
"""How many numbers to compare with few queries at a time: 2 MB of float32."""

LARGE_BLOCK_NUMBERS = 1 << 22
"""How many to compare with many queries: BLAS divides them further, and its threads meet after each block."""


def dense_blocks(
    rows: NDArray[Any], chosen: NDArray[np.int64], dtype: Any, numbers: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the chosen rows in blocks (m, dim) of a dtype, and the position of each block in ``chosen``.

    A block has at most ``numbers`` numbers, if a row has not more. It is a view of the
    rows if it can be: they are contiguous, and of the dtype.
    """
    size = max(1, numbers // max(1, rows.shape[1]))
    for first in range(0, len(chosen), size):
        with np.errstate(over="ignore"):  # A float64 may be too large.
            yield first, at(rows, chosen[first : first + size]).astype(dtype, copy=False)


def at(rows: Any, numbers: NDArray[np.int64]) -> Any:
    """Return rows at ascending row numbers, as a view if they are contiguous."""
    if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
        return rows[int(numbers[0]) : int(numbers[-1]) + 1]
    return rows[numbers]
