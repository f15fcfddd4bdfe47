"""A cache that a command changes: opened with its own identity."""

from __future__ import annotations

from pathlib import Path

from dejavec import EmbeddingCache
from dejavec.storage.keyed_cache import KeyedCache

LOCK_SECONDS = 60.0
"""How long commands wait for a process that is writing."""


def open_to_change(path: Path, *, allow_network: bool = False) -> EmbeddingCache:
    """Open a cache to change it, whichever identity it has.

    Raises:
        CacheNotFoundError: there is no cache.
        DejavecError: it cannot be opened.
    """
    with KeyedCache(path, mode="r") as cache:
        identity, container = cache.identity, cache.container
    return EmbeddingCache(
        path,
        identity=identity or None,
        container=container,
        lock_timeout=LOCK_SECONDS,
        allow_network=allow_network,
    )
