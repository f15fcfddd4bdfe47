"""The one algorithm: look up what is held, have the model make the rest, store it, and read everything back.

    keys -> partition -> misses, a chunk at a time: encode, check, append -> look up -> gather -> vectors

The result is read from the store, so the first run returns what every later run will. Only two kinds of rows
come from memory: those with NaN or infinity, which are never stored, and those that could not be written.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import (
    CacheNotFoundError,
    CorruptCacheError,
    DejavecWarning,
    ForeignDirectoryError,
    LockTimeoutError,
    MissingVectorsError,
    NetworkFileSystemError,
    NonFiniteVectorsError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    StorageError,
)
from dejavec.keys import Keys, first_of_each
from dejavec.progress import progress
from dejavec.settings import FillSettings
from dejavec.values import Output, Rows, check_kind, nonfinite, to_rows

Positions = NDArray[np.intp]
"""Positions in the items of one call, shape (k,)."""

_logger = logging.getLogger("dejavec")
_KEY_RECORD_BYTES = 40
_NAMED = 5
WRITE_ERRORS = (
    StorageError,
    LockTimeoutError,
    NetworkFileSystemError,
    PoisonedWriterError,
    ReadOnlyCacheError,
    # The directory was removed, or taken by others, while the model worked.
    CacheNotFoundError,
    ForeignDirectoryError,
)
"""What keeps vectors from being written."""


class VectorStore(Protocol):
    """Where :func:`fill` finds vectors and stores new ones: ``KeyedCache``, or what stands in for it."""

    @property
    def path(self) -> Path:
        """The directory."""

    @property
    def dim(self) -> int | None:
        """Numbers in a vector; None before the first vector."""

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The stored dtype; None before the first vector."""

    @property
    def output(self) -> Output | None:
        """The kind of array that the model returned; None before the first vector."""

    def refresh(self) -> int:
        """Learn what others have stored."""

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each key's row or -1, and the position of the first equal key of a miss."""

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row or -1."""

    def gather(self, keys: Keys, rows: NDArray[np.int64]) -> tuple[Rows, list[int]]:
        """Return the vectors (n, dim) of rows, and the positions of those that are damaged."""

    def append(self, keys: Keys, rows: Rows, output: Output, seen: NDArray[np.int64] | None) -> int:
        """Store rows for different keys, whose rows were ``seen`` before; return how many."""


@dataclass(frozen=True)
class Plan:
    """What a call finds: ``items == hits + misses + duplicates``.

    Attributes:
        items: how many were given.
        hits: how many the cache holds.
        misses: how many different ones the model has to encode.
        duplicates: how many more equal one of the misses.
        bytes: what the misses add to the cache on disk; 0 while the dimension is unknown.
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
        plan: what was found before; ``bytes`` is what was added.
        encoded: how many items the model encoded.
    """

    vectors: Rows
    output: Output
    plan: Plan
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
    warn_unwritten: Callable[[str], None] | None = None,
    order: Callable[[Positions], Positions] | None = None,
) -> Filled:
    """Return the vectors of all items, having encoded and stored those that the cache does not hold.

    Args:
        store: where vectors are stored.
        keys: the items' keys (n, 32).
        encode: called with the positions of different items, at most ``chunk_rows`` at a time; returns their
            vectors in that order.
        settings: of this call.
        name: how messages name the item at a position.
        warn_unwritten: is called, at most once, with what to warn of if vectors cannot be written.
        order: rearranges the positions to encode before they are cut into chunks.

    Raises:
        MissingVectorsError: items are missing and the settings say ``miss="raise"``; no model was called.
        VectorsError: a chunk does not fit; nothing of it was written.
        CorruptCacheError: a row does not hold its checksum even after it was written again.
        Exception: whatever ``encode`` raises, unchanged; earlier chunks stay committed.
    """
    rows, source, found = _survey(store, keys, settings)
    misses = np.flatnonzero(source == np.arange(len(keys)))
    run = _Run(store, keys, encode, settings, name=name, warn_unwritten=warn_unwritten)
    run.encode(order(misses) if order else misses, seen=rows)
    if run.encoded:
        rows = store.lookup(keys)
    vectors, lost = run.collect(keys, rows, source)
    if len(lost):
        again = lost[first_of_each(keys[lost])]
        run.encode(np.unique(again), seen=rows)
        vectors[lost], still = run.collect(keys[lost], store.lookup(keys[lost]), again)
        if len(still):
            raise CorruptCacheError(
                f"{store.path}: expected a sound row for {name(int(lost[still[0]]))}, found it damaged again "
                "after it was written anew; check the disk, then run `dejavec verify --repair`",
                path=str(store.path),
            )
    run.warn_of_nonfinite()
    found = replace(found, bytes=run.appended * _row_bytes(store))
    counts = (
        f"{found.hits} hits, {found.misses} misses, {found.duplicates} duplicates, {found.bytes} bytes added"
    )
    _logger.info("%s: %s", store.path, counts)
    return Filled(vectors, run.output, found, run.encoded)


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
    return rows, source, Plan(len(keys), hits, misses, duplicates, misses * _row_bytes(store))


def _row_bytes(store: VectorStore) -> int:
    if store.dim is None or store.dtype is None:
        return 0
    return store.dim * store.dtype.itemsize + _KEY_RECORD_BYTES


class _Run:
    """One call of :func:`fill`: what the model made, and which of it is held in memory instead of stored."""

    def __init__(
        self,
        store: VectorStore,
        keys: Keys,
        encode: Callable[[Positions], Any],
        settings: FillSettings,
        *,
        name: Callable[[int], str],
        warn_unwritten: Callable[[str], None] | None,
    ) -> None:
        self.encoded = 0
        self.appended = 0
        self.output = store.output or Output("numpy", "float32")
        self._dim = store.dim
        self._vectors = store
        self._settings = settings
        self._warn_unwritten = warn_unwritten
        self._keys = keys
        self._encode = encode
        self._name = name
        self._writes = True
        self._nonfinite: list[int] = []
        self._held: list[Rows] = []
        # Of each item: where in all held rows, one after the other, its vector lies; -1 if it is stored.
        self._slot = np.full(len(keys), -1, np.int64)

    def encode(self, positions: Positions, seen: NDArray[np.int64]) -> None:
        """Have the model encode these items; store a chunk before the next is asked for.

        Args:
            positions: of different items.
            seen: the row of every item as it was looked up, which a new row replaces.
        """
        store, settings = self._vectors, self._settings
        if len(positions) and settings.miss == "raise":
            raise MissingVectorsError(
                f"{store.path}: expected all of {len(self._keys)} items, found {len(positions)} missing: "
                f'{self._list(positions)}; encode them first or open the cache with miss="encode"',
                path=str(store.path),
            )
        with progress(settings.progress, len(positions)) as advance:
            for start in range(0, len(positions), settings.chunk_rows):
                chunk = positions[start : start + settings.chunk_rows]
                where = f"the vectors of {len(chunk)} items from {self._name(int(chunk[0]))} on"
                rows, output = to_rows(self._encode(chunk), len(chunk), where)
                if self._dim is not None:
                    check_kind(rows, output, self._dim, self.output.dtype, where)
                else:
                    self._dim, self.output = rows.shape[1], output
                self.encoded += len(chunk)
                self._store(chunk, rows, seen[chunk])
                advance(len(chunk))

    def collect(self, keys: Keys, rows: NDArray[np.int64], source: Positions) -> tuple[Rows, Positions]:
        """Read the vectors of items back, once all of them were encoded.

        Args:
            keys: of the items, (m, 32).
            rows: their newest rows, -1 for none; shape (m,).
            source: which item's encoding made each vector, -1 for none; shape (m,).

        Returns:
            The vectors (m, dim), and which items have neither a sound row nor a held vector.
        """
        store = self._vectors
        lost = rows < 0
        if store.dim is None:
            dtype = self._held[0].dtype if self._held else np.float32
            vectors: Rows = np.zeros((len(keys), self._dim or 0), dtype)
        else:
            vectors, damaged = store.gather(keys, rows)
            lost[damaged] = True
        if self._held:
            slot = np.where(source < 0, -1, self._slot[source])
            held = slot >= 0
            vectors[held] = np.concatenate(self._held)[slot[held]]
            lost[held] = False
        return vectors, np.flatnonzero(lost)

    def warn_of_nonfinite(self) -> None:
        """Say once which items' vectors were not stored because they are not finite."""
        if self._nonfinite:
            warnings.warn(self._describe_nonfinite(self._nonfinite), DejavecWarning, stacklevel=4)

    def _store(self, chunk: Positions, rows: Rows, seen: NDArray[np.int64]) -> None:
        """Append one chunk; hold in memory what is not finite or cannot be written."""
        bad = nonfinite(rows)
        if len(bad):
            if self._settings.on_nonfinite == "raise":
                message = self._describe_nonfinite(chunk[bad].tolist())
                raise NonFiniteVectorsError(message, path=str(self._vectors.path))
            self._nonfinite += chunk[bad].tolist()
            self._hold(chunk[bad], rows[bad])
            chunk, rows, seen = (np.delete(part, bad, axis=0) for part in (chunk, rows, seen))
        if not self._writes:
            self._hold(chunk, rows)
        elif len(chunk):
            try:
                self.appended += self._vectors.append(self._keys[chunk], rows, self.output, seen)
                self.output = self._vectors.output or self.output
            except WRITE_ERRORS as error:
                if self._settings.on_write_error == "raise":
                    raise
                self._writes = False
                self._hold(chunk, rows)
                if self._warn_unwritten is not None:
                    self._warn_unwritten(
                        f"vectors could not be written and are held in memory for this call only: {error}"
                    )

    def _hold(self, chunk: Positions, rows: Rows) -> None:
        start = sum(map(len, self._held))
        self._slot[chunk] = np.arange(start, start + len(chunk))
        # A copy: the model may use its output buffer again for the next chunk.
        self._held.append(rows.copy())

    def _list(self, positions: Positions) -> str:
        names = [self._name(int(position)) for position in positions[:_NAMED]]
        more = len(positions) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")

    def _describe_nonfinite(self, positions: list[int]) -> str:
        return (
            f"{self._vectors.path}: expected finite vectors, found NaN or infinity in those of "
            f"{self._list(np.array(positions))}; they are not stored"
        )
