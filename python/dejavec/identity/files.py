"""The files of a model on this machine, which identify its weights before it is loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def model_files(places: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file in some places, by path.

    Args:
        places: files, and directories, of which hidden files do not count. Other paths have no files.

    Raises:
        OSError: a file cannot be read.
    """
    return {str(path): _sha256(path) for place in places for path in _files_below(place.absolute())}


def is_model(place: Path) -> bool:
    """Return whether a path is a file, or a directory with a configuration; a download cache is neither."""
    with suppress(OSError):  # The text is too long to be a path.
        return place.is_file() or any(place.glob("*.json"))
    return False


def _files_below(place: Path) -> Iterator[Path]:
    """Yield a file, or the files below a directory, except hidden ones, which loaders do not read."""
    with suppress(OSError):  # As above.
        if place.is_file():
            yield place
    for directory, below, names in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(directory) / name for name in sorted(names) if not name.startswith("."))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
