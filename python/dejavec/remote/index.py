"""The local index of a namespace: from a key to the segment and row that count.

The index is a cache itself, whose rows are places. So it is mapped, not loaded, and many processes share it.
Of several rows of a key, the one in the segment with the smallest digest counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import DejavecError
from dejavec.fill.vector_store import Seen
from dejavec.keys.items import Keys, words
from dejavec.remote import commit as commits
from dejavec.remote import tombstones
from dejavec.remote.checksums import Checksums
from dejavec.remote.commit import Commit
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.listing import Listing, Part, listing_of
from dejavec.remote.names import SegmentName, TombstoneName
from dejavec.remote.namespace import Namespace
from dejavec.remote.objects import Objects
from dejavec.remote.segment import check_sizes
from dejavec.remote.tombstones import Pairs
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.json_file import locked, read_record, write_record
from dejavec.vectors.output import Output

_PLACES = Output("numpy", "int64")
_BLOCK = 1 << 20
_KEPT_ROWS = 1 << 20
"""How many rows the commits have that are kept in memory until their rows are read."""

_ROW_BITS = 32


@dataclass(frozen=True)
class Places:
    """Where rows lie.

    Attributes:
        numbers: the number of the segment of each (n,).
        rows: the row in it (n,).
        checksums: the checksum of the row (n,).
    """

    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    checksums: Checksums


@dataclass
class _State:
    """What the index holds.

    Attributes:
        names: the segments that were ever seen. Their numbers are positions here, and stay.
        indexed: numbers of the segments whose rows are in the index.
        overlapping: numbers of those with a row that does not count, as another segment has its key.
        chained: numbers of those with rows that came from other segments.
        tombstones: the tombstones that were applied to the index.
    """

    names: list[SegmentName] = field(default_factory=list)
    indexed: set[int] = field(default_factory=set)
    overlapping: set[int] = field(default_factory=set)
    chained: set[int] = field(default_factory=set)
    tombstones: set[str] = field(default_factory=set)


class RemoteIndex:
    """The index of one namespace.

    Args:
        objects: the objects of the address.
        namespace: the namespace.
        directory: where the index is kept. Several processes may use it.

    Attributes:
        namespace: the namespace.
        objects: the objects of the address.
        listing: the listing of the last :meth:`sync`.
    """

    def __init__(self, objects: Objects, namespace: Namespace, directory: Path) -> None:
        self.objects = objects
        self.namespace = namespace
        self.listing = Listing({}, {}, [], [])
        self._file = directory / "index.json"
        _core.make_directories(str(directory), shared=_is_shared(directory.parent))
        self._places = directory / "places"
        self._refused: dict[SegmentName, str] = {}
        self._pairs: dict[TombstoneName, Pairs] = {}
        self._commits: dict[SegmentName, Commit] = {}
        self._bad_tombstones: dict[TombstoneName, str] = {}
        if self._places.exists() and read_record(self._file) is None:
            self._forget_all()
        try:
            self._cache = self._opened()
        except DejavecError:
            # It can be read again, so a damaged index is no error.
            self._forget_all()
            self._cache = self._opened()
        self._state = self._read()

    def _opened(self) -> KeyedCache:
        return KeyedCache(
            self._places,
            identity={"places of": self.namespace.name},
            containers=("npy",),
            durability="close",
            allow_network=True,
        )

    def _forget_all(self) -> None:
        self._file.unlink(missing_ok=True)
        shutil.rmtree(self._places, ignore_errors=True)

    def close(self) -> None:
        """Close the files of the index."""
        self._cache.close()

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out, and why."""
        name = self.namespace.name
        return [
            *self.listing.skipped,
            *(Skipped(f"{name}/{one.file('keys')}", why) for one, why in self._refused.items()),
            *(Skipped(f"{name}/{one.file}", why) for one, why in self._bad_tombstones.items()),
        ]

    @property
    def bad_tombstones(self) -> int:
        """How many tombstones could not be read."""
        return len(self._bad_tombstones)

    def name(self, number: int) -> SegmentName:
        """Return the name of a segment."""
        if number >= len(self._state.names):
            self._state = self._read()
        return self._state.names[number]

    def pairs(self) -> Pairs:
        """Return all deleted rows of the last listing."""
        for name in self.listing.tombstones:
            if name in self._pairs or name in self._bad_tombstones:
                continue
            content = self.objects.get(f"{self.namespace.name}/{name.file}", tombstones.size_of(name))
            try:
                if content is None:
                    raise DefectError("cut off, or gone")
                self._pairs[name] = tombstones.parse(name, self.namespace.name, content)
            except DefectError as defect:
                self._bad_tombstones[name] = str(defect)
        return tombstones.joined(
            [self._pairs[name] for name in self.listing.tombstones if name in self._pairs]
        )

    def refuse(self, name: SegmentName, reason: str) -> None:
        """Leave a segment out from the next :meth:`sync` on."""
        self._refused[name] = reason
        self._commits.pop(name, None)

    def sync(self, advance: Callable[[int], object] = lambda _: None) -> None:
        """Read the commits that are new, and apply new tombstones.

        Args:
            advance: is called with the number of rows that were indexed.

        Raises:
            StorageError: the store could not be read.
        """
        with locked(self._file):
            self.listing = listing_of(self.objects, self.namespace.name)
            self._state = state = self._read()
            live = {name for name in self.listing.segments if name not in self._refused}
            self._forget(state, live)
            numbers = {name: number for number, name in enumerate(state.names)}
            unread = sorted(name for name in live if numbers.get(name, -1) not in state.indexed)
            for name in unread:
                if name not in numbers:
                    numbers[name] = len(state.names)
                    state.names.append(name)
            if unread:
                # Before the rows: a number never means another segment.
                self._write(state)
                pairs = self.pairs()
            for name in unread:
                commit = self.commit(name)
                if commit is not None:
                    self._insert(state, numbers[name], name, commit, pairs)
                    state.indexed.add(numbers[name])
                advance(name.rows)
            if len(self._cache):
                self._cache.sync()
            self._write(state)

    def commit(self, name: SegmentName) -> Commit | None:
        """Return the commit of a segment of the last listing; None, and the segment is refused, if it is bad.

        Raises:
            StorageError: the store could not be read.
        """
        if name in self._commits:
            return self._commits[name]
        parts = self.listing.segments.get(name)
        if parts is None:
            return None
        whole = f"{self.namespace.name}/{name.file('keys')}"
        try:
            content = self.objects.get(whole, parts["keys"].size)
            if content is None:
                raise DefectError("cut off, or gone")
            found = commits.parse(name, content)
            self._check(found, parts)
        except DefectError as defect:
            self._refused[name] = str(defect)
            return None
        self._commits[name] = found
        if sum(one.rows for one in self._commits) > _KEPT_ROWS:
            del self._commits[next(iter(self._commits))]
        return found

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which keys the namespace has (n,)."""
        return self._cache.lookup(keys) >= 0

    def find(self, keys: Keys) -> tuple[NDArray[np.intp], Places]:
        """Look up keys.

        Returns:
            The positions of the keys that the namespace has (m,), and where their rows lie.
        """
        rows = self._cache.lookup(keys)
        positions = np.flatnonzero(rows >= 0)
        if not len(positions):
            none = np.zeros(0, np.int64)
            return positions, Places(none, none, none.view(np.uint64))
        found, damaged = self._cache.gather(np.ascontiguousarray(keys[positions]), rows[positions])
        sound = np.delete(np.arange(len(positions)), damaged)
        return positions[sound], _places(np.asarray(found)[sound])

    def all_keys(self) -> Sequence[Keys]:
        """Return all keys in blocks, in the order in which they were indexed."""
        self._cache.refresh()
        newest = np.flatnonzero(self._cache.is_newest())
        return [self._cache.keys_of(newest[at : at + _BLOCK]) for at in range(0, len(newest), _BLOCK)]

    def _forget(self, state: _State, live: set[SegmentName]) -> None:
        """Drop rows of segments that are gone, and rows that were deleted since."""
        gone = {number for number in state.indexed if state.names[number] not in live}
        new = [name for name in self.listing.tombstones if name.file not in state.tombstones]
        if not gone and not new:
            return
        dropped = 0
        if new:
            self.pairs()
            pairs = tombstones.joined([self._pairs[name] for name in new if name in self._pairs])
            dropped += self._drop_pairs(state, pairs)
            state.tombstones |= {name.file for name in new}
        if gone:
            for keys in self.all_keys():
                positions, places = self.find(keys)
                dropped += self._cache.delete(keys[positions[np.isin(places.numbers, list(gone))]])
            state.indexed -= gone
        if dropped:
            # Another segment may have these keys.
            state.indexed -= state.overlapping | state.chained
            state.overlapping &= state.indexed
            self._write(state)

    def _drop_pairs(self, state: _State, pairs: Pairs) -> int:
        positions, places = self.find(pairs.keys)
        chained = np.isin(places.numbers, list(state.chained))
        digests = np.array([bytes.fromhex(state.names[number].digest) for number in places.numbers], "V32")
        named = words(pairs.segments[positions])
        return self._cache.delete(pairs.keys[positions[chained | (digests == named)]])

    def _insert(self, state: _State, number: int, name: SegmentName, commit: Commit, pairs: Pairs) -> None:
        alive = np.flatnonzero(~pairs.dead(name.digest, commit.keys, commit.chains, commit.sources))
        if commit.chains:
            state.chained.add(number)
        for at in range(0, len(alive), _BLOCK):
            rows = alive[at : at + _BLOCK]
            keys = np.ascontiguousarray(commit.keys[rows])
            seen = Seen(self._cache.lookup(keys), self._cache.numbering)
            taken = seen.rows < 0
            positions, places = self.find(keys)
            for other in np.unique(places.numbers[places.numbers != number]).tolist():
                wins = state.names[other].digest > name.digest
                taken[positions[places.numbers == other]] = wins
                state.overlapping.add(other if wins else number)
            values = np.empty((len(rows), 2), np.int64)
            values[:, 0] = (number << _ROW_BITS) + rows
            values[:, 1] = commit.checksums[rows].view(np.int64)
            chosen = np.flatnonzero(taken)
            if len(chosen):
                self._cache.append(
                    np.ascontiguousarray(keys[chosen]), values[chosen], _PLACES, seen.at(chosen)
                )

    def _check(self, found: Commit, parts: Mapping[str, Part]) -> None:
        if found.namespace != self.namespace.name:
            raise DefectError("it belongs to another namespace")
        check_sizes(found, self.namespace.form)
        for part, file in found.files.items():
            if part not in parts:
                raise DefectError(f"half uploaded: {part} is missing")
            if parts[part].size != file.size:
                raise DefectError(f"{part} is cut off: {parts[part].size:,} of {file.size:,} bytes")

    def _read(self) -> _State:
        found: dict[str, Any] = read_record(self._file) or {}
        return _State(
            [SegmentName(*entry) for entry in found.get("names", [])],
            *(set(found.get(entry, ())) for entry in ("indexed", "overlapping", "chained", "tombstones")),
        )

    def _write(self, state: _State) -> None:
        record = {
            "names": [list(name) for name in state.names],
            **{
                entry: sorted(getattr(state, entry))
                for entry in ("indexed", "overlapping", "chained", "tombstones")
            },
        }
        write_record(self._file, record)


def _places(values: NDArray[np.int64]) -> Places:
    return Places(
        values[:, 0] >> _ROW_BITS,
        values[:, 0] & ((1 << _ROW_BITS) - 1),
        np.ascontiguousarray(values[:, 1]).view(np.uint64),
    )


def _is_shared(directory: Path) -> bool:
    return directory.is_dir() and directory.stat().st_mode & 0o2070 == 0o2070
