"""The file names of mteb's own cache, and the error for such a cache in place of ours.

This module does not import mteb.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from dejavec.errors import ForeignDirectoryError

INDEX, VECTORS, DIMENSION, FAISS = "index.json", "vectors.npy", "dimension", "vectors.faiss"


def is_old_cache(directory: Path) -> bool:
    """Return whether mteb wrote a cache here, or a part of one."""
    names = ((INDEX,), (DIMENSION, VECTORS))
    return any(all(os.path.lexists(directory / name) for name in some) for some in names)


def old_cache_error(directory: Path, model: str | None) -> ForeignDirectoryError:
    """Return the error for a cache that mteb wrote.

    Args:
        directory: the directory of the cache.
        model: the expected model; None if that is unknown.
    """
    name = model or "name@revision"
    new = Path(f"{directory}-imported")
    command = ["dejavec", "import", str(directory), str(new), "--model"]
    command.append(name if "@" in name else f"{name}@revision")
    return ForeignDirectoryError(
        directory,
        expected="a dejavec cache or an empty directory",
        found="a cache that mteb wrote",
        remedy=f"run `{shlex.join(command)}`, with the model that made the vectors, and use {new}",
    )
