"""Checks of arrays that a caller passes to a cache: vectors to store, and ``out`` arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from dejavec import _core
from dejavec.errors import VectorsError
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.columns import first_bad_row
from dejavec.vectors.output import Output, family_of
from dejavec.vectors.ragged import Rows
from dejavec.vectors.stored import convert_list, rounded


def fitting_rows(
    vectors: object,
    count: int,
    where: str,
    *,
    dim: int | None,
    stored: Output | None,
    dtype: Literal["float32"] | None,
    store_dtype: Literal["float16"] | None,
) -> tuple[Rows, Output]:
    """Return the vectors of ``count`` items as rows, lists of them in the dtype of the cache.

    Args:
        vectors: what :func:`dejavec.vectors.arrays.to_rows` takes.
        count: how many there have to be.
        where: what an error message begins with.
        dim: numbers in a vector of the cache; None before the first vector.
        stored: the kind of array of the cache; None before the first vector.
        dtype: ``"float32"`` rounds the vectors to it.
        store_dtype: ``"float16"`` rounds the stored numbers to it.

    Raises:
        VectorsError: they are no vectors, or are lists that the cache's dtype does not hold exactly.

    Example:
        >>> half = Output("numpy", "float16")
        >>> rows, output = fitting_rows(
        ...     [[0.5, 2.0]], 1, "put", dim=2, stored=half, dtype=None, store_dtype=None
        ... )
        >>> rows, output.library
        (array([[0.5, 2. ]], dtype=float16), 'list')
    """
    try:
        rows, output = to_rows(vectors, count, where)
    except VectorsError:
        parts = first_bad_row(vectors, count, dim)
        if parts is None:
            raise
        _, bad, found = parts
        raise VectorsError(
            where,
            expected="a vector of one length for each",
            found=f"{found} at position {bad}",
            remedy="leave it out; nothing was stored",
        ) from None
    rows, output = rounded(rows, output, dtype, store_dtype, where)
    is_list = output.library == "list" and store_dtype is None
    if stored is not None and is_list and output.dtype != stored.dtype:
        rows, exact = convert_list(rows, stored)
        if not exact.all():
            raise VectorsError(
                where,
                expected=f"lists that {stored.dtype} holds exactly",
                found=f"numbers that {stored.dtype} rounds at position {int(np.argmin(exact))}",
                remedy=f'convert them to {stored.dtype}, or pass dtype="float32" to store them rounded',
            )
        output = replace(output, dtype=stored.dtype)
    return rows, output


def check_out(out: object, count: int, store: _core.Store | None) -> None:
    """Check that ``count`` vectors can be put into an array.

    Args:
        out: C-contiguous and writable, (count, dim), of the stored dtype; of any dimension and dtype of
            numbers if there is no store yet.
        count: how many vectors.
        store: where they come from.

    Raises:
        VectorsError: they cannot.
    """
    if store is not None and family_of(store.container) != "dense":
        raise VectorsError(
            "out=",
            expected="a cache of dense vectors",
            found=f"a {store.container} one",
            remedy="leave it out",
        )
    dtype = "" if store is None else f"{np.dtype(store.dtype)} "
    expected = f"C-contiguous {dtype}({count}, {'dim' if store is None else store.dim}), writable"
    remedy = "make such an array"
    if not isinstance(out, np.ndarray):
        raise VectorsError("out=", expected=expected, found=type(out).__name__, remedy=remedy)
    if store is None:
        fits = out.ndim == 2 and len(out) == count and out.dtype.kind in "fiub"
    else:
        fits = out.shape == (count, store.dim) and out.dtype == np.dtype(store.dtype)
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        state = "" if out.flags.writeable else ", read-only"
        order = "" if out.flags.c_contiguous else ", not C-contiguous"
        found = f"{out.dtype} {out.shape}{order}{state}"
        raise VectorsError("out=", expected=expected, found=found, remedy=remedy)
