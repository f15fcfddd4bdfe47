"""Convert the result of a model to rows, and rows back to the array kind of the model."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.support.warn import warn
from dejavec.vectors.columns import as_array_or_rows, is_list_of_lists

Kind = Literal["numpy", "torch", "list"]
"""NumPy arrays, torch tensors on the CPU, or lists of Python numbers."""

Container = Literal["npy", "faiss-l2", "faiss-ip"]
"""The format of the rows: ``vectors.npy``, or ``vectors.faiss``, a FAISS flat index of this metric."""

Rows = NDArray[Any]
"""Vectors as stored: (n, dim), C-contiguous, little-endian."""

_STORABLE = ("<f2", "<f4", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "|b1")
FLOAT32_HOLDS = ("float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "bool")
"""Names of dtypes that float32 holds exactly."""

_LOST = {"float64": "half of its digits"}
"""The loss if float32 stores a dtype, except for larger integers."""

_REMEDY = "give one 2-D array of numbers with a row for each text"


@dataclass(frozen=True)
class Output:
    """The array kind that a model returns.

    Attributes:
        library: ``"numpy"``, ``"torch"``, or ``"list"`` for lists of Python numbers.
        dtype: the name of the dtype in that library; NumPy's for lists. ``"bfloat16"`` is stored as float32.
    """

    library: Kind
    dtype: str

    def to_json(self) -> str:
        """Return the form that is stored with the cache."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Output:
        """Read what :meth:`to_json` wrote."""
        fields = json.loads(text)
        return cls(fields["library"], fields["dtype"])


def to_rows(vectors: object, count: int | None, where: str) -> tuple[Rows, Output]:
    """Check the result of a model for ``count`` items, and convert it to the stored form.

    Args:
        vectors: a 2-D NumPy array, torch tensor or other array of numbers; a list, generator, dict values, or
            a pandas, polars or Arrow column of rows of equal length. Integers in lists of Python numbers
            become float64, as such lists have no dtype.
        count: how many rows are expected; None for any number.
        where: who returned the vectors, to begin an error message with.

    Returns:
        The rows (count, dim), C-contiguous and little-endian, without a copy if possible; and the array kind.

    Raises:
        VectorsError: another row count or number of dimensions, rows of different lengths, or a dtype that
            holds no numbers.

    Example:
        >>> rows, output = to_rows([[1.0, 2.0], [3.0, 4.0]], 2, "the model")
        >>> rows.shape, output
        ((2, 2), Output(library='list', dtype='float64'))
    """
    vectors = as_array_or_rows(vectors)
    if vectors is None or isinstance(vectors, str | bytes | Mapping | Awaitable):
        raise VectorsError(where, expected="an array (rows, dim)", found=found_type(vectors), remedy=_REMEDY)
    rows, output = _from_torch(vectors, where) or _from_array(vectors, where)
    if rows.dtype.str not in _STORABLE:
        raise VectorsError(
            where, expected="numbers of 1 to 8 bytes", found=f"dtype {rows.dtype}", remedy=_REMEDY
        )
    if rows.ndim != 2 or rows.shape[1] == 0:
        expected = "shape (rows, dim)" if count is None else f"shape ({count}, dim)"
        raise VectorsError(where, expected=expected, found=f"shape {rows.shape}", remedy=_REMEDY)
    if count not in (None, len(rows)):
        raise VectorsError(where, expected=f"{count} rows", found=f"{len(rows)}", remedy=_REMEDY)
    return np.ascontiguousarray(rows), output


def check_kind(rows: Rows, output: Output, dim: int, dtype: str, where: str) -> None:
    """Check that rows have the dimension and dtype of the stored ones.

    Args:
        rows: the rows from :func:`to_rows`.
        output: their array kind.
        dim: numbers in a stored vector.
        dtype: the :attr:`Output.dtype` of the stored vectors. The stored dtype is not enough, since bfloat16
            and float32 share it.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the rows do not fit.
    """
    if rows.shape[1] != dim:
        raise VectorsError(
            where,
            expected=f"dimension {dim}",
            found=f"{rows.shape[1]}",
            remedy="use another directory for another model",
        )
    if output.dtype != dtype:
        raise VectorsError(
            where,
            expected=f"dtype {dtype}",
            found=output.dtype,
            remedy="convert the vectors or use another directory",
        )


