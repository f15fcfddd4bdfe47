"""The deletions of a shared cache that others have not been told of yet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.keys.items import Keys

DIRECTORY = ".remote"
"""The directory in a cache that is shared. It holds what is known of the object stores."""

_FILE = "deleted.keys"
_KEY_BYTES = 32


def share(cache: Path) -> Path:
    """Return the directory of a shared cache, which is made if it is missing."""
    directory = cache / DIRECTORY
    _core.make_directories(str(directory), shared=cache.stat().st_mode & 0o2070 == 0o2070)
    return directory


def note(cache: Path, keys: Keys) -> None:
    """Note durably that keys are about to be deleted, if the cache is shared."""
    directory = cache / DIRECTORY
    if not directory.is_dir() or not len(keys):
        return
    with open(directory / _FILE, "ab", opener=_private) as file:
        end = file.seek(0, os.SEEK_END)
        # A crash may have left part of a key. Zeros are no key.
        file.write(b"\0" * (-end % _KEY_BYTES) + np.ascontiguousarray(keys).tobytes())
        file.flush()
        os.fsync(file.fileno())


def noted(cache: Path, start: int = 0) -> tuple[Keys, int]:
    """Return the keys that were noted from a position on (n, 32), and the position behind them."""
    try:
        content = (cache / DIRECTORY / _FILE).read_bytes()
    except FileNotFoundError:
        content = b""
    count = len(content) // _KEY_BYTES
    keys: NDArray[np.uint8] = np.frombuffer(content, np.uint8, count * _KEY_BYTES).reshape(-1, _KEY_BYTES)
    return keys[min(start, count) :], count


def _private(path: str, flags: int) -> int:
    mode = 0o660 if Path(path).parent.stat().st_mode & 0o2070 == 0o2070 else 0o600
    return os.open(path, flags | os.O_NOFOLLOW, mode)
