"""Small JSON files beside the caches: replaced as a whole, and read only if their checksum matches."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dejavec import _core
from dejavec.support.canonical import canonical_json

_VERSION = 1
_SHARED_DIRECTORY, _SHARED_FILE = 0o2770, 0o660
"""Modes of group-shared files; they must match the core's."""


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none, or its checksum does not match."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        content = record["content"]
        whole = record["version"] == _VERSION and record["sha256"] == _sha256(content)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return content if whole and isinstance(content, dict) else None


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object atomically.

    Raises:
        OSError: the file cannot be written.
        TypeError: the object is not JSON.
    """
    record = {"version": _VERSION, "sha256": _sha256(content), "content": content}
    _core.make_directories(str(path.parent), shared=False)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name[:100]}.tmp-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(record, file, sort_keys=True, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _share(Path(name))
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def update_record(path: Path, entry: str, content: Mapping[str, Any]) -> None:
    """Replace one entry of the JSON object in a file, and keep concurrent changes of other entries.

    Raises:
        OSError: the file cannot be written.
        TypeError: the entry is not JSON.
    """
    _core.make_directories(str(path.parent), shared=False)
    with locked(path):
        write_record(path, {**(read_record(path) or {}), entry: content})


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode("ascii")).hexdigest()


def _private(path: str, flags: int) -> int:
    # Do not follow a link, or block on a pipe.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _share(path: Path) -> None:
    """Make a file group-shared if its directory is."""
    if path.parent.stat().st_mode & _SHARED_DIRECTORY == _SHARED_DIRECTORY:
        path.chmod(_SHARED_FILE)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file. The system releases it if this process dies."""
    lock = path.with_name(f".{path.name}.lock")
    with open(lock, "ab", opener=_private) as file:
        with suppress(PermissionError):
            _share(lock)  # Another member of the group may own it.
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
