"""Tensors of torch without an import of torch, and dtypes by the names that NumPy and torch share."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

STORABLE = frozenset(
    {
        *("float16", "bfloat16", "float32", "float64", "bool"),
        *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    }
)
"""Names of the dtypes of numbers that are stored: those of 1 to 8 bytes."""


def dtype_name(array: Any) -> str:
    """Return the name of the dtype of a NumPy array or a tensor.

    Example:
        >>> dtype_name(np.zeros(2, ">f4"))
        'float32'
    """
    dtype = array.dtype
    return dtype.name if isinstance(dtype, np.dtype) else str(dtype).removeprefix("torch.")


def is_tensor(vectors: object) -> bool:
    """Return whether this is a tensor of torch, of any layout."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(vectors, torch.Tensor)


def is_dense_tensor(vectors: Any) -> bool:
    """Return whether this is a dense tensor of torch."""
    return is_tensor(vectors) and vectors.layout is sys.modules["torch"].strided


def has_mask(vectors: object) -> bool:
    """Return whether this is a masked array of NumPy, or a list with one. A conversion would drop the mask.

    Example:
        >>> has_mask([np.ones(2), np.ma.masked_less(np.ones(2), 0)])
        True
    """
    arrays = vectors if isinstance(vectors, list | tuple) else (vectors,)
    return any(isinstance(array, np.ma.MaskedArray) for array in arrays)


def numbers_of(tensor: Any) -> NDArray[Any]:
    """Return a dense tensor as a NumPy array on the CPU, bfloat16 as float32.

    Raises:
        RuntimeError, TypeError: NumPy has no such dtype.
    """
    wide = tensor.float() if dtype_name(tensor) == "bfloat16" else tensor
    numbers: NDArray[Any] = wide.numpy(force=True)
    return numbers
