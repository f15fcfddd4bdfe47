"""The files of mteb's own caches. They are checked strictly, and never changed.

``index.json`` maps keys to row numbers, in the order of insertion. A ``NumpyCache`` has ``dimension``, the
numbers in a row, and ``vectors.npy``: float32 numbers without a header, longer than the rows in use. A
``FaissCache`` has ``vectors.faiss``, a flat index of FAISS.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import CorruptCacheError
from dejavec.keys.items import Keys
from dejavec.storage.find import directories_below
from dejavec.support.mteb_files import DIMENSION, FAISS, INDEX, VECTORS, is_old_cache

REMEDY = "leave this cache out, or restore it from a copy"
"""The remedy for files that mteb cannot have written."""

BLOCK_BYTES = 16 << 20
"""Vectors are read in blocks of this size."""

_FLOAT = np.dtype("<f4")
_INDEX_BLOCK_BYTES = 1 << 20
_LONGEST_ENTRY = 1024
_LARGEST_DIM = 65_536
_FLAT_HEADER = struct.Struct("<4s i q 16x ? i q")
"""Kind, dimension, rows, whether the index is trained, metric, numbers."""

_FLAT_KINDS = (b"IxF2", b"IxFI")
_NUMPY_MAGIC = b"\x93NUMPY"
_DIGEST_DIGITS = 64
_ENTRY = re.compile(
    rb'[ \t\n\r]*"((?:[0-9a-f]{64}){1,4})"[ \t\n\r]*:[ \t\n\r]*(0|[1-9][0-9]{0,11})[ \t\n\r]*([,}])'
)
_ANY_ENTRY = re.compile(rb'[ \t\n\r]*"([^"\\]*)"[ \t\n\r]*:[ \t\n\r]*([^\s,{}\[\]"]+)[ \t\n\r]*[,}]')


@dataclass(frozen=True)
class Vectors:
    """A file of vectors.

    Attributes:
        name: the name of the file.
        start: the offset of the first row, in bytes.
        dim: numbers in a row; 0 if there is none.
        count: how many rows the file holds.
    """

    name: str
    start: int
    dim: int
    count: int


@dataclass(frozen=True)
class OldCache:
    """One cache of mteb. Its index was checked against its other files.

    Attributes:
        directory: the directory of the cache.
        vectors: the file of the vectors.
        keys: the keys of n entries that may be plain text, in the order of their rows (n, 32).
        rows: their row numbers (n,), ascending.
        shared: whether another entry has the same row number (n,).
        media: how many more entries have keys of images, audio or video.
        mixed: how many more entries of a ``FaissCache`` have a wrong row number.
        uncounted: whether the numbers of rows and keys of a ``FaissCache`` differ.
    """

    directory: Path
    vectors: Vectors
    keys: Keys
    rows: NDArray[np.int64]
    shared: NDArray[np.bool_]
    media: int
    mixed: int = 0
    uncounted: bool = False

    @property
    def dim(self) -> int:
        """Numbers in a vector; 0 if there is none."""
        return self.vectors.dim

    def __len__(self) -> int:
        return len(self.keys)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield slices of entries, and their vectors (k, dim).

        Raises:
            CorruptCacheError: the file has become shorter.
        """
        if len(self) == 0:
            return
        size = max(1, BLOCK_BYTES // (self.dim * _FLOAT.itemsize))
        with _open(self.directory / self.vectors.name) as file:
            for start in range(0, len(self), size):
                block = slice(start, min(start + size, len(self)))
                yield block, self._read(file, self.rows[block])

    def _read(self, file: BinaryIO, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors = np.empty((len(rows), self.dim), _FLOAT)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        start = 0
        for end in ends:
            file.seek(self.vectors.start + int(rows[start]) * self.dim * _FLOAT.itemsize)
            run = np.fromfile(file, _FLOAT, (end - start) * self.dim)
            if run.size != (end - start) * self.dim:
                path = self.directory / self.vectors.name
                raise CorruptCacheError(
                    path, expected=f"row {rows[end - 1]}", found="the end of the file", remedy=REMEDY
                )
            vectors[start:end] = run.reshape(-1, self.dim)
            start = end
        return vectors


def find_old_caches(directory: Path) -> list[Path]:
    """Return all directories with a cache of mteb, at and below this one.

    Raises:
        CacheNotFoundError, StorageError: see :func:`dejavec.storage.find.directories_below`.
    """
    return directories_below(directory, is_old_cache, "caches that mteb wrote")


def open_old_cache(directory: Path) -> OldCache:
    """Read and check the index of a cache.

    Raises:
        CorruptCacheError: a file is missing, or mteb cannot have written it.
    """
    keys, rows, places, media_rows = _read_index(directory / INDEX)
    entries = len(rows) + len(media_rows)
    if entries == 0:
        none = np.zeros(0, np.bool_)
        return OldCache(directory, Vectors(VECTORS, 0, 0, 0), keys, rows, none, 0)
    vectors = _find_vectors(directory)
    if vectors.name == FAISS:
        # FAISS rows are in the order of the entries. mteb's row numbers also count skipped duplicates, so an
        # entry is sound only if its number equals its position in the index.
        sound = (rows == places) & (rows < vectors.count)
        mixed = len(rows) - int(sound.sum())
        keys, rows = keys[sound], rows[sound]
        every = rows
    else:
        mixed = 0
        every = np.concatenate([rows, media_rows])
        if every.max() >= vectors.count:
            expected = f"rows below {vectors.count}, as {VECTORS} has"
            raise CorruptCacheError(
                directory / INDEX, expected=expected, found=f"row {every.max()}", remedy=REMEDY
            )
    order = np.argsort(rows, kind="stable")
    keys, rows = keys[order], rows[order]
    _refuse_equal_keys(directory / INDEX, keys)
    named, times = np.unique(every, return_counts=True)
    return OldCache(
        directory,
        vectors,
        keys,
        rows,
        np.isin(rows, named[times > 1]),
        len(media_rows),
        mixed=mixed,
        uncounted=vectors.name == FAISS and vectors.count != entries,
    )


def _find_vectors(directory: Path) -> Vectors:
    """Find the file of the vectors, and read its layout."""
    has_numpy, has_faiss = (os.path.lexists(directory / name) for name in (VECTORS, FAISS))
    if has_numpy and has_faiss:
        found = f"both, and nothing tells of which {INDEX} is"
        raise CorruptCacheError(directory, expected=f"{VECTORS} or {FAISS}", found=found, remedy=REMEDY)
    if has_faiss:
        return _read_flat_header(directory / FAISS)
    dim = _read_dimension(directory / DIMENSION)
    return Vectors(VECTORS, 0, dim, _count_rows(directory / VECTORS, dim))


def _read_flat_header(path: Path) -> Vectors:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_FLAT_HEADER.size)
    if len(header) < _FLAT_HEADER.size:
        raise CorruptCacheError(
            path, expected="the header of a flat index of FAISS", found=f"{len(header)} bytes", remedy=REMEDY
        )
    kind, dim, count, trained, _, numbers = _FLAT_HEADER.unpack(header)
    fits = 1 <= dim <= _LARGEST_DIM and count >= 0 and numbers == count * dim
    if kind not in _FLAT_KINDS or not trained or not fits:
        raise CorruptCacheError(
            path, expected="the header of a flat index of FAISS", found=f"{_shown(header)}", remedy=REMEDY
        )
    whole = _FLAT_HEADER.size + numbers * _FLOAT.itemsize
    if size != whole:
        raise CorruptCacheError(
            path, expected=f"{whole} bytes, as its header says", found=f"{size}", remedy=REMEDY
        )
    return Vectors(FAISS, _FLAT_HEADER.size, dim, count)


def _open(path: Path) -> BinaryIO:
    """Open a regular file for reading."""
    try:
        # Opening a pipe would block for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise CorruptCacheError(
            path, expected="a file", found=str(error.strerror or error), remedy=REMEDY
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptCacheError(path, expected="a file", found="something else", remedy=REMEDY)
    return os.fdopen(descriptor, "rb")


def _read_dimension(path: Path) -> int:
    with _open(path) as file:
        text = file.read(32)
    digits = text.strip()
    if not re.fullmatch(rb"[1-9][0-9]{0,4}", digits) or int(digits) > _LARGEST_DIM:
        raise CorruptCacheError(
            path,
            expected=f"a number from 1 to {_LARGEST_DIM}",
            found=repr(text.decode("ascii", "replace")),
            remedy=REMEDY,
        )
    return int(digits)


def _count_rows(path: Path, dim: int) -> int:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_NUMPY_MAGIC)) == _NUMPY_MAGIC:
            raise CorruptCacheError(
                path,
                expected="float32 numbers alone, as mteb writes",
                found="the header of a NumPy file",
                remedy=REMEDY,
            )
    row_bytes = dim * _FLOAT.itemsize
    if size % row_bytes:
        raise CorruptCacheError(
            path,
            expected=f"rows of {row_bytes} bytes, by the dimension {dim}",
            found=f"{size} bytes in all",
            remedy=REMEDY,
        )
    return size // row_bytes


