"""The forms of vectors that are kept: the cache returns them in the same form."""

from __future__ import annotations

from typing import Any

import numpy as np

from dejavec.errors import VectorsError
from dejavec.vectors.arrays import check_form
from dejavec.vectors.dtypes import STORABLE, dtype_name, is_dense_tensor
from dejavec.vectors.multi_vector import are_items
from dejavec.vectors.sparse import is_sparse

NOT_VECTORS = "the model's output has no form that is kept"


def is_dense(vectors: Any) -> bool:
    """Return whether this is a plain array or dense tensor (n, dim) of numbers that can be stored.

    Example:
        >>> is_dense(np.zeros((2, 3))), is_dense(np.zeros((2, 3, 4))), is_dense([[1.0]])
        (True, False, False)
    """
    return (
        _is_plain(vectors) and vectors.ndim == 2 and vectors.shape[1] > 0 and dtype_name(vectors) in STORABLE
    )


def _is_plain(vectors: Any) -> bool:
    """Return whether this is an array of NumPy itself, or a dense tensor."""
    return type(vectors) is np.ndarray or is_dense_tensor(vectors)


def not_vectors(vectors: object) -> str | None:
    """Return why vectors are not stored; None if they are, and the same form can be returned.

    Dense vectors are a plain array or tensor (n, dim) of numbers. Multi-vector items are a list of such
    arrays, or one array (n, longest, dim) that is padded to its longest item. Sparse vectors are a tensor, or
    an array of SciPy.
    """
    if is_dense(vectors):
        return None
    if not is_sparse(vectors) and not are_items(vectors) and not _is_plain(vectors):
        return NOT_VECTORS
    try:
        check_form(vectors, "the model")
    except VectorsError:
        return NOT_VECTORS
    return None
