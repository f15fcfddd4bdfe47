"""Rows of different lengths, and what ``fill`` does with rows of either form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Ragged(Sequence[NDArray[Any]]):
    """Rows of different lengths, one behind the other.

    A row of a multi-vector cache has a vector for each token. A row of a sparse cache has the numbers that
    count, and their column numbers.

    Args:
        data: the vectors of all rows (elements, dim), or the numbers of sparse rows (elements,): one
            C-contiguous array, or a sequence of at least one with whole rows each. Nothing is copied.
        indptr: see the attribute.
        indices: see the attribute.
        columns: see the attribute.

    Attributes:
        parts: the arrays of ``data``, one after the other.
        indptr: row ``i`` has the elements from ``indptr[i]`` up to, and without, ``indptr[i + 1]``: int64
            (n + 1,), ascending from 0 to the number of elements.
        indices: the column of each number of sparse rows, int32 (elements,); None for multi-vector rows.
        columns: how many columns sparse rows have; None for multi-vector rows.

    Example:
        >>> rows = Ragged(np.arange(6.0).reshape(3, 2), np.array([0, 1, 3]))
        >>> len(rows), rows.dim, rows[1].tolist()
        (2, 2, [[2.0, 3.0], [4.0, 5.0]])
        >>> rows[::-1].indptr.tolist()
        [0, 2, 3]
    """

    def __init__(
        self,
        data: NDArray[Any] | Sequence[NDArray[Any]],
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32] | None = None,
        columns: int | None = None,
    ) -> None:
        self.parts = (data,) if isinstance(data, np.ndarray) else tuple(data)
        self.indptr = indptr
        self.indices = indices
        self.columns = columns

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows, dim {self.dim}, {self.dtype})"

    @cached_property
    def data(self) -> NDArray[Any]:
        """The vectors or numbers of all rows in one array. Several parts are copied into one."""
        if len(self.parts) > 1:
            self.parts = (np.concatenate(self.parts),)
        return self.parts[0]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, at: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, at: slice | NDArray[Any]) -> Ragged: ...
    def __getitem__(self, at: Any) -> Any:
        """Return one row as a view of its elements; or several rows, by a slice, positions or flags."""
        if not isinstance(at, slice | np.ndarray):
            position = range(len(self))[at]
            return self.data[self.indptr[position] : self.indptr[position + 1]]
        positions = np.arange(len(self))[at]
        if len(positions) and (np.diff(positions) == 1).all():
            first, last = self.indptr[positions[0]], self.indptr[positions[-1] + 1]
            indptr = self.indptr[positions[0] : positions[-1] + 2] - first
            return self._with(slice(first, last), indptr)
        lengths = self.lengths[positions]
        indptr = offsets_of(lengths)
        shifts = self.indptr[positions] - indptr[:-1]
        return self._with(np.arange(indptr[-1]) + np.repeat(shifts, lengths), indptr)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        bounds = self.indptr.tolist()
        return (self.data[start:end] for start, end in pairwise(bounds))

    @property
    def dim(self) -> int:
        """Numbers in a vector, or columns of a sparse row."""
        return int(self.parts[0].shape[1]) if self.columns is None else self.columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the numbers."""
        return self.parts[0].dtype

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many elements each row has (n,)."""
        return np.diff(self.indptr)

    def astype(self, dtype: Any, *, copy: bool = True) -> Ragged:
        """Return the same rows with numbers of another dtype."""
        parts = [part.astype(dtype, copy=copy) for part in self.parts]
        return Ragged(parts, self.indptr, self.indices, self.columns)

    def copy(self) -> Ragged:
        """Return a copy."""
        indices = None if self.indices is None else self.indices.copy()
        return Ragged([part.copy() for part in self.parts], self.indptr.copy(), indices, self.columns)

    def emptied(self, positions: Sequence[int]) -> Ragged:
        """Return the same rows, some of them without elements."""
        if not len(positions):
            return self
        lengths = self.lengths
        kept = np.ones(len(self), np.bool_)
        kept[positions] = False
        return self._with(np.repeat(kept, lengths), offsets_of(np.where(kept, lengths, 0)))

    def _with(self, elements: Any, indptr: NDArray[np.int64]) -> Ragged:
        indices = None if self.indices is None else self.indices[elements]
        return Ragged(self.data[elements], indptr, indices, self.columns)


Rows = NDArray[Any] | Ragged
"""Vectors as stored: dense, (n, dim), C-contiguous, little-endian; or :class:`Ragged`."""


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where rows of these lengths (n,) begin and end: int64 (n + 1,).

    Example:
        >>> offsets_of(np.array([2, 0, 3]))
        array([0, 2, 2, 5])
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def dim_of(rows: Rows) -> int:
    """Return how many numbers a vector has, or how many columns a sparse row has."""
    return rows.dim if isinstance(rows, Ragged) else int(rows.shape[1])


KEY_RECORD_BYTES = 40
"""Bytes of a row in ``keys.bin``."""


def stored_bytes(rows: Rows, dtype: np.dtype[Any]) -> int:
    """Return how many bytes rows take on disk, with numbers of a dtype, and with their keys.

    Example:
        >>> stored_bytes(Ragged(np.ones((3, 2)), np.array([0, 1, 3])), np.dtype("<f4"))
        120
    """
    records = len(rows) * KEY_RECORD_BYTES
    if not isinstance(rows, Ragged):
        return rows.size * dtype.itemsize + records
    indices = 0 if rows.indices is None else rows.indices.nbytes
    numbers = sum(part.size for part in rows.parts)
    return numbers * dtype.itemsize + indices + len(rows) * rows.indptr.itemsize + records


def rows_where(rows: Rows, elements: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the rows (n,) with all numbers flagged, among flags in the shape of the numbers.

    Example:
        >>> rows_where(np.ones((2, 2)), np.array([[True, True], [True, False]]))
        array([ True, False])
    """
    flat: NDArray[np.bool_] = elements if elements.ndim == 1 else np.asarray(elements.all(axis=1))
    if not isinstance(rows, Ragged):
        return flat
    whole = np.ones(len(rows), np.bool_)
    whole[rows_with(rows, np.flatnonzero(~flat))] = False
    return whole


