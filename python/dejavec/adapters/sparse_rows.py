"""Sparse vectors of frameworks, each a pair of columns and values, as one matrix of SciPy and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLUMNS = np.iinfo(np.int32).max
"""The columns of the matrix. A framework does not say how many there are, and empty ones cost nothing."""


class UnstorableError(Exception):
    """Vectors in a form that the cache does not hold. The adapter returns those of the original."""


def to_matrix(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> Any:
    """Return sparse vectors as a ``scipy.sparse.csr_array`` (n, :data:`COLUMNS`), entries in their order.

    Args:
        pairs: columns and values of each vector.

    Raises:
        UnstorableError: a column is too large or negative.
    """
    from scipy.sparse import csr_array

    columns = [np.asarray(pair[0], np.int64) for pair in pairs]
    values = [np.asarray(pair[1]) for pair in pairs]
    # An empty vector has no numbers, so its dtype says nothing.
    dtypes = [part.dtype for part in values if len(part)]
    dtype = np.result_type(*dtypes) if dtypes else np.dtype(np.float32)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(part) for part in columns])])
    whole = np.concatenate([*columns, np.zeros(0, np.int64)])
    if len(whole) and (whole.min() < 0 or whole.max() >= COLUMNS):
        raise UnstorableError(f"columns {whole.min()} to {whole.max()}")
    numbers = np.concatenate([*values, np.zeros(0, dtype)]).astype(dtype)
    return csr_array((numbers, whole, indptr), shape=(len(pairs), COLUMNS))


def from_matrix(matrix: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Yield columns and values of each row of a ``csr_array``."""
    for start, end in pairwise(matrix.indptr.tolist()):
        yield matrix.indices[start:end].astype(np.int64), matrix.data[start:end]
