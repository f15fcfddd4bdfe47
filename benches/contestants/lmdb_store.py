"""LMDB through py-lmdb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benches.contestants.base import KeyValueStore


class Lmdb(KeyValueStore):
    """LMDB, each group synced."""

    name = "LMDB"
    why = "buffers=True and writemap: no copies; one transaction and one putmulti a group; readahead off"
    store = "lmdb"
    packages = ("lmdb",)
    sync: ClassVar[bool] = True

    def open(self) -> None:
        import lmdb

        self._environment = lmdb.open(
            str(self.path),
            map_size=max(1 << 30, self.setup.vector_bytes * 5),
            sync=self.sync,
            writemap=True,
            readahead=False,
        )
        self._reading: Any = None

    def read(self, keys: list[bytes]) -> Sequence[Any]:
        if self._reading is None:
            self._reading = self._environment.begin(buffers=True)
        get = self._reading.get
        return [get(key) for key in keys]

    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        self._reading = None
        with self._environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(list(zip(keys, values, strict=True)))

    def close(self) -> None:
        self._reading = None
        self._environment.sync(True)
        self._environment.close()


class UnsyncedLmdb(Lmdb):
    """LMDB without syncs."""

    name = "LMDB, not synced"
    why = "as LMDB, with sync=False"
    store = "lmdb-unsynced"
    sync = False
