"""The one algorithm: look up what is held, have the model make the rest, store it, and read everything back.

    keys -> partition -> misses, a chunk at a time: encode, check, append -> look up -> gather -> vectors

The result is read from the store, so the first run returns what every later run will. Only two kinds of rows
come from memory: those with NaN or infinity, which are never stored, and those that could not be written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import CorruptCacheError
from dejavec.fill.run import Run, row_bytes
from dejavec.fill.settings import FillSettings
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.keys.items import Keys, first_of_each
from dejavec.support.core_errors import repair_command
from dejavec.vectors.arrays import Output, Rows

_logger = logging.getLogger("dejavec")


@dataclass(frozen=True)
class Plan:
    """What a call finds: ``items == hits + misses + duplicates``.

    Attributes:
        items: how many were given.
        hits: how many the cache holds.
        misses: how many different ones the model has to encode.
        duplicates: how many more equal one of the misses.
        bytes: what the misses add to the cache on disk; 0 while the dimension is unknown.
    """

    items: int
    hits: int
    misses: int
    duplicates: int
    bytes: int


@dataclass(frozen=True)
class Counts:
    """What calls found: ``items == hits + misses + duplicates``.

    Attributes:
        items: how many were given.
        hits: how many the cache held.
        misses: how many different ones it did not hold.
        duplicates: how many more equalled one of the misses.
        bytes: what was added to the cache on disk.
        confirmed: how many hits the model encoded again, to confirm that they are its own.
    """

    items: int
    hits: int
    misses: int
    duplicates: int
    bytes: int
    confirmed: int = 0


@dataclass(frozen=True)
class Filled:
    """The outcome of :func:`fill`.

    Attributes:
        vectors: (n, dim), in the order of the items, writable and the caller's own.
        output: the kind of array that the cache records: that of the first vectors stored.
        counts: what was found and added.
        encoded: how many items the model encoded.
    """

    vectors: Rows
    output: Output
    counts: Counts
    encoded: int


def plan(store: VectorStore, keys: Keys, settings: FillSettings) -> Plan:
    """Return what :func:`fill` would find, without a model."""
    return _survey(store, keys, settings)[2]


def fill(
    store: VectorStore,
    keys: Keys,
    encode: Callable[[Positions], Any],
    settings: FillSettings,
    *,
    name: Callable[[int], str] = "item {}".format,
    maker: str = "the model",
    warn_unwritten: Callable[[str], None] | None = None,
    order: Callable[[Positions], Positions] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Filled:
    """Return the vectors of all items, having encoded and stored those that the cache does not hold.

    Items that another thread of this process is encoding are not encoded again: this call waits for them.

    Args:
        store: where vectors are stored.
        keys: the items' keys (n, 32).
        encode: called with the positions of different items, at most ``chunk_rows`` at a time; returns their
            vectors in that order, or :class:`dejavec.fill.chunks.Blocks` or ``FirstRows`` of them.
        settings: of this call.
        name: how messages name the item at a position.
        maker: how messages name what ``encode`` asks.
        warn_unwritten: is called, at most once, with what to warn of if vectors cannot be written.
        order: rearranges the positions to encode before they are cut into chunks.
        clock: returns the time in seconds.

    Raises:
        MissingVectorsError: items are missing and the settings say ``miss="raise"``; no model was called.
        VectorsError: a chunk does not fit; nothing of it was written.
        CorruptCacheError: a row does not hold its checksum even after it was written again.
        Exception: whatever ``encode`` raises, unchanged; what was encoded before stays committed.
    """
    ended = store.in_flight.ended
    rows, source, found = _survey(store, keys, settings)
    misses = np.flatnonzero(source == np.arange(len(keys)))
    run = Run(
        store, keys, encode, settings, name=name, maker=maker, warn_unwritten=warn_unwritten, clock=clock
    )
    run.encode(order(misses) if order else misses, seen=rows, ended=None if settings.refresh else ended)
    if len(misses):
        rows = run.lookup(keys)
    vectors, lost = run.collect(keys, rows, source)
    if len(lost):
        again = lost[first_of_each(keys[lost])]
        run.encode(np.unique(again), seen=rows)
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
    store: VectorStore, keys: Keys, settings: FillSettings
) -> tuple[NDArray[np.int64], Positions, Plan]:
    """Look up all items.

    Returns:
        Each item's row or -1; the position of the item whose encoding makes its vector or -1; the plan.
    """
    store.refresh()
    rows, first = store.partition(keys)
    source = first_of_each(keys) if settings.refresh else np.where(rows < 0, first, -1)
    misses = int((source == np.arange(len(keys))).sum())
    hits = int((source < 0).sum())
    duplicates = len(keys) - hits - misses
    return rows, source, Plan(len(keys), hits, misses, duplicates, misses * row_bytes(store))
