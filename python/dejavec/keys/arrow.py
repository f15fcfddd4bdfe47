"""Hash texts and media bytes in the Arrow buffers of a column, without copies."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dejavec import _core


@dataclass(frozen=True)
class ArrowTexts:
    """A column of texts or bytes in Arrow buffers.

    Attributes:
        chunks: pyarrow arrays of string, large_string or binary.
        indices: positions of the column's items among the items of all chunks; None for all in order.
    """

    chunks: list[Any]
    indices: NDArray[np.int64] | None

    def __len__(self) -> int:
        if self.indices is not None:
            return len(self.indices)
        return sum(len(chunk) for chunk in self.chunks)

    def digest(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the SHA-256 of each item (n, 32) and its length in bytes (n,), -1 for null.

        Raises:
            IndexError: an index is outside the chunks.
        """
        keys = np.empty((len(self), 32), np.uint8)
        chunks = [_buffers_of(chunk) for chunk in self.chunks if len(chunk)]
        rows = sum(len(chunk.lengths) for chunk in chunks)
        if self.indices is not None and len(self.indices):
            lowest, highest = int(self.indices.min()), int(self.indices.max())
            if not 0 <= lowest <= highest < rows:
                raise IndexError(f"expected indices below {rows}, found {lowest} to {highest}")
        # One call for all chunks, since mapped data sets have chunks of a thousand rows.
        _core.hash_arrow([(chunk.data, chunk.offsets) for chunk in chunks], self.indices, keys)
        lengths = np.concatenate([np.empty(0, np.int64), *(chunk.lengths for chunk in chunks)])
        return keys, lengths if self.indices is None else lengths[self.indices]


def arrow_texts(column: Any, indices: NDArray[np.int64] | None) -> ArrowTexts | None:
    """Return the buffers of an Arrow column of strings; None if it holds something else."""
    pyarrow = sys.modules["pyarrow"]
    types = pyarrow.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return None
    chunks = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    if types.is_dictionary(column.type):
        chunks, rows = _decoded(chunks, pyarrow)
        indices = rows if indices is None else rows[indices]
    if not (types.is_string(kind) or types.is_large_string(kind)):
        chunks = [chunk.cast(pyarrow.large_string()) for chunk in chunks]
    return ArrowTexts(chunks, indices)


def _decoded(chunks: list[Any], pyarrow: Any) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the dictionaries of encoded arrays, and the position of each item's text in them (n,).

    So each text is hashed once, and the column is never decoded in memory. Position 0 is a null.
    """
    if not chunks:
        return [], np.empty(0, np.int64)
    dictionaries = [pyarrow.array([None], chunks[0].type.value_type)]
    rows, start = [], 1
    for chunk in chunks:
        nowhere = chunk.indices.is_null().to_numpy(zero_copy_only=False)
        numbers = chunk.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        rows.append(np.where(nowhere, 0, numbers + start))
        dictionaries.append(chunk.dictionary)
        start += len(chunk.dictionary)
    return dictionaries, np.concatenate(rows)


def row_indices(dataset: Any) -> NDArray[np.int64] | None:
    """Return the table rows that a Hugging Face data set selects (n,); None for all in order."""
    if dataset._indices is None:
        return None
    indices: NDArray[np.int64] = dataset._indices.column(0).to_numpy().astype(np.int64)
    return indices


class _Buffers(NamedTuple):
    """An Arrow array: value buffer, offsets into it (n + 1,), and lengths of items (n,), -1 for null."""

    data: NDArray[np.uint8]
    offsets: NDArray[Any]
    lengths: NDArray[np.int64]


def _buffers_of(chunk: Any) -> _Buffers:
    _, offset_buffer, data_buffer = chunk.buffers()
    wide = sys.modules["pyarrow"].types.is_large_string(chunk.type)
    offsets: NDArray[Any] = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)
    # A slice shares the buffers of the whole array.
    offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
    lengths = np.diff(offsets).astype(np.int64)
    if chunk.null_count:
        lengths[chunk.is_null().to_numpy(zero_copy_only=False)] = -1
    data = np.frombuffer(b"" if data_buffer is None else data_buffer, np.uint8)
    return _Buffers(data, offsets, lengths)
