"""The newest rows of a cache in pieces, with keys and texts, in the form of another cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys
from dejavec.storage.kept_texts import list_of
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.output import FLOAT32, Container, Output
from dejavec.vectors.ragged import Rows

_BYTES = 32 << 20
"""How many bytes of rows are read and appended at a time, unless one row has more."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a cache.

    Attributes:
        keys: their keys (n, 32), which differ.
        rows: n rows in the stored dtype; contiguous ones are mapped, not copied.
        texts: the text that is kept for each row, or None; None if none are, or were asked for.
        damaged: how many rows more have a checksum mismatch.
    """

    keys: Keys
    rows: Rows
    texts: list[str | None] | None
    damaged: int


def pieces(
    cache: KeyedCache, *, texts: bool, keys: Keys | None = None, most: int | None = None
) -> Iterator[Piece]:
    """Yield the newest row of each key, in the order of the rows, without damaged ones.

    Args:
        cache: the cache. Keys that are stored meanwhile are left out, and those that are deleted.
        texts: whether the texts are read, too, if any are kept.
        keys: the keys of the rows that are wanted, in the order in which they come; None: all.
        most: about how many bytes a piece has.
    """
    texts = texts and cache.has_texts()
    if keys is None:
        keys = newest_keys(cache)
    size = max(1, (most or _BYTES) // max(cache.row_bytes, 1))
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        yield cache.unmoved(partial(_piece, cache, part, texts=texts))


def newest_keys(cache: KeyedCache) -> Keys:
    """Return the key of each row that counts, in the order of the rows (n, 32).

    They stay right when a compaction gives other numbers to the rows.
    """
    return cache.unmoved(lambda: cache.keys_of(np.flatnonzero(cache.is_newest())))


def _piece(cache: KeyedCache, keys: Keys, *, texts: bool) -> Piece:
    numbers = cache.lookup(keys)
    if (numbers < 0).any():
        keys, numbers = np.ascontiguousarray(keys[numbers >= 0]), numbers[numbers >= 0]
    rows, damaged = cache.gather(keys, numbers)
    kept = list_of(*cache.texts(numbers)) if texts else None
    if damaged:
        sound = np.delete(np.arange(len(numbers)), damaged)
        keys, rows = np.ascontiguousarray(keys[sound]), rows[sound]
        kept = None if kept is None else [kept[at] for at in sound.tolist()]
    return Piece(keys, rows, kept, len(damaged))


def stored_form(dtype: np.dtype[Any], container: Container, output: Output, identity: Any) -> np.dtype[Any]:
    """Return the dtype that a cache of another container has for the same vectors.

    ``vectors.faiss`` holds float32 for dtypes that it holds exactly.

    Example:
        >>> stored_form(np.dtype("<f4"), "faiss-l2", Output("numpy", "float16"), {})
        dtype('float16')
    """
    if container not in FLOAT32:
        return dtype
    name = identity.get("store_dtype") or output.dtype.replace("bfloat16", "float32")
    return np.dtype(name)


def at(piece: Piece, flags: NDArray[np.bool_]) -> tuple[Keys, Rows, list[str | None] | None]:
    """Return the keys, rows and texts of a piece at flags (n,)."""
    if flags.all():
        return piece.keys, piece.rows, piece.texts
    positions = np.flatnonzero(flags)
    texts = None if piece.texts is None else [piece.texts[position] for position in positions.tolist()]
    return np.ascontiguousarray(piece.keys[positions]), piece.rows[positions], texts
