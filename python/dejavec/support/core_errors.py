"""Errors of the Rust core as exceptions: the class of each kind, and what to do about it."""

from __future__ import annotations

import shlex
from pathlib import Path

from dejavec.errors import (
    CacheNotFoundError,
    ClosedCacheError,
    CorruptCacheError,
    DejavecError,
    ForeignDirectoryError,
    IdentityMismatchError,
    LockTimeoutError,
    NetworkFileSystemError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    StorageError,
    UnsupportedVersionError,
    VectorsError,
)

_RESTORE = (
    "restore it from a copy, or move the directory away and encode again: it cannot be rebuilt from the "
    "other files"
)

_KINDS: dict[str, tuple[type[DejavecError], str]] = {
    "io": (StorageError, "free space or correct the permissions, then run again; what was committed is kept"),
    "out_of_memory": (
        StorageError,
        "free memory, or raise the limits on it (ulimit -v, vm.max_map_count); what was committed is kept",
    ),
    "unmappable": (
        StorageError,
        "ask for vectors by their texts, or keep the cache on a file system whose files can be mapped",
    ),
    "corrupt": (CorruptCacheError, "run {repair}; rows that cannot be saved become misses"),
    "corrupt_meta": (CorruptCacheError, _RESTORE),
    "missing": (CorruptCacheError, _RESTORE),
    "missing_but_rebuildable": (
        CorruptCacheError,
        "run {repair}, which rebuilds it from the checksums of the rows",
    ),
    "mostly_damaged": (
        CorruptCacheError,
        "put the right files back if they belong to another cache, or run {forced_repair}",
    ),
    "not_found": (CacheNotFoundError, 'check the path, or open it with mode="a" and put vectors in'),
    "foreign": (ForeignDirectoryError, "choose an empty or a new directory"),
    "newer_version": (UnsupportedVersionError, "install a newer dejavec"),
    "identity_mismatch": (IdentityMismatchError, "open the cache again, or another directory"),
    "other_form": (VectorsError, "open the cache again, or another directory"),
    "mismatch": (VectorsError, "choose another directory for these vectors"),
    "argument": (VectorsError, "correct the argument"),
    "lock_timeout": (LockTimeoutError, "wait for that process or raise lock_timeout"),
    "remote": (
        NetworkFileSystemError,
        "keep the cache on a local disk, or pass allow_network=True (--allow-network) if no other machine "
        "writes it",
    ),
    "read_only": (ReadOnlyCacheError, 'open the cache with mode="a"'),
    "poisoned": (PoisonedWriterError, "open the cache again"),
    "replaced": (
        StorageError,
        "put these vectors again; sync or close a cache before its directory is moved",
    ),
    "closed": (ClosedCacheError, "open the cache again"),
}


def repair_command(cache: Path | str, *, forced: bool = False) -> str:
    """Return the shell command that repairs a cache."""
    return shlex.join(["dejavec", "verify", "--repair", *["--force"] * forced, str(cache)])


def exception(
    kind: str, message: str, path: str | None, expected: str | None, found: str | None
) -> DejavecError:
    """Return the exception for an error of the core.

    Args:
        kind: its ``kind()``.
        message: what is wrong.
        path: the file or directory concerned.
        expected: what was expected there.
        found: what was found instead.
    """
    error, remedy = _KINDS.get(kind, (StorageError, "run again"))
    if path is not None:
        cache = path if kind == "mostly_damaged" else Path(path).parent
        repair, forced = (f"`{repair_command(cache, forced=forced)}`" for forced in (False, True))
        remedy = remedy.replace("{repair}", repair).replace("{forced_repair}", forced)
    # The message already contains the expected and the found part.
    made = error(message, remedy=remedy, path=path)
    made.expected, made.found = expected, found
    return made
