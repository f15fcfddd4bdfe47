"""SQLite, from the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, ClassVar

from benches.contestants.base import KeyValueStore


class Sqlite(KeyValueStore):
    """SQLite, each group synced."""

    name = "SQLite"
    why = "WAL, a memory map of the whole file, a key clustered WITHOUT ROWID, one transaction a group"
    store = "sqlite"
    synchronous: ClassVar[str] = "FULL"

    def open(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self.path / "vectors.sqlite", isolation_level=None)
        self._connection.execute("PRAGMA page_size = 8192")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        self._connection.execute(f"PRAGMA mmap_size = {1 << 40}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

    def read(self, keys: list[bytes]) -> Sequence[Any]:
        # A statement for each key is compiled once; one with thousands of parameters loses their order.
        execute = self._connection.execute
        rows = (execute("SELECT value FROM vectors WHERE key = ?", (key,)).fetchone() for key in keys)
        return [None if row is None else row[0] for row in rows]

    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        self._connection.execute("BEGIN")
        pairs = zip(keys, values, strict=True)
        self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", pairs)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class UnsyncedSqlite(Sqlite):
    """SQLite without syncs."""

    name = "SQLite, not synced"
    why = "as SQLite, with synchronous = OFF"
    store = "sqlite-unsynced"
    synchronous = "OFF"
