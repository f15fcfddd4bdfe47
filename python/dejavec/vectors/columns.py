"""Other forms of vectors: columns of data frames, lists of arrays, generators."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence, ValuesView
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_array_or_rows(vectors: object) -> object:
    """Return a column of vectors as an array (n, dim) if it is one in memory, else as a list of its rows.

    Args:
        vectors: a pandas, polars or Arrow column of lists or arrays, an object array, dict values or an
            iterator; anything else is returned as it is.
    """
    pandas, polars, pyarrow = (sys.modules.get(name) for name in ("pandas", "polars", "pyarrow"))
    if isinstance(vectors, np.ndarray):
        return list(vectors) if vectors.dtype == object and vectors.ndim == 1 else vectors
    if isinstance(vectors, Iterator | ValuesView):
        return list(vectors)
    if pandas is not None and isinstance(vectors, pandas.Series):
        return vectors.tolist() if vectors.dtype == object or "list" in str(vectors.dtype) else vectors
    if polars is not None and isinstance(vectors, polars.Series):
        return as_array_or_rows(vectors.to_numpy())
    if pyarrow is not None and isinstance(vectors, pyarrow.Array | pyarrow.ChunkedArray):
        return _from_arrow(vectors, pyarrow)
    return vectors


def is_list_of_lists(vectors: object) -> bool:
    """Return whether these are Python lists of Python numbers, as JSON has them.

    Example:
        >>> is_list_of_lists([[1.0, 2], [3, 4]]), is_list_of_lists([np.ones(2)])
        (True, False)
    """
    return (
        isinstance(vectors, list | tuple)
        and len(vectors) > 0
        and all(isinstance(row, list | tuple) for row in vectors)
        and not isinstance(next(iter(vectors[0]), None), np.generic | np.ndarray)
    )


def first_bad_row(vectors: object, count: int, dim: int | None) -> tuple[list[int], int, str] | None:
    """Find the first row that is no vector.

    Args:
        vectors: rows.
        count: how many there should be.
        dim: numbers in a vector; None if it is not known, so that most rows decide.

    Returns:
        Which rows are vectors of one dimension; the first other row, and a text about it. None if all rows
        are bad, or their number is wrong.
    """
    rows = as_array_or_rows(vectors)
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes) or len(rows) != count:
        return None
    sizes = [_size(row) for row in rows]
    known = Counter(size for size in sizes if size is not None)
    if not known:
        return None
    size = dim or known.most_common(1)[0][0]
    good = [at for at, found in enumerate(sizes) if found == size]
    bad = next((at for at, found in enumerate(sizes) if found != size), None)
    if not good or bad is None:
        return None
    return good, bad, _described(rows[bad], sizes[bad])


def _size(row: Any) -> int | None:
    """Return how many numbers a vector has; None if it is none."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(row, torch.Tensor):
        return int(row.numel()) if row.ndim == 1 else None
    try:
        array = np.asarray(row)
    except (ValueError, TypeError):
        return None
    return array.size if array.ndim == 1 and array.size and array.dtype.kind in "fiub" else None


def _described(row: Any, size: int | None) -> str:
    if size is not None:
        return f"a vector of {size:,} {'number' if size == 1 else 'numbers'}"
    text = repr(row)
    return text if len(text) <= 40 else f"{text[:39]}… ({type(row).__name__})"


def _from_arrow(column: Any, pyarrow: Any) -> object:
    """Return an Arrow column of lists as an array where all have one length."""
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pyarrow.ChunkedArray):  # Of no chunks, or more than one holds.
            return [row for chunk in column.chunks for row in chunk.to_pylist()]
    types = pyarrow.types
    lists = types.is_list(column.type) or types.is_large_list(column.type)
    if not lists and not types.is_fixed_size_list(column.type):
        return column
    if column.null_count or len(column) == 0 or not types.is_primitive(column.type.value_type):
        return column.to_pylist()
    sizes = column.value_lengths().to_numpy() if lists else [column.type.list_size]
    lengths: NDArray[np.int64] = np.asarray(sizes)
    values = column.flatten()
    if values.null_count or (lengths != lengths[0]).any() or lengths[0] == 0:
        return column.to_pylist()
    return values.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0]))