def _read_index(path: Path) -> tuple[Keys, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Read entry by entry, so that a hostile file needs no more memory than a valid one of its size.

    Returns:
        Keys (n, 32), row numbers (n,) and positions (n,) of the entries with one digest; the row numbers of
        the other entries.
    """
    keys, rows, places, media_rows = bytearray(), array("q"), array("q"), array("q")
    with _open(path) as file:
        text = file.read(_INDEX_BLOCK_BYTES)
        empty = re.match(rb"[ \t\n\r]*\{[ \t\n\r]*\}", text)
        begin = empty or re.match(rb"[ \t\n\r]*\{", text)
        if begin is None:
            raise CorruptCacheError(
                path,
                expected="a JSON object of keys and rows",
                found=f"{_shown(text)} at byte 0",
                remedy=REMEDY,
            )
        position, offset, ended = begin.end(), 0, empty is not None
        while not ended:
            entry = _ENTRY.match(text, position)
            if entry is not None:
                position, ended = entry.end(), entry[3] == b"}"
                digest = entry[1].decode("ascii")
                if len(digest) == _DIGEST_DIGITS:
                    keys += bytes.fromhex(digest)
                    places.append(len(rows) + len(media_rows))
                    rows.append(int(entry[2]))
                else:
                    media_rows.append(int(entry[2]))
                continue
            more = b"" if len(text) - position > _LONGEST_ENTRY else file.read(_INDEX_BLOCK_BYTES)
            if not more:
                raise _not_an_entry(path, text[position:], offset + position)
            offset, text, position = offset + position, text[position:] + more, 0
        rest = text[position:] + file.read(_INDEX_BLOCK_BYTES)
    if rest.strip(b" \t\n\r"):
        raise CorruptCacheError(
            path,
            expected="the end of the file",
            found=f"{_shown(rest)} at byte {offset + position}",
            remedy=REMEDY,
        )
    return (
        np.frombuffer(keys, np.uint8).reshape(-1, 32),
        np.array(rows, np.int64),
        np.array(places, np.int64),
        np.array(media_rows, np.int64),
    )


def _not_an_entry(path: Path, text: bytes, offset: int) -> CorruptCacheError:
    """Return the error for the invalid entry at the beginning of ``text``."""
    entry = _ANY_ENTRY.match(text[:_LONGEST_ENTRY])
    if entry is None:
        found = "the end of the file" if len(text) < _LONGEST_ENTRY and b"}" not in text else _shown(text)
        return CorruptCacheError(
            path, expected="a key and a row", found=f"{found} at byte {offset}", remedy=REMEDY
        )
    if not re.fullmatch(rb"(?:[0-9a-f]{64}){1,4}", entry[1]):
        expected = "keys of 64 lower-case hexadecimal digits or a small multiple"
        return CorruptCacheError(
            path,
            expected=expected,
            found=f"{_shown(entry[1])} ({len(entry[1])} characters) at byte {offset}",
            remedy=REMEDY,
        )
    return CorruptCacheError(
        path, expected="row numbers", found=f"{_shown(entry[2])} at byte {offset}", remedy=REMEDY
    )


def _refuse_equal_keys(path: Path, keys: Keys) -> None:
    parts = keys.view("<u8")
    ordered = parts[np.lexsort(parts.T)]
    equal = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    if len(equal):
        raise CorruptCacheError(
            path, expected="each key once", found=f"{ordered[equal[0]].tobytes().hex()} twice", remedy=REMEDY
        )


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("ascii", "replace"))
