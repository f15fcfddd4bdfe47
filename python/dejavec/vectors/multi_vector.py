"""Multi-vector embeddings: a list of (tokens, dim) arrays, or one array padded to its longest item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.vectors.dtypes import STORABLE, dtype_name, is_dense_tensor, is_tensor, numbers_of
from dejavec.vectors.output import ITEMS, PADDED, Output
from dejavec.vectors.ragged import Ragged, offsets_of

_REMEDY = "give a list of (tokens, dim) arrays with one dim, one for each item"


def are_items(vectors: object) -> bool:
    """Return whether this is a list of (tokens, dim) arrays, tensors or lists of lists, one for each item.

    Example:
        >>> are_items([np.ones((3, 2)), np.ones((1, 2))]), are_items([np.ones(2)])
        (True, False)
    """
    if not isinstance(vectors, list | tuple) or not vectors:
        return False
    return all(_ndim(item) == 2 for item in vectors)


def from_items(items: Sequence[Any], where: str) -> tuple[Ragged, Output]:
    """Convert a list of (tokens, dim) arrays, tensors or lists of lists. C-contiguous arrays are not copied.

    Args:
        items: what :func:`are_items` accepts; not empty.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the items have different dimensions or dtypes.
    """
    dim, dtype = check_items(items, where)
    library = "torch" if is_tensor(items[0]) else "list" if _is_list(items[0]) else "numpy"
    arrays = [_array(item, where).reshape(-1, dim) for item in items]
    indptr = offsets_of(np.array([len(array) for array in arrays], np.int64))
    stored = np.float64 if library == "list" else arrays[0].dtype
    parts = [np.ascontiguousarray(array, stored) for array in arrays]
    return Ragged(parts, indptr), Output(library, dtype, ITEMS)


def check_items(items: Sequence[Any], where: str) -> tuple[int, str]:
    """Return the dimension of items, and the name of their dtype, without a copy of arrays and tensors.

    Args:
        items: what :func:`are_items` accepts; not empty.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the items have different dimensions or dtypes, or no numbers.
    """
    arrays = [_array(item, where) if _is_list(item) else item for item in items]
    dims = {int(array.shape[1]) for array in arrays if array.shape != (0, 0)}
    if len(dims) != 1 or 0 in dims:
        found = f"dimensions {', '.join(map(str, sorted(dims)))}" if dims else "items without a dimension"
        raise VectorsError(where, expected="items of one dimension", found=found, remedy=_REMEDY)
    dtypes = {
        "float64" if _is_list(item) and array.dtype.kind in "iuf" else dtype_name(array)
        for item, array in zip(items, arrays, strict=True)
    }
    if len(dtypes) != 1 or not dtypes <= STORABLE:
        found = f"dtypes {', '.join(sorted(dtypes))}"
        raise VectorsError(where, expected="items of one dtype of numbers", found=found, remedy=_REMEDY)
    return dims.pop(), dtypes.pop()


def from_padded(rows: NDArray[Any], output: Output, where: str) -> tuple[Ragged, Output]:
    """Convert an array (n, longest, dim), without the trailing zeros of each item.

    Args:
        rows: the array.
        output: its array kind, as that of dense rows.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: every item ends in zeros, so that the width of the call cannot be made again.
    """
    check_padding(rows, where)
    _, width, dim = rows.shape
    is_token = _has_bits(rows)
    # The place of the last token, counted from 1.
    lengths = (is_token * np.arange(1, width + 1)).max(axis=1, initial=0)
    data = rows[np.arange(width) < lengths[:, None]].reshape(-1, dim)
    return Ragged(data, offsets_of(lengths)), Output(output.library, output.dtype, PADDED)


def check_padding(rows: Any, where: str) -> None:
    """Check that an array or tensor (n, longest, dim) is as long as its longest item.

    Raises:
        VectorsError: every item ends in zeros.
    """
    if not len(rows) or not rows.shape[1]:
        return
    last = rows[:, -1:]
    if not _has_bits(numbers_of(last) if is_tensor(last) else last).any():
        raise VectorsError(
            where,
            expected="an array padded to its longest item",
            found=f"shape {tuple(rows.shape)}, in which every item ends in zeros",
            remedy=_REMEDY,
        )


def padded(rows: Ragged) -> NDArray[Any]:
    """Return rows as one array (n, longest, dim), with zeros behind the tokens of each item.

    Example:
        >>> padded(Ragged(np.ones((3, 1)), np.array([0, 1, 3]))).squeeze(2)
        array([[1., 0.],
               [1., 1.]])
    """
    lengths = rows.lengths
    width = int(lengths.max(initial=0))
    whole = np.zeros((len(rows), width, rows.dim), rows.dtype)
    whole[np.arange(width) < lengths[:, None]] = rows.data
    return whole


def _is_list(item: object) -> bool:
    return isinstance(item, list | tuple)


def _has_bits(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which tokens (n, width) of rows (n, width, dim) have a bit that is set, as -0.0 has."""
    bits: NDArray[np.bool_] = (np.ascontiguousarray(rows).view(f"u{rows.itemsize}") != 0).any(axis=2)
    return bits


def _ndim(item: Any) -> int | None:
    """Return how many dimensions an item has; None if it is no dense array of numbers."""
    if isinstance(item, list | tuple):
        # A list of lists of numbers. The dimension of an empty list is unknown.
        first = item[0] if item else None
        is_row = isinstance(first, list | tuple) and not _is_list(next(iter(first), 0.0))
        return 2 if is_row else None
    if is_tensor(item) and not is_dense_tensor(item):
        return None
    return getattr(item, "ndim", None) if hasattr(item, "dtype") else None


def _array(item: Any, where: str) -> NDArray[Any]:
    try:
        array = numbers_of(item) if is_tensor(item) else np.asarray(item)
    except (ValueError, TypeError, RuntimeError) as error:
        raise VectorsError(where, expected="items of numbers", found=str(error), remedy=_REMEDY) from None
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
