"""RocksDB through rocksdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benches.contestants.base import KeyValueStore


class RocksDb(KeyValueStore):
    """RocksDB, each group synced."""

    name = "RocksDB"
    why = (
        "raw_mode, blob files for values of more than a few hundred bytes, optimize_for_point_lookup, all "
        "cores for background work, one WriteBatch a group, list reads (MultiGet)"
    )
    store = "rocksdb"
    packages = ("rocksdict",)
    sync: ClassVar[bool] = True

    def open(self) -> None:
        import os

        from rocksdict import DBCompressionType, Options, Rdict, WriteOptions

        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.increase_parallelism(os.cpu_count() or 1)
        options.optimize_for_point_lookup(256)
        options.set_compression_type(DBCompressionType.none())
        options.set_enable_blob_files(True)
        options.set_min_blob_size(256)
        self._database = Rdict(str(self.path), options)
        write_options = WriteOptions()
        write_options.sync = self.sync
        self._database.set_write_options(write_options)

    def read(self, keys: list[bytes]) -> Sequence[Any]:
        found: Sequence[Any] = self._database.get(keys)
        return found

    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        from rocksdict import WriteBatch

        batch = WriteBatch(raw_mode=True)
        for key, value in zip(keys, values, strict=True):
            batch.put(key, value)
        self._database.write(batch)

    def close(self) -> None:
        self._database.flush()
        self._database.close()


class UnsyncedRocksDb(RocksDb):
    """RocksDB without syncs."""

    name = "RocksDB, not synced"
    why = "as RocksDB, with sync=False"
    store = "rocksdb-unsynced"
    sync = False
