"""Sparse embeddings of torch and SciPy, and rows with column numbers.

Entries stay as they are: zeros that are stored, and several entries of one column. Only their order may
change: entries of one row come together, in the order that they had.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import MissingPackageError, VectorsError
from dejavec.vectors.dtypes import dtype_name, is_dense_tensor, is_tensor, numbers_of
from dejavec.vectors.output import COO, CSR_ARRAY, Output
from dejavec.vectors.ragged import Ragged, offsets_of

COALESCED = "sparse_coo_coalesced"
"""The layout of such a tensor with sorted and unique entries, which is marked as coalesced."""

COO_ITEMS = "sparse_coo_items"
"""The layout of a list of torch COO tensors (columns,), one for each item."""

COALESCED_ITEMS = "sparse_coo_coalesced_items"
"""The layout of such a list whose tensors are coalesced."""

CSR = "sparse_csr"
"""The layout of a torch CSR tensor (n, columns). The layout of a SciPy array is the name of its class."""

_REMEDY = "give one sparse matrix (rows, columns) with a row for each text"


def is_sparse(vectors: object) -> bool:
    """Return whether this is a sparse tensor or array, or a list of sparse tensors (columns,)."""
    first = vectors[0] if isinstance(vectors, list | tuple) and vectors else vectors
    if is_tensor(first) and not is_dense_tensor(first):
        return True
    scipy = sys.modules.get("scipy.sparse")
    return scipy is not None and bool(scipy.issparse(vectors))


def from_sparse(vectors: Any, where: str) -> tuple[Ragged, Output]:
    """Convert what :func:`is_sparse` accepts.

    Args:
        vectors: a matrix (n, columns), or a list of n tensors (columns,).
        where: who returned the vectors, to begin an error message with.

    Raises:
        VectorsError: it has another shape or layout, or too many columns.
    """
    if is_tensor(vectors) or isinstance(vectors, list | tuple):
        return _from_torch(vectors, sys.modules["torch"], where)
    return _from_scipy(vectors, where)


def to_torch(rows: Ragged, output: Output, values: Any) -> Any:
    """Return rows as the torch tensors that the output describes.

    Args:
        rows: the rows.
        output: the array kind.
        values: the numbers of the rows as a tensor (elements,) of the output's dtype.
    """
    import torch

    # Columns are checked here. Without a choice, torch warns that it does not check.
    with torch.sparse.check_sparse_tensor_invariants(False):
        return _to_torch(rows, output, values, torch)


def _to_torch(rows: Ragged, output: Output, values: Any, torch: Any) -> Any:
    indices, shape = _columns_of(rows), (len(rows), rows.dim)
    if output.layout == CSR:
        index_dtype = getattr(torch, output.index_dtype or "int64")
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype(output.index_dtype or np.int64)),
            torch.from_numpy(indices).to(index_dtype),
            values,
            shape,
        )
    columns = torch.from_numpy(indices.astype(np.int64))
    # With None, torch marks tensors of less than two entries.
    coalesced = True if output.layout in (COALESCED, COALESCED_ITEMS) and _is_ascending(rows) else None
    if output.layout in (COO_ITEMS, COALESCED_ITEMS):
        bounds = rows.indptr.tolist()
        return [
            torch.sparse_coo_tensor(
                columns[None, start:end],
                values[start:end],
                (rows.dim,),
                is_coalesced=coalesced,
            )
            for start, end in pairwise(bounds)
        ]
    numbers = torch.from_numpy(np.repeat(np.arange(len(rows)), rows.lengths))
    return torch.sparse_coo_tensor(torch.stack([numbers, columns]), values, shape, is_coalesced=coalesced)


def to_scipy(rows: Ragged, output: Output) -> Any:
    """Return rows as a sparse array of SciPy: of the class that the output names, or a ``csr_array``.

    Raises:
        MissingPackageError: SciPy is not installed.
    """
    try:
        from scipy import sparse
    except ImportError:
        raise MissingPackageError(
            "sparse vectors",
            expected="the package scipy",
            found="none",
            remedy='install it, or pass output="torch"',
        ) from None
    index_dtype = np.dtype(output.index_dtype or "int32")
    indices, shape = _columns_of(rows), (len(rows), rows.dim)
    name = output.layout if output.library == "scipy" else CSR_ARRAY
    made = getattr(sparse, name)
    columns = indices.astype(index_dtype, copy=False)
    if name.startswith("coo"):
        numbers = np.repeat(np.arange(len(rows), dtype=index_dtype), rows.lengths)
        return made((rows.data, (numbers, columns)), shape=shape)
    plain = sparse.csr_array if name.endswith("array") else sparse.csr_matrix
    whole = plain((rows.data, columns, rows.indptr.astype(index_dtype)), shape=shape)
    return whole if name.startswith("csr") else made(whole)


def densified(one: Ragged, other: Ragged) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return sparse rows of the same items as dense arrays over the columns that either has.

    Several entries of one column are added.

    Example:
        >>> row = Ragged(np.array([2.0]), np.array([0, 1]), np.array([7], np.int32), 9)
        >>> densified(row, row)[0]
        array([[2.]])
    """
    parts = [part.indices if part.indices is not None else np.zeros(0, np.int32) for part in (one, other)]
    columns = np.unique(np.concatenate(parts))
    made = []
    for rows, indices in zip((one, other), parts, strict=True):
        dense = np.zeros((len(rows), len(columns)), np.float64)
        numbers = np.repeat(np.arange(len(rows)), rows.lengths)
        np.add.at(dense, (numbers, np.searchsorted(columns, indices)), rows.data)
        made.append(dense)
    return made[0], made[1]