def convert_list(rows: Rows, output: Output) -> tuple[Rows, NDArray[np.bool_]]:
    """Convert rows of Python numbers to the dtype of the stored ones.

    Args:
        rows: float64, (n, dim).
        output: the array kind of the stored vectors.

    Returns:
        The converted rows, and which of them are exact (n,).

    Example:
        >>> rows, exact = convert_list(np.array([[0.5], [0.1]]), Output("numpy", "float32"))
        >>> rows.dtype, exact
        (dtype('float32'), array([ True, False]))
    """
    with np.errstate(all="ignore"):
        stored = rows.astype(np.float32 if output.dtype == "bfloat16" else output.dtype)
        same = (stored.astype(np.float64) == rows) | (np.isnan(rows) & (stored.dtype.kind == "f"))
    if output.dtype == "bfloat16":
        same &= stored.view(np.uint32) & 0xFFFF == 0
    return stored, same.all(axis=1)


def stored_dtype(rows: Rows, output: Output, container: Container, where: str) -> np.dtype[Any]:
    """Return the dtype in which a container stores rows: unchanged in ``vectors.npy``, otherwise float32.

    Args:
        rows: the rows from :func:`to_rows`.
        output: their array kind.
        container: the container.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the file is float32, which does not hold the dtype of the rows exactly.
    """
    if container == "npy":
        return rows.dtype
    if output.dtype not in FLOAT32_HOLDS:
        lost = _LOST.get(output.dtype, "integers above 16,777,216")
        raise VectorsError(
            where,
            expected="vectors that float32 holds exactly, as vectors.faiss does",
            found=f"{output.dtype}, of which it would lose {lost}",
            remedy='use NumpyCache, or accept the loss with FaissCache(directory, dtype="float32")',
        )
    return np.dtype("<f4")


def from_rows(rows: Rows, output: Output) -> Any:
    """Return stored rows in the array kind of the model.

    Args:
        rows: the rows (n, dim) or (dim,), writable, of a dtype that holds the output's exactly.
        output: the array kind.

    Returns:
        A NumPy array, or a torch tensor on the CPU, which shares the memory of ``rows`` if the dtype is the
        same; or a list. Without torch, a NumPy array in place of a tensor, with one warning.
    """
    if output.dtype != "bfloat16":
        rows = rows.astype(output.dtype, copy=False)
    if output.library == "list":
        return rows.tolist()
    if output.library == "numpy":
        return rows
    try:
        import torch
    except ImportError:
        _warn_of_torch()
        return rows
    if output.dtype == "bfloat16":
        # The upper half of a float32 is the bfloat16 it was made from: exact, NaN payloads included.
        upper = (rows.view("<u4") >> 16).astype(np.uint16)
        return torch.from_numpy(upper.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


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


def rounded(rows: Rows, output: Output) -> tuple[Rows, Output]:
    """Return rows in float32, and the array kind with that dtype. Too large numbers become infinite.

    Example:
        >>> rounded(np.array([[1e300, 2.0]]), Output("list", "float64"))
        (array([[inf,  2.]], dtype=float32), Output(library='list', dtype='float32'))
    """
    with np.errstate(over="ignore"):
        return rows.astype(np.float32, copy=False), replace(output, dtype="float32")


def nonfinite(rows: Rows) -> NDArray[np.intp]:
    """Return the positions of the rows that hold NaN or infinity.

    Example:
        >>> nonfinite(np.array([[1.0, 2.0], [3.0, np.nan]]))
        array([1])
    """
    if rows.dtype.kind != "f":
        return np.empty(0, np.intp)
    return np.flatnonzero(~np.isfinite(rows).all(axis=1))


def _from_torch(vectors: object, where: str) -> tuple[Rows, Output] | None:
    """Convert a tensor or a list of tensors; None if ``vectors`` is neither."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(vectors, list | tuple) and vectors and isinstance(vectors[0], torch.Tensor):
        try:
            vectors = torch.stack(tuple(vectors))
        except (RuntimeError, TypeError) as error:
            raise VectorsError(
                where, expected="rows of one length", found=f"a ragged list ({error})", remedy=_REMEDY
            ) from None
    if not isinstance(vectors, torch.Tensor):
        return None
    output = Output("torch", str(vectors.dtype).removeprefix("torch."))
    if vectors.layout is not torch.strided:
        raise VectorsError(where, expected="a dense tensor", found=f"layout {vectors.layout}", remedy=_REMEDY)
    try:
        dense = vectors.float() if vectors.dtype == torch.bfloat16 else vectors
        return dense.numpy(force=True), output
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


def _from_array(vectors: object, where: str) -> tuple[Rows, Output]:
    """Convert anything else that NumPy understands as one array."""
    if isinstance(vectors, np.ma.MaskedArray):
        raise VectorsError(where, expected="an array without a mask", found="a masked array", remedy=_REMEDY)
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