def rows_with(rows: Rows, elements: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the positions of the rows that have elements at some positions, ascending.

    Example:
        >>> rows_with(Ragged(np.ones((4, 2)), np.array([0, 1, 1, 4])), np.array([2, 3]))
        array([2])
    """
    if not isinstance(rows, Ragged):
        return elements
    return np.unique(np.searchsorted(rows.indptr, elements, side="right") - 1)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, in their order. There is at least one part, and all have one form.

    The numbers have a dtype that holds all of them.
    """
    first = parts[0]
    if not isinstance(first, Ragged):
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    ragged = [part for part in parts if isinstance(part, Ragged)]
    columns = [part.indices for part in ragged if part.indices is not None]
    indices = np.concatenate(columns) if columns else None
    lengths = np.concatenate([part.lengths for part in ragged])
    dtype = np.result_type(*{part.dtype for part in ragged})
    arrays = [array.astype(dtype, copy=False) for part in ragged for array in part.parts]
    return Ragged(arrays, offsets_of(lengths), indices, first.columns)


def merged(rows: Rows, at: NDArray[np.bool_], others: Rows) -> Rows:
    """Return rows, those at the flags (n,) replaced by other rows in their order.

    The numbers have a dtype that holds both. Dense rows are changed in place if they have it.
    """
    dtype = np.result_type(rows.dtype, others.dtype)
    if not isinstance(rows, Ragged):
        rows = rows.astype(dtype, copy=False)
        rows[at] = others
        return rows
    order = np.arange(len(rows))
    order[at] = len(rows) + np.arange(len(others))
    return joined([rows.astype(dtype, copy=False), others.astype(dtype, copy=False)])[order]


def blank(count: int, like: Rows | None, dim: int, dtype: Any) -> Rows:
    """Return rows for vectors that are not there: zeros (count, dim), or rows without elements.

    Args:
        count: how many rows.
        like: rows of the form that is wanted; None for dense rows.
        dim: numbers in a vector of dense rows.
        dtype: the dtype of the numbers.
    """
    if not isinstance(like, Ragged):
        return np.zeros((count, dim), dtype)
    none = like[:0].astype(dtype)
    return Ragged(none.data, np.zeros(count + 1, np.int64), none.indices, none.columns)
