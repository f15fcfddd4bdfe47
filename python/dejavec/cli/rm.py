"""``dejavec rm``: deletes texts from a cache, or the cache."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from dejavec import _core
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.table_file import TableFile
from dejavec.cli.verb import COLUMN, DRY_RUN, PathType, path_argument, verb
from dejavec.cli.writable import open_to_change
from dejavec.errors import StorageError
from dejavec.identity.proven import FILE as PROVEN
from dejavec.keys.items import text_keys
from dejavec.storage.deletions import DIRECTORY as SHARED
from dejavec.storage.find import META
from dejavec.storage.summary import size_text

_LOCK = "LOCK"
"""The file with the writers' lock."""

_PATIENCE = 5.0
"""Seconds to wait for a process that is writing."""

_RECORD_LOCK = f".{PROVEN}.lock"
"""The lock beside the record of proven models. The core does not know it."""


@dataclass(frozen=True)
class Removed:
    """What was deleted.

    Attributes:
        cache: the directory.
        texts: how many texts were given; null without --texts.
        rows: how many texts were cached, and are deleted; with --dry-run, would be.
        bytes: the size of the deleted files; null with --texts.
    """

    cache: Path
    texts: int | None
    rows: int
    bytes: int | None


@verb("rm", document=Removed, kept="what was deleted stays deleted; run it again for the rest", reads=True)
@path_argument("cache", "CACHE")
@click.option("--texts", type=PathType(), metavar="FILE", help="Delete the vectors of these texts.")
@COLUMN
@click.option("--yes", "-y", is_flag=True, help="Delete a whole cache without a question.")
@DRY_RUN
def command(*, cache: Path, texts: Path | None, column: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Delete texts from a cache, or the cache.

    Deletes the vectors of the texts in FILE, and the texts that are kept beside them: for every process, and
    after a power loss too. Their bytes stay in the files until `dejavec compact`. Without --texts, it deletes
    the files of CACHE; caches below it and other files stay. A process that is writing into CACHE is waited
    for, for some seconds.
    """
    if texts is None:
        removed = _remove_cache(cache, asked=yes or dry_run, dry_run=dry_run)
    else:
        removed = _remove_texts(cache, TableFile(texts, column), dry_run=dry_run)
    if as_json:
        print_json(removed)
        return 0
    done = "would be deleted" if dry_run else "deleted"
    if removed.bytes is not None:
        print(f"{cache}: {removed.rows:,} vectors {done}, {size_text(removed.bytes)}")
    else:
        print(f"{cache}: {removed.rows:,} of {removed.texts:,} texts {done}")
        if removed.rows and not dry_run:
            print(f"  their bytes stay in the files until: dejavec compact {cache}")
    return 0


def _remove_texts(cache: Path, table: TableFile, *, dry_run: bool) -> Removed:
    given = deleted = 0
    with (
        open_to_change(cache) as changed,
        opened(cache) as read,
        progress("delete", None, "texts") as advance,
    ):
        seen: set[bytes] = set()
        for texts in table.texts():
            given += len(texts)
            if dry_run:
                keys = text_keys(texts)
                rows = read.lookup(keys)
                seen.update(keys[at].tobytes() for at in np.flatnonzero(rows >= 0))
                deleted = len(seen)
            else:
                deleted += changed.delete(texts)
            advance(len(texts))
    return Removed(cache, given, deleted, None)


def _remove_cache(cache: Path, *, asked: bool, dry_run: bool) -> Removed:
    with opened(cache) as found:
        rows = len(found)
    files = [file for file in cache.iterdir() if _is_of_a_cache(file) and not file.is_dir()]
    size = sum(file.lstat().st_size for file in (*files, *_files_of_stores(cache)))
    if not asked:
        click.confirm(f"Delete {rows:,} vectors, {size_text(size)}, in {cache}?", abort=True, err=True)
    if not dry_run:
        # Writers wait meanwhile, and find no cache then. Deleting needs no lock that holds on other machines.
        _core.under_writers_lock(
            str(cache.absolute()), lambda: _delete(cache), lock_timeout=_PATIENCE, allow_network=True
        )
        # The caches below stay, and a cache that was made meanwhile.
        with suppress(OSError):
            cache.rmdir()
    return Removed(cache, None, rows, size)


def _delete(cache: Path) -> None:
    """Delete the files of a cache, under its lock."""
    try:
        # Listed again: a writer may have added some. The first one makes the directory no cache any more, and
        # whoever waits for the lock does so until the last one is gone.
        files = {file.name: file for file in cache.iterdir() if _is_of_a_cache(file) and not file.is_dir()}
        first, last = files.pop(META, None), files.pop(_LOCK, None)
        for file in (first, *files.values(), *_files_of_stores(cache), last):
            if file is not None:
                file.unlink(missing_ok=True)
        if (cache / SHARED).is_dir():
            shutil.rmtree(cache / SHARED)
    except OSError as error:
        raise StorageError(
            f"{cache}: could not be deleted: {error.strerror}",
            remedy="correct its permissions",
            path=cache,
        ) from error


def _files_of_stores(cache: Path) -> list[Path]:
    """Return what is known of the stores to which a cache was pushed."""
    return [file for file in (cache / SHARED).rglob("*") if file.is_file()]


def _is_of_a_cache(file: Path) -> bool:
    return _core.is_of_a_cache(file.name) or file.name == _RECORD_LOCK
