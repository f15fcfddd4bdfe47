"""Indexes saved in the directory of a cache.

A file ``search-<made of>-<rows>-<replaced>.faiss`` is what FAISS writes, then the SHA-256 of these bytes,
which FAISS does not read. ``made of`` is 12 hex digits, a digest of the cache's uuid and the settings of the
index. ``rows`` is how many rows of the cache the index covers, ``replaced`` how many of these it leaves out.
In a cache that was compacted, its generation stands before ``.faiss``. A compaction removes these files.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dejavec import _core
from dejavec.search.metric import import_faiss

_NAME = re.compile(
    r"search-(?P<made_of>[0-9a-f]{12})-(?P<rows>\d+)-(?P<replaced>\d+)(\.(?P<generation>\d+))?\.faiss"
)
_DIGEST_BYTES = hashlib.sha256().digest_size
_BLOCK_BYTES = 1 << 20
_LOCK_SECONDS = 60.0
_BINARY = b"IB"
"""The first bytes of a binary index of FAISS."""


@dataclass(frozen=True)
class IndexFile:
    """One saved index.

    Attributes:
        directory: the directory of the cache.
        made_of: 12 hex digits, a digest of the cache's uuid and the settings of the index.
        rows: how many rows of the cache it covers.
        replaced: how many of these it leaves out.
        generation: how often the cache was compacted when the rows were read.
    """

    directory: Path
    made_of: str
    rows: int
    replaced: int
    generation: int

    @property
    def path(self) -> Path:
        """The file."""
        name = f"search-{self.made_of}-{self.rows}-{self.replaced}.faiss"
        return self.directory / _core.file_in_generation(name, self.generation)

    def read(self) -> Any | None:
        """Return the index; None if the file cannot be read, or its SHA-256 does not match."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
                if size < 0 or _digest(file, size) != file.read():
                    return None
                file.seek(0)
                is_binary = file.read(2) == _BINARY
            faiss = import_faiss()
            if is_binary:
                return faiss.read_index_binary(os.fspath(self.path))
            index = faiss.read_index(os.fspath(self.path))
        except (OSError, RuntimeError):
            return None
        # FAISS has a flag to read without this table, but it also drops the tables of residual quantisers.
        drop_table(index)
        return index

    def write(self, index: Any) -> None:
        """Write the index, completely or not at all, and remove older files with the same ``made_of``.

        If another process is writing such a file, or compacted the cache meanwhile, nothing is done.

        Raises:
            OSError: the index cannot be written.
            RuntimeError: FAISS cannot write the index.
        """
        # One name for all writers: a crashed writer's file is unlocked, so the next writer reuses it.
        name = _core.file_in_generation(f"search-{self.made_of}.tmp", self.generation)
        temporary = self.directory / name
        with temporary.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), temporary.stat()):
                    return
            except (BlockingIOError, FileNotFoundError):
                return
            try:
                shutil.copymode(self.directory / "meta.json", temporary)
                faiss = import_faiss()
                write = (
                    faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
                )
                write(index, os.fspath(temporary))
                file.write(_digest(file, os.fstat(file.fileno()).st_size))
                file.flush()
                os.fsync(file.fileno())
                # A compaction holds this lock until the old rows are gone from all files.
                _core.under_writers_lock(
                    str(self.directory),
                    lambda: self._put_in_place(temporary),
                    lock_timeout=_LOCK_SECONDS,
                    allow_network=True,
                )
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        for other in saved_indexes(self.directory, self.made_of, self.generation):
            if other != self and other.rows <= self.rows:
                other.path.unlink(missing_ok=True)

    def _put_in_place(self, temporary: Path) -> None:
        """Rename the temporary file, or remove it if the cache was compacted since the rows were read."""
        if _core.generation(str(self.directory)) == self.generation:
            temporary.replace(self.path)
        else:
            temporary.unlink(missing_ok=True)


def saved_indexes(directory: Path, made_of: str, generation: int) -> list[IndexFile]:
    """Return the saved indexes of a generation with this ``made_of``, most rows first."""
    paths = list(directory.glob(f"search-{made_of}-*.faiss"))
    names = [name for path in paths if (name := _NAME.fullmatch(path.name))]
    files = [
        IndexFile(directory, made_of, int(name["rows"]), int(name["replaced"]), generation)
        for name in names
        if int(name["generation"] or 0) == generation
    ]
    return sorted(files, key=lambda file: file.rows, reverse=True)


def drop_table(index: Any) -> None:
    """Drop the table of distances that FAISS precomputes for product-quantised lists.

    The table takes a KiB for each list and each part of a vector, often several times the size of the index,
    and saves a search little time. The results are the same without it.
    """
    faiss = import_faiss()
    inverted = faiss.downcast_index(faiss.try_extract_index_ivf(index))
    if isinstance(inverted, faiss.IndexIVFPQ):
        inverted.use_precomputed_table = -1
        inverted.precompute_table()


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 of the first ``size`` bytes of a file. The file position is then behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.digest()
