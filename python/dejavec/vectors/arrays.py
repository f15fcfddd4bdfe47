"""Convert the result of a model to rows, and rows back to the array kind of the model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import VectorsError
from dejavec.support.warn import warn
from dejavec.vectors.columns import as_array_or_rows, is_list_of_lists
from dejavec.vectors.dtypes import STORABLE, dtype_name, has_mask, is_tensor, numbers_of
from dejavec.vectors.multi_vector import (
    are_items,
    check_items,
    check_padding,
    from_items,
    from_padded,
    padded,
)
from dejavec.vectors.output import PADDED, Output
from dejavec.vectors.ragged import Ragged, Rows
from dejavec.vectors.sparse import from_sparse, is_sparse, to_scipy, to_torch

_REMEDY = "give one 2-D array of numbers with a row for each text"


def to_rows(vectors: object, count: int | None, where: str) -> tuple[Rows, Output]:
    """Check the result of a model for ``count`` items, and convert it to the stored form.

    Args:
        vectors: a 2-D NumPy array, torch tensor or other array of numbers; a list, generator, dict values, or
            a pandas, polars or Arrow column of rows of equal length. Integers in lists of Python numbers
            become float64, as such lists have no dtype. For multi-vector embeddings a list of (tokens, dim)
            arrays, tensors or lists, or an array (n, longest, dim) padded with zeros. For sparse embeddings a
            sparse tensor of torch, a list of those, or a sparse array of SciPy.
        count: how many rows are expected; None for any number.
        where: who returned the vectors, to begin an error message with.

    Returns:
        The rows, without a copy if possible: dense (count, dim), C-contiguous and little-endian, or
        :class:`dejavec.vectors.ragged.Ragged`. And the array kind.

    Raises:
        VectorsError: another row count or number of dimensions, rows of different lengths, or a dtype that
            holds no numbers.

    Example:
        >>> rows, output = to_rows([[1.0, 2.0], [3.0, 4.0]], 2, "the model")
        >>> rows.shape, output.library, output.dtype
        ((2, 2), 'list', 'float64')
        >>> rows, output = to_rows([np.ones((3, 2)), np.ones((1, 2))], 2, "the model")
        >>> rows.indptr, output.layout
        (array([0, 3, 4]), 'items')
    """
    vectors = as_array_or_rows(vectors)
    other = isinstance(vectors, str | bytes | Mapping | Awaitable) and not is_sparse(vectors)
    if vectors is None or other:
        raise VectorsError(where, expected="an array (rows, dim)", found=found_type(vectors), remedy=_REMEDY)
    rows, output = _converted(vectors, where)
    if dtype_name(rows) not in STORABLE:
        raise VectorsError(
            where, expected="numbers of 1 to 8 bytes", found=f"dtype {rows.dtype}", remedy=_REMEDY
        )
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2 or rows.shape[1] == 0:
            expected = "shape (rows, dim)" if count is None else f"shape ({count}, dim)"
            raise VectorsError(where, expected=expected, found=f"shape {rows.shape}", remedy=_REMEDY)
        rows = np.ascontiguousarray(rows)
    elif rows.dim == 0:
        raise VectorsError(where, expected="vectors (tokens, dim)", found="dim 0", remedy=_REMEDY)
    if count not in (None, len(rows)):
        raise VectorsError(where, expected=f"{count} rows", found=f"{len(rows)}", remedy=_REMEDY)
    return rows, output


def check_form(vectors: Any, where: str) -> None:
    """Check that :func:`to_rows` takes vectors that are not dense, without a copy of them.

    Args:
        vectors: sparse vectors, multi-vector items, or an array or tensor (n, longest, dim).
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: it does not.
    """
    _refuse_masks(vectors, where)
    if is_sparse(vectors):
        to_rows(vectors, None, where)  # These are small.
    elif are_items(vectors):
        check_items(vectors, where)
    elif getattr(vectors, "ndim", 0) == 3 and vectors.shape[2] > 0 and dtype_name(vectors) in STORABLE:
        check_padding(vectors, where)
    else:
        raise VectorsError(where, expected="vectors", found=found_type(vectors), remedy=_REMEDY)


def to_dense_rows(vectors: object, count: int | None, where: str) -> tuple[NDArray[Any], Output]:
    """Do what :func:`to_rows` does, for vectors that have to be dense.

    Raises:
        VectorsError: also for multi-vector and sparse embeddings.
    """
    rows, output = to_rows(vectors, count, where)
    if isinstance(rows, Ragged):
        expected = "shape (rows, dim)" if count is None else f"shape ({count}, dim)"
        raise VectorsError(where, expected=expected, found=f"{output.family} vectors", remedy=_REMEDY)
    return rows, output


def from_rows(rows: Rows, output: Output) -> Any:
    """Return stored rows in the array kind of the model.

    Args:
        rows: the rows, writable, of a dtype that holds the output's exactly: dense (n, dim) or (dim,), or
            ragged.
        output: the array kind.

    Returns:
        A NumPy array, or a torch tensor on the CPU, which shares the memory of ``rows`` if the dtype is the
        same; or a list. Multi-vector embeddings are a list of such arrays, or one padded array, and sparse
        embeddings a sparse tensor or array. Without torch, NumPy arrays replace tensors, with one warning.
    """
    if not isinstance(rows, Ragged):
        return _from_dense(rows, output)
    if rows.indices is not None:
        if output.library == "torch" and _has_torch():
            return to_torch(rows, output, _from_dense(rows.data, output))
        return to_scipy(rows.astype(output.dtype.replace("bfloat16", "float32"), copy=False), output)
    if output.layout == PADDED:
        return _from_dense(padded(rows), output)
    if output.library == "list":
        return [item.tolist() for item in rows.astype(output.dtype, copy=False)]
    data = _from_dense(rows.data, output)
    if isinstance(data, np.ndarray):
        return list(Ragged(data, rows.indptr))
    return list(data.split(rows.lengths.tolist()))


def _from_dense(rows: NDArray[Any], output: Output) -> Any:
    """Return an array of numbers in the array kind of the model."""
    if output.dtype != "bfloat16":
        rows = rows.astype(output.dtype, copy=False)
    if output.library == "list":
        return _core.to_lists(rows) if rows.ndim == 2 else rows.tolist()
    if output.library != "torch" or not _has_torch():
        return rows
    import torch

    if output.dtype == "bfloat16":
        # The upper half of a float32 is the bfloat16 it was made from: exact, NaN payloads included.
        upper = (rows.astype(np.float32, copy=False).view("<u4") >> 16).astype(np.uint16)
        return torch.from_numpy(upper.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def _has_torch() -> bool:
    """Return whether torch is installed; warn once if not."""
    try:
        import torch  # noqa: F401
    except ImportError:
        _warn_of_torch()
        return False
    return True


@functools.cache
def _warn_of_torch() -> None:
    warn(
        "the vectors are torch tensors and torch is not installed, so NumPy arrays are returned",
        remedy='install torch, or pass output="numpy"',
    )


def found_type(vectors: object) -> str:
    """Return a text about a result that is no array of vectors."""
    if isinstance(vectors, Mapping):
        return f"a {type(vectors).__name__} with the keys {', '.join(map(str, list(vectors)[:5]))}"
    if isinstance(vectors, Coroutine):
        vectors.close()
        return "a coroutine (decorate async functions with @cached, and await those)"
    return "None" if vectors is None else f"a {type(vectors).__name__}"


def _converted(vectors: object, where: str) -> tuple[Rows, Output]:
    """Convert vectors of any kind, of any number and dtype."""
    _refuse_masks(vectors, where)
    if is_sparse(vectors):
        return from_sparse(vectors, where)
    if isinstance(vectors, list | tuple) and are_items(vectors):
        return from_items(vectors, where)
    rows, output = _from_torch(vectors, where) or _from_array(vectors, where)
    if rows.ndim == 3 and dtype_name(rows) in STORABLE:
        return from_padded(rows, output, where)
    return rows, output


def _refuse_masks(vectors: object, where: str) -> None:
    if has_mask(vectors):
        raise VectorsError(
            where, expected="arrays without a mask", found="a masked array", remedy="fill it: filled(0)"
        )


def _from_torch(vectors: Any, where: str) -> tuple[NDArray[Any], Output] | None:
    """Convert a tensor or a list of tensors (dim,); None if ``vectors`` is neither."""
    if isinstance(vectors, list | tuple) and vectors and is_tensor(vectors[0]):
        try:
            vectors = sys.modules["torch"].stack(tuple(vectors))
        except (RuntimeError, TypeError) as error:
            raise VectorsError(
                where, expected="rows of one length", found=f"a ragged list ({error})", remedy=_REMEDY
            ) from None
    if not is_tensor(vectors):
        return None
    output = Output("torch", dtype_name(vectors))
    try:
        return numbers_of(vectors), output
    except (RuntimeError, TypeError) as error:
        raise VectorsError(
            where,
            expected="numbers of 1 to 8 bytes",
            found=f"dtype {vectors.dtype} ({error})",
            remedy=_REMEDY,
        ) from None


def _dimensions(part: object) -> int:
    """Return how many dimensions a part of a tuple has, a list counting as one row."""
    return int(getattr(part, "ndim", isinstance(part, list | tuple)))


def _from_array(vectors: object, where: str) -> tuple[NDArray[Any], Output]:
    """Convert anything else that NumPy understands as one array."""
    if isinstance(vectors, tuple) and len(set(map(_dimensions, vectors))) > 1:
        found = f"a tuple of {', '.join(type(part).__name__ for part in vectors[:5])}"
        raise VectorsError(
            where, expected="one array of vectors", found=found, remedy="return the vectors alone"
        )
    try:
        rows = np.asarray(vectors)
    except (ValueError, TypeError) as error:
        raise VectorsError(
            where,
            expected="rows of one length",
            found=f"a ragged {type(vectors).__name__} ({error})",
            remedy=_REMEDY,
        ) from None
    rows = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    if rows.ndim == 2 and is_list_of_lists(vectors):
        if rows.dtype.kind in "iu":
            rows = rows.astype(np.float64)
        return rows, Output("list", rows.dtype.name)
    return rows, Output("numpy", rows.dtype.name)
