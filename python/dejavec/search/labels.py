"""The texts of found rows, and their positions in a corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.keys.items import Keys, frozen, take, text_keys
from dejavec.search.result import SearchResult
from dejavec.storage.kept_texts import list_of
from dejavec.storage.keyed_cache import KeyedCache


class Labels:
    """Gives found rows their texts, by the key of each row: row numbers say nothing about a list of texts.

    Args:
        cache: the cache.
        texts: a corpus, in any form of :func:`dejavec.keys.items.text_keys`; True for the texts that the
            cache keeps; None for none.

    Raises:
        ItemError: a text is not a string.
        VectorsError: the cache keeps no texts.
    """

    def __init__(self, cache: KeyedCache, texts: Any) -> None:
        self._cache = cache
        self._kept = texts is True
        if texts is False:
            raise TypeError("expected texts to be True, a corpus or None, found False")
        self._corpus = None if texts is None or self._kept else frozen(texts)
        self._keys: Keys | None = None if self._corpus is None else text_keys(self._corpus)
        if self._kept and cache.refresh() and not cache.has_texts():
            raise VectorsError(
                cache.path,
                expected="texts beside the rows, for texts=True",
                found="none",
                remedy="pass texts=corpus, or add them with put_texts",
            )

    def result(self, distances: NDArray[np.float32], rows: NDArray[np.int64]) -> SearchResult:
        """Return what was found (n, k), with its texts."""
        flat = rows.reshape(-1)
        if self._kept:
            return SearchResult(distances, rows, _shaped(list_of(*self._cache.texts(flat)), rows))
        if self._keys is None:
            return SearchResult(distances, rows)
        positions = positions_of(self._cache.keys_of(flat), self._keys)
        texts: list[str | None] = [None] * len(flat)
        known = np.flatnonzero(positions >= 0)
        for at, text in zip(known.tolist(), take(self._corpus, positions[known]), strict=True):
            texts[at] = text
        return SearchResult(distances, rows, _shaped(texts, rows), positions.reshape(rows.shape))


def positions_of(wanted: Keys, keys: Keys) -> NDArray[np.int64]:
    """Return the position of the first equal key for each wanted one (m,), -1 for none.

    Args:
        wanted: m keys.
        keys: n keys, usually many more.

    Example:
        >>> positions_of(text_keys(["b", "c"]), text_keys(["a", "b", "b"]))
        array([ 1, -1])
    """
    if not len(wanted) or not len(keys):
        return np.full(len(wanted), -1, np.int64)
    beginnings = np.unique(_beginnings(wanted))
    found = _beginnings(keys)
    places = np.minimum(np.searchsorted(beginnings, found), len(beginnings) - 1)
    first: dict[bytes, int] = {}
    for position in np.flatnonzero(beginnings[places] == found).tolist():
        first.setdefault(keys[position].tobytes(), position)
    return np.array([first.get(key.tobytes(), -1) for key in wanted], np.int64)


def _beginnings(keys: Keys) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each key as a number (n,)."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]


def _shaped(texts: list[str | None], rows: NDArray[np.int64]) -> list[list[str | None]]:
    """Return texts (n × k,) as n lists of k."""
    count, k = rows.shape
    return [texts[at * k : (at + 1) * k] for at in range(count)]
