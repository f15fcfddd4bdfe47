"""diskcache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benches.contestants.base import KeyValueStore


class DiskCache(KeyValueStore):
    """diskcache, which never syncs a group (its SQLite runs with synchronous = NORMAL)."""

    name = "diskcache"
    why = 'eviction_policy="none", no size limit, a large memory map, one transact() a group'
    store = "diskcache"
    packages = ("diskcache",)

    def open(self) -> None:
        import diskcache

        self._cache = diskcache.Cache(
            str(self.path), eviction_policy="none", size_limit=1 << 50, cull_limit=0, sqlite_mmap_size=1 << 40
        )

    def read(self, keys: list[bytes]) -> Sequence[Any]:
        get = self._cache.get
        return [get(key) for key in keys]

    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        with self._cache.transact():
            for key, value in zip(keys, values, strict=True):
                self._cache.set(key, value)

    def close(self) -> None:
        self._cache.close()
