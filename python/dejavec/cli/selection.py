"""The rows of a cache that count: the newest of each key, without damaged ones, in blocks, with texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.cli.progress import counted, progress
from dejavec.cli.table_file import TableFile
from dejavec.errors import CorruptCacheError, VectorsError
from dejavec.keys.items import Keys, text_keys
from dejavec.storage.kept_texts import list_of
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.core_errors import repair_command
from dejavec.vectors.ragged import Ragged, Rows

T = TypeVar("T")

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
        numbering: what the row numbers belong to: ``KeyedCache.numbering``.
    """

    cache: KeyedCache
    rows: NDArray[np.int64]
    keys: Keys
    replaced: int
    dead: int
    damaged: int
    given: dict[int, str]
    numbering: _core.Numbering | None

    @cached_property
    def has_texts(self) -> bool:
        """Whether the text of any row is known."""
        return bool(self.given) or self.cache.has_texts()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many elements each row has (n,): 1 in a dense cache."""
        vectors = self._of_these_rows(self.cache.vectors)
        return (
            vectors.lengths[self.rows] if isinstance(vectors, Ragged) else np.ones(len(self.rows), np.int64)
        )

    def blocks(self, what: str) -> Iterator[Part]:
        """Yield all rows in blocks of some megabytes, with progress.

        Args:
            what: what is done, for the line of progress.

        Raises:
            CorruptCacheError: a row was damaged since the check.
            VectorsError: the cache was compacted or replaced since then.
        """
        size = max(1, _BLOCK_BYTES // max(1, self.cache.row_bytes))
        with progress(what, len(self.rows), "rows") as advance:
            for first in range(0, len(self.rows), size):
                rows, keys = self.rows[first : first + size], self.keys[first : first + size]
                vectors, damaged = self._of_these_rows(self.cache.gather(keys, rows))
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
        kept = self._of_these_rows(list_of(*self.cache.texts(rows)))
        return [self.given.get(row, text) for row, text in zip(rows.tolist(), kept, strict=True)]

    def _of_these_rows(self, read: T) -> T:
        """Return what was read by row number, unless the rows have other numbers now."""
        if self.cache.numbering != self.numbering:
            raise VectorsError(
                self.cache.path,
                expected="the cache as it was when its rows were chosen",
                found="a compacted one, or another one in its place",
                remedy="run it again",
            )
        return read


def select(cache: KeyedCache, texts: TableFile | None = None) -> Selection:
    """Check a cache, and return the rows that count.

    Args:
        cache: the open cache.
        texts: a file with texts of rows; those that are not cached are ignored.
    """
    selection = cache.unmoved(lambda: _chosen(cache))
    return selection if texts is None else replace(selection, given=_joined(cache, texts))


def _chosen(cache: KeyedCache) -> Selection:
    newest = cache.is_newest()
    keys = cache.keys()[: len(newest)]
    damaged = np.empty(0, np.int64)
    if len(keys):
        with progress("check", len(keys), "rows") as advance:
            findings = counted(partial(_core.verify, str(cache.path)), lambda part: advance(part * len(keys)))
        damaged = np.array(findings["damaged"], np.int64)
    live = keys.any(axis=1)
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
        {},
        cache.numbering,
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
