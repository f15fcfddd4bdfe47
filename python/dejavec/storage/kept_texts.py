"""The texts beside the rows as a column."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.vectors.ragged import offsets_of


def column_of(data: bytes, lengths: NDArray[np.int64]) -> Any:
    """Return texts as a ``pyarrow.LargeStringArray``, or as a list without pyarrow.

    Args:
        data: the texts, one after the other, as UTF-8 with ``surrogatepass``.
        lengths: the length of each in bytes (n,), -1 for none.

    Example:
        >>> column_of(b"onetwo", np.array([3, -1, 3, 0])).to_pylist()
        ['one', None, 'two', '']
    """
    try:
        import pyarrow as pa
    except ImportError:
        return list_of(data, lengths)
    offsets = offsets_of(np.maximum(lengths, 0))
    column = pa.LargeStringArray.from_buffers(
        len(lengths),
        pa.py_buffer(offsets),
        pa.py_buffer(data),
        pa.py_buffer(np.packbits(lengths >= 0, bitorder="little")),
    )
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array(list_of(data, lengths, "strict"), pa.large_string())
    return column


def list_of(
    data: bytes, lengths: NDArray[np.int64], errors: Literal["surrogatepass", "strict"] = "surrogatepass"
) -> list[str | None]:
    """Return texts as a list; None for no text, and with ``"strict"`` for one with a lone surrogate."""
    offsets = offsets_of(np.maximum(lengths, 0)).tolist()
    there = (lengths >= 0).tolist()
    return [
        _decoded(data[start:end], errors) if has else None
        for (start, end), has in zip(pairwise(offsets), there, strict=True)
    ]


def _decoded(text: bytes, errors: str) -> str | None:
    """Return a text; None for bytes that are none."""
    try:
        return text.decode("utf-8", errors)
    except UnicodeDecodeError:
        return None
