"""Every error and warning that dejavec raises: one tree, each also the builtin it resembles."""

from __future__ import annotations


class DejavecError(Exception):
    """Base of every error raised by dejavec.

    Attributes:
        path: the file or directory concerned, or None.
        expected: what was expected there, or None.
        found: what was found instead, or None.
        remedy: what to do about it, or None.
    """

    path: str | None
    expected: str | None
    found: str | None
    remedy: str | None

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.expected = expected
        self.found = found
        self.remedy = remedy


class StorageError(DejavecError, OSError):
    """The operating system refused a read, a write or a sync (disk full, no permission, I/O error)."""


class CorruptCacheError(DejavecError, OSError):
    """A file of the cache does not hold what its format demands."""


class ForeignDirectoryError(DejavecError, FileExistsError):
    """The directory holds files that are not dejavec's, so no cache is made there."""


class CacheNotFoundError(DejavecError, FileNotFoundError):
    """There is no cache in the directory."""


class UnsupportedVersionError(DejavecError, ValueError):
    """The cache was written by a newer format version."""


class IdentityMismatchError(DejavecError, ValueError):
    """The cache holds vectors of another model, revision, prompt or setting."""


class VectorsError(DejavecError, ValueError):
    """Vectors do not fit: wrong row count, number of dimensions, dimension or dtype."""


class NonFiniteVectorsError(VectorsError):
    """Vectors hold NaN or infinity and ``on_nonfinite="raise"`` was asked for."""


class ItemError(DejavecError, TypeError):
    """An item is not text."""


class MissingVectorsError(DejavecError, LookupError):
    """Items are not in the cache and ``miss="raise"`` was asked for."""


class SpotCheckError(DejavecError, ValueError):
    """A vector that is held is not what the model returns now."""


class UnconfirmedError(DejavecError, RuntimeError):
    """The model could not confirm cached vectors, and ``on_unconfirmed="raise"`` was asked for."""


class LockTimeoutError(DejavecError, TimeoutError):
    """Another process held the writers' lock for longer than ``lock_timeout`` seconds."""


class NetworkFileSystemError(DejavecError, OSError):
    """The cache lies on a network file system, whose locks may not keep two writers apart."""


class ReadOnlyCacheError(DejavecError, PermissionError):
    """The cache was opened with ``mode="r"`` and cannot be written."""


class PoisonedWriterError(DejavecError, OSError):
    """A sync failed earlier, so this handle writes no more; open the cache again."""


class ClosedCacheError(DejavecError, ValueError):
    """The cache was closed."""


class MissingPackageError(DejavecError, ImportError):
    """A package that this call needs is not installed."""


class DejavecWarning(UserWarning):
    """Base of every warning issued by dejavec."""
