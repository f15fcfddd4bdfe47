"""How far the vectors of one model are from others of the same items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.vectors.ragged import Ragged, Rows, dim_of, rows_where
from dejavec.vectors.sparse import densified


def relative_differences(held: Rows, found: Rows) -> NDArray[np.float64]:
    """Return how far each vector is off: its largest |difference| / the largest |number| that is held.

    For integers it is the share of numbers that differ. It is infinity if they cannot be compared.

    Args:
        held: the cached vectors of n items.
        found: other vectors of the same items.

    Returns:
        float64 (n,).

    Example:
        >>> relative_differences(np.array([[4.0, 2.0]]), np.array([[4.0, 2.5]]))
        array([0.125])
        >>> two, one = (Ragged(np.ones((n, 1)), np.array([0, n])) for n in (2, 1))
        >>> relative_differences(two, one)
        array([inf])
    """
    if type(held) is not type(found) or len(held) != len(found) or dim_of(held) != dim_of(found):
        return np.full(len(held), np.inf)
    if not isinstance(held, Ragged) or not isinstance(found, Ragged):
        return _dense(held, found)  # type: ignore[arg-type]
    if held.indices is not None:
        return _dense(*densified(held, found))
    pairs = zip(held, found, strict=True)
    return np.array([_of_item(one, other) for one, other in pairs], np.float64)


def same_bytes(one: Rows, other: Rows) -> NDArray[np.bool_]:
    """Return which rows have the same bytes (n,), among rows of the same items in one form and dtype.

    Example:
        >>> same_bytes(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[-0.0, 1.0], [2.0, 3.0]]))
        array([False,  True])
    """
    if not isinstance(one, Ragged) or not isinstance(other, Ragged):
        return np.asarray((_bytes(one) == _bytes(other)).all(axis=1))
    alike: NDArray[np.bool_] = one.lengths == other.lengths
    mine, theirs = one[np.flatnonzero(alike)], other[np.flatnonzero(alike)]
    elements = (_bytes(mine.data) == _bytes(theirs.data)).all(axis=1)
    if mine.indices is not None:
        elements &= mine.indices == theirs.indices
    alike[alike] = rows_where(mine, elements)
    return alike


def _bytes(numbers: Any) -> NDArray[np.uint8]:
    """Return the bytes of rows or elements (n, bytes)."""
    numbers = np.ascontiguousarray(numbers)
    width = numbers.itemsize * (numbers.shape[1] if numbers.ndim == 2 else 1)
    flat: NDArray[np.uint8] = numbers.view(np.uint8).reshape(len(numbers), width)
    return flat


def _of_item(held: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Return the difference of one multi-vector item (tokens, dim)."""
    if held.shape != found.shape:
        return np.inf
    return float(_dense(held.reshape(1, -1), found.reshape(1, -1))[0])


def _dense(held: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
    if not held.shape[1]:
        return np.zeros(len(held))
    if held.dtype.kind in "iub" and found.dtype.kind in "iub":
        return np.asarray((held != found).mean(axis=1), np.float64)
    wide = held.astype(np.float64)
    scale = np.maximum(np.abs(wide).max(axis=1), np.finfo(np.float64).tiny)
    off: NDArray[np.float64] = np.abs(found.astype(np.float64) - wide).max(axis=1) / scale
    return np.where(np.isnan(off), np.inf, off)
