"""dejavec: embed once, never again.

Every error is a :class:`DejavecError`; :mod:`dejavec.errors` lists all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dejavec import _core
from dejavec._core import __version__
from dejavec.backends import CacheBackendProtocol, FaissCache, NumpyCache, TextVectorMap
from dejavec.cache import EmbeddingCache
from dejavec.decorator import cached
from dejavec.drop_in.install import install, uninstall
from dejavec.errors import DejavecError, DejavecWarning
from dejavec.fill.fill import Counts, Plan
from dejavec.search.result import SearchResult
from dejavec.transfer.merge import MergeOutcome

if TYPE_CHECKING:
    from dejavec.mteb import CachedEmbeddingWrapper

__all__ = [
    "CacheBackendProtocol",
    "CachedEmbeddingWrapper",
    "Counts",
    "DejavecError",
    "DejavecWarning",
    "EmbeddingCache",
    "FaissCache",
    "MergeOutcome",
    "NumpyCache",
    "Plan",
    "SearchResult",
    "TextVectorMap",
    "__version__",
    "cached",
    "install",
    "uninstall",
]

if _core.debug_build:
    from dejavec.support.warn import warn as _warn

    _warn(
        "dejavec was built without optimisation and is slow",
        remedy="build it with `maturin develop --release`",
    )


def __getattr__(name: str) -> Any:
    if name == "CachedEmbeddingWrapper":
        from dejavec.mteb import CachedEmbeddingWrapper

        return CachedEmbeddingWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
