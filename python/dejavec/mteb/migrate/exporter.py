"""Export of caches in the format of mteb's own cache."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dejavec.errors import (
    DejavecError,
    ForeignDirectoryError,
    StorageError,
    VectorsError,
)
from dejavec.mteb.migrate.old_files import BLOCK_BYTES
from dejavec.storage.find import caches_below
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.durable import sync_directory
from dejavec.support.mteb_files import DIMENSION, INDEX, VECTORS

_META = "meta.json"
_SIBLING = re.compile("@[0-9a-f]{12}$")
_REMEDY = "choose another"


@dataclass(frozen=True)
class Exported:
    """The result of exporting one cache.

    Attributes:
        source: the directory of the cache.
        target: the new directory; None if the cache was left out.
        written: how many vectors were written.
        replaced: how many rows were left out because a later row has their key.
        dead: how many rows were left out because they are dead.
        damaged: how many rows were left out because of a checksum mismatch.
        dtype: the dtype of the cache; mteb's files are float32.
    """

    source: Path
    target: Path | None
    written: int = 0
    replaced: int = 0
    dead: int = 0
    damaged: int = 0
    dtype: str = ""


def export(
    source: Path, target: Path, *, progress: bool | None = None, dry_run: bool = False
) -> list[Exported]:
    """Write one cache, or all below a directory, for mteb's ``NumpyCache`` and ``TextVectorMap``.

    The export gets its final name when it is complete. The newest vector of each key is written, as float32.
    Keys of items with more than text are written too, since they look like other keys; mteb never looks them
    up. mteb has no siblings, ``<name>@<12 digits>``, so these are left out.

    Args:
        source: a cache, or the ``cache_path`` of a wrapper.
        target: a directory that is empty or does not exist.
        progress: whether to show a bar; None: on a terminal.
        dry_run: whether everything is read and counted, and nothing is written.

    Raises:
        CacheNotFoundError: there is no cache.
        ForeignDirectoryError: ``target`` is not empty, or lies in ``source``.
        VectorsError: float32 would round the numbers; nothing was written.
        StorageError: the files could not be written.
    """
    single = (source / _META).is_file()
    sources = [source] if single else caches_below(source)
    beside = [path for path in sources if any(map(_SIBLING.search, path.relative_to(source).parts))]
    sources = [path for path in sources if path not in beside]
    for path in sources:
        _refuse_inexact(path)
    if target.resolve().is_relative_to(source.resolve()):
        raise ForeignDirectoryError(
            target, expected=f"a directory apart from {source}", found="one in it", remedy=_REMEDY
        )
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise ForeignDirectoryError(
            target, expected="an empty directory or none", found="other files", remedy=_REMEDY
        )
    if dry_run:
        counted = [_write(path, None, target / path.relative_to(source), progress) for path in sources]
        return counted + [Exported(path, None) for path in beside]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=target.parent))
        try:
            exported = [
                _write(path, building / path.relative_to(source), target / path.relative_to(source), progress)
                for path in sources
            ]
            if target.exists():
                target.rmdir()
            building.rename(target)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        sync_directory(target.parent)
    except DejavecError:
        raise
    except OSError as error:
        raise StorageError(
            f"{target}: could not be written: {error}",
            remedy="free space or mend the permissions, then run again",
            path=target,
        ) from error
    return exported + [Exported(path, None) for path in beside]


def _refuse_inexact(path: Path) -> None:
    with KeyedCache(path, mode="r") as cache:
        if cache.dtype is not None and not np.can_cast(cache.dtype, np.float32, "safe"):
            raise VectorsError(
                path,
                expected="vectors that float32 holds exactly",
                found=str(cache.dtype),
                remedy="leave them out: mteb keeps float32 only, so these cannot be exported",
            )
        if cache.output is not None and cache.output.family != "dense":
            raise VectorsError(
                cache.path,
                expected="dense vectors",
                found=f"{cache.output.family} ones",
                remedy="leave them out: mteb's cache keeps one vector of one length for each item",
            )


def _write(source: Path, directory: Path | None, target: Path, progress: bool | None) -> Exported:
    """Write one cache below the directory that is being built; without one, count its rows."""
    from tqdm import tqdm

    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    with KeyedCache(source, mode="r") as cache:
        newest = cache.is_newest()
        keys = cache.keys()[: len(newest)]
        dim = cache.dim or 0
        live = keys.any(axis=1)
        rows = np.flatnonzero(newest)
        written = damaged = 0
        size = max(1, BLOCK_BYTES // max(1, dim * np.dtype(np.float32).itemsize))
        with (
            _open(directory, VECTORS, "wb") as vectors_file,
            _open(directory, INDEX, "w") as index_file,
            tqdm(
                total=len(rows),
                desc=source.name,
                unit="vector",
                disable=None if progress is None else not progress,
            ) as bar,
        ):
            index_file.write("{")
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                vectors, failed = cache.gather(keys[block], block)
                sound = np.ones(len(block), np.bool_)
                sound[failed] = False
                vectors_file.write(np.asarray(vectors[sound], "<f4").tobytes())
                for row in block[sound].tolist():
                    index_file.write(f'{"," if written else ""}\n  "{keys[row].tobytes().hex()}": {written}')
                    written += 1
                damaged += len(failed)
                bar.update(len(block))
            index_file.write("\n}" if written else "}")
            if directory is not None:
                (directory / DIMENSION).write_text(str(dim))
                for file in (vectors_file, index_file):
                    _sync(file)
        if directory is not None and not written:
            # mteb rejects an empty vectors.npy but accepts an empty directory.
            for name in (VECTORS, DIMENSION, INDEX):
                (directory / name).unlink()
        output = cache.output
    return Exported(
        source,
        target,
        written,
        int(live.sum()) - len(rows),
        len(keys) - int(live.sum()),
        damaged,
        "" if output is None else output.dtype,
    )


def _open(directory: Path | None, name: str, mode: str) -> IO[Any]:
    """Open a file to write it; without a directory, one that keeps nothing."""
    path = Path(os.devnull) if directory is None else directory / name
    return path.open(mode, encoding=None if "b" in mode else "ascii")


def _sync(file: IO[str] | IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
