"""Whether rows fit the stored ones, and the dtype in which they are stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.vectors.output import FLOAT32, Container, Output
from dejavec.vectors.ragged import Ragged, Rows, dim_of, rows_where, rows_with

FLOAT32_HOLDS = ("float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "bool")
"""Names of dtypes that float32 holds exactly."""

_LOST = {"float64": "half of its digits"}
"""The loss if float32 stores a dtype, except for larger integers."""

_BLOCK = 1 << 16
"""How many numbers are looked at together."""

_NAMES = {
    "dense": "vectors of one row each",
    "ragged": "multi-vector items (tokens, dim)",
    "sparse": "sparse vectors",
}


def check_kind(rows: Rows, output: Output, dim: int, stored: Output, where: str) -> None:
    """Check that rows have the form, dimension and dtype of the stored ones.

    Args:
        rows: the rows from :func:`dejavec.vectors.arrays.to_rows`.
        output: their array kind.
        dim: numbers in a stored vector.
        stored: the array kind of the stored vectors. The stored dtype is not enough, since bfloat16 and
            float32 share it.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the rows do not fit.
    """
    if output.family != stored.family:
        raise VectorsError(
            where,
            expected=_NAMES[stored.family],
            found=_NAMES[output.family],
            remedy="use another directory for other vectors",
        )
    if dim_of(rows) != dim:
        raise VectorsError(
            where,
            expected=f"dimension {dim}",
            found=f"{dim_of(rows)}",
            remedy="use another directory for another model",
        )
    if output.dtype != stored.dtype:
        raise VectorsError(
            where,
            expected=f"dtype {stored.dtype}",
            found=output.dtype,
            remedy="convert the vectors or use another directory",
        )


def convert_list(rows: Rows, output: Output) -> tuple[Rows, NDArray[np.bool_]]:
    """Convert rows of Python numbers to the dtype of the stored ones.

    Args:
        rows: float64, n of them.
        output: the array kind of the stored vectors.

    Returns:
        The converted rows, and which of them are exact (n,).

    Example:
        >>> rows, exact = convert_list(np.array([[0.5], [0.1]]), Output("numpy", "float32"))
        >>> rows.dtype, exact
        (dtype('float32'), array([ True, False]))
    """
    numbers = rows.data if isinstance(rows, Ragged) else rows
    with np.errstate(all="ignore"):
        stored = rows.astype(np.float32 if output.dtype == "bfloat16" else output.dtype)
        found = stored.data if isinstance(stored, Ragged) else stored
        same = (found.astype(np.float64) == numbers) | (np.isnan(numbers) & (found.dtype.kind == "f"))
    if output.dtype == "bfloat16":
        same &= found.view(np.uint32) & 0xFFFF == 0
    return stored, rows_where(rows, same)


def stored_dtype(rows: Rows, output: Output, container: Container, where: str) -> np.dtype[Any]:
    """Return the dtype in which a container stores rows: float32 in ``vectors.faiss``, unchanged elsewhere.

    Args:
        rows: the rows from :func:`to_rows`.
        output: their array kind.
        container: the container.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: the file is float32, which does not hold the dtype of the rows exactly.
    """
    if container not in FLOAT32:
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


def rounded(
    rows: Rows,
    output: Output,
    dtype: Literal["float32"] | None,
    store_dtype: Literal["float16"] | None,
    where: str,
) -> tuple[Rows, Output]:
    """Round rows as the user asked for.

    Args:
        rows: the rows.
        output: their array kind.
        dtype: ``"float32"`` makes that dtype of all vectors. Too large numbers become infinite.
        store_dtype: ``"float16"`` rounds the stored numbers. The array kind keeps its dtype.
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: float16 cannot hold a number, or the numbers are no floats.

    Example:
        >>> rounded(np.array([[1e300, 2.0]]), Output("list", "float64"), "float32", None, "the model")[0]
        array([[inf,  2.]], dtype=float32)
        >>> doubles = Output("numpy", "float64")
        >>> halves, output = rounded(np.array([[0.1]]), doubles, None, "float16", "the model")
        >>> halves, output.dtype
        (array([[0.1]], dtype=float16), 'float64')
    """
    with np.errstate(over="ignore"):
        if dtype is not None:
            rows, output = rows.astype(np.float32, copy=False), replace(output, dtype="float32")
        if store_dtype is None:
            return rows, output
        halves = rows.astype(np.float16, copy=False)
    remedy = 'leave store_dtype="float16" out'
    if rows.dtype.kind != "f":
        raise VectorsError(where, expected="floats", found=output.dtype, remedy=remedy)
    at = nonfinite(halves)
    lost = _finite(rows[at]) & ~_finite(halves[at]) if len(at) else at
    if len(lost) and lost.any():
        expected = "numbers up to 65,504, the largest of float16"
        raise VectorsError(where, expected=expected, found=f"{int(lost.sum())} larger ones", remedy=remedy)
    return halves, output


def nonfinite(rows: Rows) -> NDArray[np.intp]:
    """Return the positions of the rows that hold NaN or infinity.

    Example:
        >>> nonfinite(np.array([[1.0, 2.0], [3.0, np.nan]]))
        array([1])
    """
    if rows.dtype.kind != "f":
        return np.empty(0, np.intp)
    found, before = [np.empty(0, np.intp)], 0
    for part in rows.parts if isinstance(rows, Ragged) else (rows,):
        # In blocks that stay in the processor's cache, so that memory is read once.
        step = max(1, _BLOCK // max(1, part[:1].size))
        for at in range(0, len(part), step):
            finite = np.isfinite(part[at : at + step])
            if not finite.all():
                whole = finite.reshape(len(finite), -1).all(axis=1)
                found.append(before + at + np.flatnonzero(~whole))
        before += len(part)
    return rows_with(rows, np.concatenate(found))


def _finite(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(rows.data if isinstance(rows, Ragged) else rows))
