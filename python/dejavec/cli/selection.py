"""The rows of a cache that count: the newest of each key, without damaged ones, in blocks, with texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.cli.progress import interruptible, progress
from dejavec.cli.table_file import TableFile
from dejavec.errors import CorruptCacheError
from dejavec.keys.items import Keys, text_keys
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.core_errors import repair_command
from dejavec.vectors.ragged import Ragged, Rows

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Part:
    """Some rows.

    Attributes:
        rows: their row numbers (n,).
        keys: their keys (n, 32).
        vectors: their vectors, in the stored form.
        texts: the text of each; None where it is unknown.
    """

    rows: NDArray[np.int64]
    keys: Keys
    vectors: Rows
    texts: list[str | None]


@dataclass(frozen=True)
class Selection:
    """The rows of a cache that count.

    Attributes:
        cache: the open cache.
        rows: their row numbers (n,), ascending.
        keys: their keys (n, 32).
        replaced: how many rows have a later one of their key.
        dead: how many rows a repair gave up.
        damaged: how many of the newest rows are damaged.
        given: texts by row number, from a file.
    """

    cache: KeyedCache
    rows: NDArray[np.int64]
    keys: Keys
    replaced: int
    dead: int
    damaged: int
    given: dict[int, str]

    @cached_property
    def has_texts(self) -> bool:
        """Whether the text of any row is known."""
        return bool(self.given) or self.cache.stats()["texts"] > 0

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many elements each row has (n,): 1 in a dense cache."""
        vectors = self.cache.vectors
        return (
            vectors.lengths[self.rows] if isinstance(vectors, Ragged) else np.ones(len(self.rows), np.int64)
        )

    def blocks(self, what: str) -> Iterator[Part]:
        """Yield all rows in blocks of some megabytes, with progress.

        Args:
            what: what is done, for the line of progress.

        Raises:
            CorruptCacheError: a row was damaged since the check.
        """
        size = max(1, _BLOCK_BYTES // max(1, self.cache.row_bytes))
        with progress(what, len(self.rows), "rows") as advance:
            for first in range(0, len(self.rows), size):
                rows, keys = self.rows[first : first + size], self.keys[first : first + size]
                vectors, damaged = self.cache.gather(keys, rows)
                if damaged:
                    raise CorruptCacheError(
                        self.cache.path,
                        expected="sound rows",
                        found=f"row {rows[damaged[0]]}, which was damaged meanwhile",
                        remedy=f"run `{repair_command(self.cache.path)}`",
                    )
                yield Part(rows, keys, vectors, self.texts_of(rows))
                advance(len(rows))

    def texts_of(self, rows: NDArray[np.int64]) -> list[str | None]:
        """Return the text of each row: the given one, or the one that is kept beside it."""
        found: list[str | None] = [self.given.get(row) for row in rows.tolist()]
        data, lengths = self.cache.texts(rows)
        end = 0
        for at, length in enumerate(lengths.tolist()):
            if length >= 0:
                start, end = end, end + length
                found[at] = (
                    data[start:end].decode("utf-8", "surrogatepass") if found[at] is None else found[at]
                )
        return found


def select(cache: KeyedCache, texts: TableFile | None = None) -> Selection:
    """Check a cache, and return the rows that count.

    Args:
        cache: the open cache.
        texts: a file with texts of rows; those that are not cached are ignored.
    """
    keys = cache.keys()
    path = str(cache.path)
    damaged = np.array(interruptible(lambda: _core.verify(path))["damaged"] if len(keys) else [], np.int64)
    live = keys.any(axis=1)
    newest = live & (cache.lookup(keys) == np.arange(len(keys)))
    sound = newest.copy()
    sound[damaged[damaged < len(keys)]] = False  # Others were appended meanwhile.
    rows = np.flatnonzero(sound)
    return Selection(
        cache,
        rows,
        keys[rows],
        int(live.sum() - newest.sum()),
        int((~live).sum()),
        int(newest.sum()) - len(rows),
        {} if texts is None else _joined(cache, texts),
    )


def _joined(cache: KeyedCache, table: TableFile) -> dict[int, str]:
    found: dict[int, str] = {}
    with progress(f"read {table.file.name}", None, "texts") as advance:
        for texts in table.texts():
            rows = cache.lookup(text_keys(texts))
            found.update((int(rows[at]), texts[at]) for at in np.flatnonzero(rows >= 0))
            advance(len(texts))
    return found


def opened(path: Path) -> KeyedCache:
    """Open a cache to read it, whichever identity it has."""
    return KeyedCache(path, mode="r")
