"""Find the directories below one that hold a cache, or something else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from dejavec.errors import CacheNotFoundError, StorageError
from dejavec.storage.deletions import DIRECTORY as SHARED

META = "meta.json"
_OTHERS = re.compile(r"commit(\.\d+)?|keys(\.\d+)?\.bin")


def caches_below(directory: Path, unreadable: list[str] | None = None) -> list[Path]:
    """Return all directories with a cache, at and below this one; ``unreadable`` is explained below.

    Raises:
        CacheNotFoundError, StorageError: see :func:`directories_below`.
    """
    return directories_below(directory, _is_cache, "a cache", unreadable)


def damaged_or_sound_caches_below(directory: Path, unreadable: list[str]) -> list[Path]:
    """Do what :func:`caches_below` does, and return directories whose ``meta.json`` is missing, too."""
    return directories_below(
        directory,
        lambda path: _is_cache(path) or sum(_is_ours(file) for file in path.iterdir()) > 1,
        "a cache",
        unreadable,
    )


def directories_below(
    directory: Path, holds: Callable[[Path], bool], what: str, unreadable: list[str] | None = None
) -> list[Path]:
    """Return all directories at and below one that hold something, sorted. Links are not followed.

    Args:
        directory: the directory to search.
        holds: returns whether a directory counts.
        what: how messages name the thing.
        unreadable: receives a message for each unreadable directory; None: that is an error.

    Raises:
        CacheNotFoundError: no directory counts.
        StorageError: a directory cannot be read.
    """

    def refuse(error: OSError) -> None:
        refused = StorageError(
            f"{error.filename}: could not be read: {error.strerror}",
            remedy="mend its permissions",
            path=error.filename,
        )
        if unreadable is None or str(error.filename) == str(directory):
            raise refused from error
        unreadable.append(str(refused))

    found = []
    for path, below, _ in os.walk(directory, onerror=refuse):
        # The index of a shared cache belongs to it.
        below[:] = [name for name in below if name != SHARED]
        if holds(Path(path)):
            found.append(Path(path))
    found.sort()
    if not found and not unreadable:
        raise CacheNotFoundError(directory, expected=what, found="none", remedy="check the path")
    return found


def _is_cache(path: Path) -> bool:
    # Other programs also have files named meta.json.
    return (path / META).is_file() and any(map(_is_ours, path.iterdir()))


def _is_ours(file: Path) -> bool:
    return _OTHERS.fullmatch(file.name) is not None
