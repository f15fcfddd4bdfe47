"""dejavec: embed once, never again."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from dejavec import _core
from dejavec._core import __version__
from dejavec.backends import CacheBackendProtocol, FaissCache, NumpyCache, TextVectorMap
from dejavec.cache import EmbeddingCache
from dejavec.decorator import cached
from dejavec.errors import (
    CacheNotFoundError,
    ClosedCacheError,
    CorruptCacheError,
    DejavecError,
    DejavecWarning,
    ForeignDirectoryError,
    IdentityMismatchError,
    ItemError,
    LockTimeoutError,
    MissingPackageError,
    MissingVectorsError,
    NetworkFileSystemError,
    NonFiniteVectorsError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    SpotCheckError,
    StorageError,
    UnconfirmedError,
    UnsupportedVersionError,
    VectorsError,
)
from dejavec.fill import Counts, Plan
from dejavec.install import install, uninstall

if TYPE_CHECKING:
    from dejavec.mteb import CachedEmbeddingWrapper

__all__ = [
    "CacheBackendProtocol",
    "CacheNotFoundError",
    "CachedEmbeddingWrapper",
    "ClosedCacheError",
    "CorruptCacheError",
    "Counts",
    "DejavecError",
    "DejavecWarning",
    "EmbeddingCache",
    "FaissCache",
    "ForeignDirectoryError",
    "IdentityMismatchError",
    "ItemError",
    "LockTimeoutError",
    "MissingPackageError",
    "MissingVectorsError",
    "NetworkFileSystemError",
    "NonFiniteVectorsError",
    "NumpyCache",
    "Plan",
    "PoisonedWriterError",
    "ReadOnlyCacheError",
    "SpotCheckError",
    "StorageError",
    "TextVectorMap",
    "UnconfirmedError",
    "UnsupportedVersionError",
    "VectorsError",
    "__version__",
    "cached",
    "install",
    "uninstall",
]

if _core.debug_build:
    warnings.warn(
        "dejavec was built without optimisation and is slow; build it with `maturin develop --release`",
        DejavecWarning,
        stacklevel=2,
    )


def __getattr__(name: str) -> Any:
    if name == "CachedEmbeddingWrapper":
        from dejavec.mteb import CachedEmbeddingWrapper

        return CachedEmbeddingWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
