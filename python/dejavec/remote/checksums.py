"""Checksums of rows and of files, by XXH3: fast enough not to be noticed beside a transfer."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.vectors.ragged import Ragged, Rows

Checksums = NDArray[np.uint64]
"""One checksum for each row (n,)."""


def file_digest(header: Any, data: Any) -> str:
    """Return the digest of a data file.

    It is the SHA-256 over the XXH3 (128 bits) of the header, and of each block of 4 MiB of the data.

    Args:
        header: the first 128 bytes of the file.
        data: the bytes behind it.

    Example:
        >>> file_digest(b"header", b"rows")[:12]
        'eca3adb4364a'
    """
    arrays = [np.frombuffer(memoryview(part).cast("B"), np.uint8) for part in (header, data)]
    return hashlib.sha256(b"".join(_core.fingerprint_blocks(arrays))).hexdigest()


def row_checksums(rows: Rows) -> Checksums:
    """Return the checksum of each row's bytes (n,): the first 8 bytes of its XXH3 (128 bits), little-endian.

    The checksum of a sparse row is that of its numbers, exclusive-or the last 8 bytes of the XXH3 of its
    indices.

    Example:
        >>> one, other = row_checksums(np.eye(2, dtype=np.float32))
        >>> bool(one != other)
        True
    """
    if not isinstance(rows, Ragged):
        size = rows.itemsize * (rows.shape[1] if rows.ndim == 2 else 1)
        return _halves(rows, np.arange(1, len(rows) + 1, dtype=np.int64) * size)[:, 0]
    size = rows.data.itemsize * (rows.data.shape[1] if rows.data.ndim == 2 else 1)
    checksums = _halves(rows.data, rows.indptr[1:] * size)[:, 0]
    if rows.indices is not None:
        checksums = checksums ^ _halves(rows.indices, rows.indptr[1:] * rows.indices.itemsize)[:, 1]
    return checksums


def _halves(data: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the two halves of the XXH3 of each row (n, 2)."""
    found = np.empty((len(ends), 16), np.uint8)
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    _core.fingerprint_rows(flat, np.ascontiguousarray(ends), found)
    return found.view("<u8").astype(np.uint64)
