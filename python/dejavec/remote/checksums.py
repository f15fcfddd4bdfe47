"""Checksums of rows and of files, by XXH3: fast enough not to be noticed beside a transfer."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.vectors.ragged import Ragged, Rows

_ONE = 16
"""Bytes of the fingerprint of one block."""

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
    """Return the checksum of each row's bytes (n,): the first 8 bytes of its XXH3, little-endian.

    A row of more than 4 MiB has the first 8 bytes of the SHA-256 of the XXH3 of its blocks. The checksum of
    a sparse row is that of its numbers, exclusive-or the last 8 bytes of the XXH3 of its indices.

    Example:
        >>> one, other = row_checksums(np.eye(2, dtype=np.float32))
        >>> bool(one != other)
        True
    """
    if not isinstance(rows, Ragged):
        whole = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
        return _firsts(_core.fingerprint_blocks(list(whole)))
    checksums = _firsts(_core.fingerprint_blocks(_slices(rows.data, rows.indptr)))
    if rows.indices is not None:
        checksums ^= _firsts(_core.fingerprint_blocks(_slices(rows.indices, rows.indptr)), at=8)
    return checksums


def _slices(data: NDArray[Any], indptr: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    step = data.itemsize * (data.shape[1] if data.ndim == 2 else 1)
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return [flat[start:end] for start, end in pairwise((indptr * step).tolist())]


def _firsts(fingerprints: list[bytes], at: int = 0) -> Checksums:
    short = [one if len(one) == _ONE else hashlib.sha256(one).digest()[:_ONE] for one in fingerprints]
    halves = np.frombuffer(b"".join(short), "<u8").reshape(-1, 2)
    return halves[:, at // 8].astype(np.uint64)
