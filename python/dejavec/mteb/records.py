"""Small JSON files beside the caches: written whole, and read only if they are as they were written."""

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

from dejavec.identity import canonical_json

_VERSION = 1


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is none, or if a byte of it has changed since."""
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
    """Put a JSON object in the place of a file, all of it or nothing.

    Raises:
        OSError: it cannot be written.
        TypeError: it is not JSON.
    """
    record = {"version": _VERSION, "sha256": _sha256(content), "content": content}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(record, file, sort_keys=True, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def update_record(path: Path, entry: str, content: Mapping[str, Any]) -> None:
    """Replace one entry of the JSON object in a file, and keep those that other processes write meanwhile.

    Raises:
        OSError: it cannot be written.
        TypeError: the entry is not JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock")):
        write_record(path, {**(read_record(path) or {}), entry: content})


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode("ascii")).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes respect. The system releases it if this one dies."""
    with path.open("ab") as file:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
