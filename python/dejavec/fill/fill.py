"""The one algorithm: look up items, have the model encode the misses, store them, and read everything back.

    keys -> partition -> misses, a chunk at a time: encode, check, append -> look up -> gather -> vectors

The result is read from the store, so the first run returns the same vectors as every later run. Vectors come
from memory only if they are not stored: they hold NaN or infinity, would be rounded, or could not be written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import CorruptCacheError
from dejavec.fill.run import Run
from dejavec.fill.settings import FillSettings
from dejavec.fill.vector_store import Positions, Seen, VectorStore
from dejavec.keys.items import Keys, first_of_each
from dejavec.support.core_errors import repair_command
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows

_logger = logging.getLogger("dejavec")


@dataclass(frozen=True)
class Plan:
    """The hits and misses that a call would have: ``items == hits + misses + duplicates``.

    Attributes:
        items: how many items are given.
        hits: how many items are cached.
        misses: how many different items the model has to encode.
        duplicates: how many more items equal one of the misses.
        bytes: how many bytes the misses add on disk; 0 while the dimension is unknown.
    """

    items: int
    hits: int
    misses: int
    duplicates: int
    bytes: int


@dataclass(frozen=True)
class Counts:
    """The hits and misses of past calls: ``items == hits + misses + duplicates``.

    Attributes:
        items: how many items were given.
        hits: how many items were cached.
        misses: how many different items were not cached.
        duplicates: how many more items equalled one of the misses.
        bytes: how many bytes were added on disk.
        confirmed: how many hits the model encoded again, to confirm that the vectors are its own.
    """

    items: int
    hits: int
    misses: int
    duplicates: int
    bytes: int
    confirmed: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Filled:
    """The outcome of :func:`fill`.

    Attributes:
        vectors: the n vectors in the order of the items, writable and owned by the caller.
        output: the array kind of the cache. The first stored vectors decide it.
        counts: the hits and misses of the call.
        encoded: how many items the model encoded.
    """

    vectors: Rows
    output: Output
    counts: Counts
    encoded: int


def plan(
    store: VectorStore, keys: Keys, settings: FillSettings, elsewhere: NDArray[np.bool_] | None = None
) -> Plan:
    """Return the hits and misses that :func:`fill` would have, without a model.

    Args:
        store: where vectors are stored.
        keys: the keys of the items (n, 32).
        settings: the settings of the call.
        elsewhere: which keys are missing in the store and will be there before the call (n,).
    """
    return _survey(store, keys, settings, elsewhere)[2]


def fill(
    store: VectorStore,
    keys: Keys,
    encode: Callable[[Positions], Any],
    settings: FillSettings,
    *,
    name: Callable[[int], str] = "item {}".format,
    maker: str = "the model",
    warn_unwritten: Callable[[str], None] | None = None,
    texts: Callable[[Positions], list[str]] | None = None,
    order: Callable[[Positions], Positions] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Filled:
    """Return the vectors of all items. Items that are not cached are encoded and stored.

    If another thread of this process is encoding an item, this call waits for it.

    Args:
        store: where vectors are stored.
        keys: the keys of the items (n, 32).
        encode: is called with the positions of different items, at most ``chunk_rows`` at a time. It returns
            their vectors in that order, or as :class:`dejavec.fill.chunks.Blocks` or ``FirstRows``.
        settings: the settings of this call.
        name: how messages name the item at a position.
        maker: how messages name the model or function.
        warn_unwritten: is called with a message, at most once, if vectors cannot be written.
        texts: returns the texts of items, which are then kept beside their rows.
        order: sorts the positions to encode, before they are cut into chunks.
        clock: returns the time in seconds.

    Raises:
        MissingVectorsError: items are not cached, and ``miss`` is ``"raise"``; no model was called.
        VectorsError: the vectors of a chunk do not fit; none of them was written.
        CorruptCacheError: a checksum mismatch remains although the row was written again.
        Exception: the exception of ``encode``, unchanged; earlier chunks stay committed.
    """
    ended = store.in_flight.ended
    seen, source, found = _survey(store, keys, settings)
    misses = np.flatnonzero(source == np.arange(len(keys)))
    run = Run(
        store,
        keys,
        encode,
        settings,
        name=name,
        maker=maker,
        warn_unwritten=warn_unwritten,
        texts=texts,
        clock=clock,
    )
    run.encode(order(misses) if order else misses, seen=seen, ended=None if settings.refresh else ended)
    if len(misses):
        seen = run.lookup(keys)
    vectors, lost = run.collect(keys, seen.rows, source)
    if len(lost):
        again = lost[first_of_each(keys[lost])]
        run.encode(np.unique(again), seen=seen)
        vectors, still = run.collect_again(vectors, lost, again)
        if len(still):
            raise CorruptCacheError(
                store.path,
                expected=f"a sound row for {name(int(lost[still[0]]))}",
                found="it damaged again after it was written anew",
                remedy=f"check the disk, then run `{repair_command(store.path)}`",
            )
    run.warn()
    counts = Counts(found.items, found.hits, found.misses, found.duplicates, run.appended)
    _logger.info(
        "%s: %d hits, %d misses, %d duplicates, %d bytes added",
        *(store.path, counts.hits, counts.misses, counts.duplicates, counts.bytes),
    )
    return Filled(vectors, run.output_of(vectors), counts, run.encoded)


def _survey(
    store: VectorStore, keys: Keys, settings: FillSettings, elsewhere: NDArray[np.bool_] | None = None
) -> tuple[Seen, Positions, Plan]:
    """Look up all items. Those that are ``elsewhere`` are hits.

    Returns:
        Each item's row; the position of the item to encode for it, or -1; the plan.
    """
    store.refresh()
    numbering = store.numbering
    rows, first = store.partition(keys)
    missing = rows < 0 if elsewhere is None else (rows < 0) & ~elsewhere
    source = first_of_each(keys) if settings.refresh else np.where(missing, first, -1)
    misses = int((source == np.arange(len(keys))).sum())
    hits = int((source < 0).sum())
    duplicates = len(keys) - hits - misses
    return Seen(rows, numbering), source, Plan(len(keys), hits, misses, duplicates, misses * store.row_bytes)
