"""The texts beside the rows as a column."""

from __future__ import annotations

from typing import Any

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
    offsets = offsets_of(np.maximum(lengths, 0))
    bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), (lengths >= 0).tolist(), strict=True)
    try:
        import pyarrow as pa
    except ImportError:
        return [_decoded(data[start:end], "surrogatepass") if has else None for start, end, has in bounds]
    column = pa.LargeStringArray.from_buffers(
        len(lengths),
        pa.py_buffer(offsets),
        pa.py_buffer(data),
        pa.py_buffer(np.packbits(lengths >= 0, bitorder="little")),
    )
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        texts = [_decoded(data[start:end], "strict") if has else None for start, end, has in bounds]
        return pa.array(texts, pa.large_string())
    return column


def _decoded(text: bytes, errors: str) -> str | None:
    """Return a text; None for bytes that are none."""
    try:
        return text.decode("utf-8", errors)
    except UnicodeDecodeError:
        return None
