"""Absolute paths of caches, which do not depend on later changes of the current directory."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST_NAME = 255
"""The most bytes of a name in file systems."""

_KEPT = 160
"""Bytes that are kept of a name that would be too long with its suffix."""


def local_directory(path: str | os.PathLike[str], name: str = "path") -> Path:
    """Return a directory as an absolute path; ``~`` is the home directory.

    Args:
        path: the directory, which need not exist.
        name: how messages name the argument.

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
    """Return a path with a suffix after its name. A name that would be too long is shortened.

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
