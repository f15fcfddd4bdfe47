"""Multi-vector embeddings: a list of (tokens, dim) arrays, or one array padded to its longest item."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.vectors.output import ITEMS, PADDED, Output
from dejavec.vectors.ragged import Ragged, offsets_of

MOST_TOKENS = 65_536
"""The most tokens of an item, as the core has it."""

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
    """Convert a list of (tokens, dim) arrays, tensors or lists of lists.

    Args:
        items: what :func:`are_items` accepts; not empty.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the items have different dimensions or dtypes.
    """
    torch = sys.modules.get("torch")
    library = "list" if isinstance(items[0], list | tuple) else "numpy"
    dtype = ""
    if torch is not None and isinstance(items[0], torch.Tensor):
        library, dtype = "torch", str(items[0].dtype).removeprefix("torch.")
    arrays = [_array(item, where) for item in items]
    shapes = {array.shape[1] for array in arrays if array.size or array.shape[1]}
    if len(shapes) != 1:
        found = f"dimensions {', '.join(map(str, sorted(shapes)))}" if shapes else "items without a dimension"
        raise VectorsError(where, expected="items of one dimension", found=found, remedy=_REMEDY)
    dim = shapes.pop()
    dtypes = {_dtype_name(item, array) for item, array in zip(items, arrays, strict=True)}
    if len(dtypes) != 1:
        found = f"dtypes {', '.join(sorted(dtypes))}"
        raise VectorsError(where, expected="items of one dtype", found=found, remedy=_REMEDY)
    data = np.concatenate([array.reshape(-1, dim) for array in arrays])
    if library == "list" and data.dtype.kind in "iu":
        data = data.astype(np.float64)
    indptr = offsets_of(np.array([len(array) for array in arrays], np.int64))
    return Ragged(data, indptr), Output(library, dtype or data.dtype.name, ITEMS)


def from_padded(rows: NDArray[Any], output: Output, where: str) -> tuple[Ragged, Output]:
    """Convert an array (n, longest, dim), without the trailing zeros of each item.

    Args:
        rows: the array.
        output: its array kind, as that of dense rows.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: every item ends in zeros, so that the width of the call cannot be made again.
    """
    count, width, dim = rows.shape
    rows = np.ascontiguousarray(rows)
    is_token: NDArray[np.bool_] = (rows.view(f"u{rows.itemsize}") != 0).any(axis=2)
    lengths = (
        np.where(is_token.any(axis=1), width - is_token[:, ::-1].argmax(axis=1), 0) if width else _none(count)
    )
    longest = int(lengths.max(initial=0))
    if count and longest < width:
        raise VectorsError(
            where,
            expected="an array padded to its longest item",
            found=f"shape {rows.shape}, in which no item has more than {longest} tokens",
            remedy=_REMEDY,
        )
    data = rows[np.arange(width) < lengths[:, None]].reshape(-1, dim)
    return Ragged(data, offsets_of(lengths.astype(np.int64))), Output(output.library, output.dtype, PADDED)


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


def _none(count: int) -> NDArray[np.int64]:
    return np.zeros(count, np.int64)


def _ndim(item: object) -> int | None:
    """Return how many dimensions an item has; None if it is no array of numbers."""
    if isinstance(item, list | tuple):
        # A list of lists of numbers. The dimension of an empty list is unknown.
        first = item[0] if item else None
        return (
            2
            if isinstance(first, list | tuple) and not isinstance(next(iter(first), 0.0), list | tuple)
            else None
        )
    if "layout" in type(item).__dict__ or hasattr(item, "layout"):
        torch = sys.modules.get("torch")
        if torch is not None and getattr(item, "layout", torch.strided) is not torch.strided:
            return None
    return getattr(item, "ndim", None) if hasattr(item, "dtype") else None


def _array(item: Any, where: str) -> NDArray[Any]:
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(item, torch.Tensor):
            dense = item.float() if item.dtype == torch.bfloat16 else item
            array: NDArray[Any] = dense.numpy(force=True)
        else:
            array = np.asarray(item)
    except (ValueError, TypeError, RuntimeError) as error:
        raise VectorsError(where, expected="items of numbers", found=str(error), remedy=_REMEDY) from None
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _dtype_name(item: Any, array: NDArray[Any]) -> str:
    if isinstance(item, list | tuple):
        return "float64" if array.dtype.kind in "iuf" else array.dtype.name
    return str(getattr(item, "dtype", array.dtype)).removeprefix("torch.")
