"""All errors and warnings of dejavec. Each error is also a subclass of the most similar builtin."""

from __future__ import annotations

from pathlib import PurePath
from typing import Self


def sentence(
    where: object,
    *,
    expected: str | None = None,
    found: str | None = None,
    remedy: str | None = None,
) -> str:
    """Return the sentence of an error or a warning.

    Args:
        where: the thing at fault; or the whole message.
        expected: the right state of the thing.
        found: the caller's value, or the content of the file.
        remedy: what to do about it.

    Example:
        >>> sentence("cache", expected="dimension 3", found="dimension 4", remedy="use another directory")
        'cache: expected dimension 3, found dimension 4; use another directory'
        >>> sentence("cache could not be written", remedy="free space")
        'cache could not be written; free space'
    """
    parts = (("expected", expected), ("found", found))
    clause = ", ".join(f"{name} {part}" for name, part in parts if part is not None)
    text = f"{where}: {clause}" if clause else str(where)
    return text if remedy is None else f"{text}; {remedy}"


class DejavecError(Exception):
    """Base of every error raised by dejavec.

    Its message is the :func:`sentence` of its parts.

    Args:
        where: the thing at fault; or the whole message. A path also sets the attribute ``path``.
        expected: the right state of the thing.
        found: the caller's value, or the content of the file.
        remedy: what to do about it.
        path: the file or directory at fault, if ``where`` is not its path.

    Attributes:
        where: the thing at fault.
        path: the file or directory at fault, or None.
        expected: the right state of the thing, or None.
        found: the caller's value or the content of the file, or None.
        remedy: what to do about it, or None.

    Example:
        >>> error = VectorsError("encode_fn", expected="3 rows", found="2", remedy="return one for each text")
        >>> str(error), error.found
        ('encode_fn: expected 3 rows, found 2; return one for each text', '2')
    """

    where: str
    path: str | None
    expected: str | None
    found: str | None
    remedy: str | None

    def __init__(
        self,
        where: object,
        *,
        expected: str | None = None,
        found: str | None = None,
        remedy: str | None = None,
        path: object = None,
    ) -> None:
        super().__init__(sentence(where, expected=expected, found=found, remedy=remedy))
        concerned = where if path is None and isinstance(where, PurePath) else path
        self.where = str(where)
        self.path = None if concerned is None else str(concerned)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def within(self, where: str) -> Self:
        """Return the same error with more context before ``where``.

        Example:
            >>> str(ItemError("item 3", expected="str", found="int").within("field 'title'"))
            "field 'title': item 3: expected str, found int"
        """
        return type(self)(
            f"{where}: {self.where}",
            expected=self.expected,
            found=self.found,
            remedy=self.remedy,
            path=self.path,
        )


class StorageError(DejavecError, OSError):
    """The operating system refused a read, a write or a sync (disk full, no permission, I/O error)."""


class CorruptCacheError(DejavecError, OSError):
    """A file of the cache violates its format."""


class ForeignDirectoryError(DejavecError, FileExistsError):
    """The directory holds files of other programs, so no cache is created there."""


class CacheNotFoundError(DejavecError, FileNotFoundError):
    """There is no cache in the directory."""


class UnsupportedVersionError(DejavecError, ValueError):
    """The cache has a newer format version."""


class IdentityMismatchError(DejavecError, ValueError):
    """The cache holds vectors of another model, revision, prompt or setting."""


class VectorsError(DejavecError, ValueError):
    """Vectors do not fit: wrong row count, number of dimensions, dimension or dtype."""


class NonFiniteVectorsError(VectorsError):
    """Vectors hold NaN or infinity, and ``on_nonfinite="raise"`` is set."""


class ItemError(DejavecError, TypeError):
    """An item is not text, or its content has no key."""


class MissingVectorsError(DejavecError, LookupError):
    """Items are not in the cache, and ``miss="raise"`` is set."""


class SpotCheckError(DejavecError, ValueError):
    """A stored vector differs from the vector that the model returns now."""


class UnconfirmedError(DejavecError, RuntimeError):
    """The model could not confirm cached vectors, and ``on_unconfirmed="raise"`` is set."""


class LockTimeoutError(DejavecError, TimeoutError):
    """Another process held the writers' lock for longer than ``lock_timeout`` seconds."""


class NetworkFileSystemError(DejavecError, OSError):
    """The cache is on a network file system. Its locks may not keep two writers apart."""


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