def _from_torch(vectors: Any, torch: Any, where: str) -> tuple[Ragged, Output]:
    items = isinstance(vectors, list | tuple)
    if items:
        coalesced = _are_coalesced(vectors)
        try:
            vectors = torch.stack(tuple(vectors))
        except (RuntimeError, TypeError) as error:
            raise VectorsError(
                where, expected="sparse tensors of one length", found=str(error), remedy=_REMEDY
            ) from None
    vectors = vectors.detach().cpu()
    _check_shape(tuple(vectors.shape), where)
    if vectors.layout is torch.sparse_coo and vectors.dense_dim() == 0:
        if not items:
            coalesced = _are_coalesced([vectors])
        numbers, columns = vectors._indices().numpy()
        values, index_dtype = vectors._values(), "int64"
        layout = {
            (False, False): COO,
            (False, True): COALESCED,
            (True, False): COO_ITEMS,
            (True, True): COALESCED_ITEMS,
        }[items, coalesced]
        indptr, order = _by_row(numbers, len(vectors))
    elif vectors.layout is torch.sparse_csr:
        indptr, columns = vectors.crow_indices().numpy().astype(np.int64), vectors.col_indices().numpy()
        values, index_dtype, order, layout = vectors.values(), columns.dtype.name, None, CSR
    else:
        raise VectorsError(
            where, expected="a COO or CSR tensor of numbers", found=f"layout {vectors.layout}", remedy=_REMEDY
        )
    rows = _rows(numbers_of(values), columns, indptr, order, int(vectors.shape[1]))
    return rows, Output("torch", dtype_name(vectors), layout, index_dtype)


def _are_coalesced(tensors: Any) -> bool:
    """Return whether tensors are marked as coalesced. Torch marks all with less than two entries."""
    telling = [tensor for tensor in tensors if tensor.is_sparse and tensor._nnz() > 1]
    return len(telling) > 0 and all(tensor.is_coalesced() for tensor in telling)


def _from_scipy(vectors: Any, where: str) -> tuple[Ragged, Output]:
    _check_shape(vectors.shape, where)
    if vectors.format == "csr":
        indptr, order = vectors.indptr.astype(np.int64), None
        columns, values = vectors.indices, vectors.data
    else:
        triples = vectors.tocoo()
        columns, values = triples.col, triples.data
        indptr, order = _by_row(triples.row, vectors.shape[0])
    rows = _rows(values, columns, indptr, order, int(vectors.shape[1]))
    return rows, Output("scipy", values.dtype.name, type(vectors).__name__, columns.dtype.name)


def _check_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) != 2 or not 0 < shape[1] <= np.iinfo(np.int32).max:
        raise VectorsError(where, expected="shape (rows, columns)", found=f"shape {shape}", remedy=_REMEDY)


def _by_row(numbers: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.intp] | None]:
    """Return where the entries of each row begin and end, and their order; None if they are in order."""
    lengths = np.bincount(numbers, minlength=count).astype(np.int64)
    ascending = len(numbers) < 2 or bool((numbers[1:] >= numbers[:-1]).all())
    return offsets_of(lengths), None if ascending else np.argsort(numbers, kind="stable")


def _rows(
    values: NDArray[Any],
    columns: NDArray[Any],
    indptr: NDArray[np.int64],
    order: NDArray[np.intp] | None,
    dim: int,
) -> Ragged:
    if order is not None:
        values, columns = values[order], columns[order]
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    start, end = indptr[0], indptr[-1]
    indices = np.ascontiguousarray(columns[start:end], np.int32)
    return Ragged(np.ascontiguousarray(values[start:end]), indptr - start, indices, dim)


def _columns_of(rows: Ragged) -> NDArray[np.int32]:
    """Return the column numbers of rows.

    Raises:
        VectorsError: one is no column. Such numbers make torch and SciPy read other memory.
    """
    columns = np.zeros(0, np.int32) if rows.indices is None else rows.indices
    if len(columns) and (columns.min() < 0 or columns.max() >= rows.dim):
        raise VectorsError(
            "the sparse rows",
            expected=f"columns below {rows.dim}",
            found=f"{columns.min()} to {columns.max()}",
            remedy="make them again",
        )
    return columns


def _is_ascending(rows: Ragged) -> bool:
    """Return whether the columns of each row are sorted and unique."""
    if rows.indices is None or len(rows.indices) < 2:
        return True
    rises = np.diff(rows.indices) > 0
    starts = rows.indptr[1:-1]
    rises[starts[(starts > 0) & (starts < len(rows.indices))] - 1] = True
    return bool(rises.all())
