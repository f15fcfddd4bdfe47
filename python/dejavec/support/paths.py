"""Where a cache lies: one absolute directory, whatever the current directory becomes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST_NAME = 255
"""Bytes of a name that file systems allow."""

_KEPT = 160
"""Bytes that are kept of a name which is too long with what is appended to it."""


def local_directory(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a directory as an absolute path; ``~`` is the home directory.

    Args:
        path: the directory, there or not.
        name: what a message calls the argument.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, or an address on another machine.

    Example:
        >>> local_directory("embeddings").is_absolute()
        True
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected {name} to be a str or os.PathLike, found {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"expected {name} to be a path of str, found one of {type(text).__name__}")
    if not text:
        raise ValueError(f"expected {name} to be a directory, found ''; write '.' for the current one")
    if _URL.match(text):
        raise ValueError(
            f"expected {name} to be a directory on this machine, found {text!r}; use a local or mounted one"
        )
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - leaves the name of an unknown user


def with_suffix(path: Path, suffix: str) -> Path:
    """Return a path whose name ends with a suffix, which a name at the file system's limit leaves room for.

    Example:
        >>> with_suffix(Path("cache"), "@c5d9").name
        'cache@c5d9'
        >>> len(with_suffix(Path("x" * 255), "@c5d9").name)
        182
    """
    encoded = os.fsencode(path.name)
    if len(encoded) + len(os.fsencode(suffix)) <= _LONGEST_NAME:
        return path.with_name(path.name + suffix)
    kept = encoded[:_KEPT].decode(errors="ignore")
    return path.with_name(f"{kept}%{hashlib.sha256(encoded).hexdigest()[:16]}{suffix}")
