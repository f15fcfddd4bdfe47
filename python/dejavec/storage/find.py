"""Which directories below one hold a cache, or something else that is looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dejavec.errors import CacheNotFoundError, StorageError

META = "meta.json"
_OTHERS = ("commit", "keys.bin")


def caches_below(directory: Path, unreadable: list[str] | None = None) -> list[Path]:
    """Return all directories at and below this one that hold a cache; ``unreadable`` as below.

    Raises:
        CacheNotFoundError, StorageError: see :func:`directories_below`.
    """
    return directories_below(directory, _is_cache, "a cache", unreadable)


def directories_below(
    directory: Path, holds: Callable[[Path], bool], what: str, unreadable: list[str] | None = None
) -> list[Path]:
    """Return, in order, all directories at and below one that hold something; links are not followed.

    Args:
        directory: where to begin.
        holds: tells whether a directory does.
        what: how a message names it.
        unreadable: takes what to say of directories that cannot be read; None: that is an error.

    Raises:
        CacheNotFoundError: there is none.
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

    found = sorted(Path(path) for path, _, _ in os.walk(directory, onerror=refuse) if holds(Path(path)))
    if not found and not unreadable:
        raise CacheNotFoundError(directory, expected=what, found="none", remedy="check the path")
    return found


def _is_cache(path: Path) -> bool:
    # Others have files named meta.json too.
    return (path / META).is_file() and any((path / name).exists() for name in _OTHERS)
