"""Which rows of a namespace lie where: what a compaction copies, and what it may remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import as_bytes
from dejavec.remote.defects import DefectError
from dejavec.remote.index import RemoteIndex
from dejavec.remote.listing import Part
from dejavec.remote.names import SegmentName
from dejavec.remote.segment import spans_of


@dataclass
class Survey:
    """What a compaction knows of the segments of a namespace.

    A segment is better than another if it has no deleted rows, or is larger; of equal size, if its digest is.

    Attributes:
        fresh: the rows of each that count and that no better one has, or not with their text (n,).
        replaced: those without such rows, each with whether better ones have had all of its rows for long.
        conflicting: those with a row that others have with different bytes.
        deleted: those with deleted rows.
    """

    fresh: dict[SegmentName, NDArray[np.int64]] = field(default_factory=dict)
    replaced: dict[SegmentName, bool] = field(default_factory=dict)
    conflicting: set[SegmentName] = field(default_factory=set)
    deleted: set[SegmentName] = field(default_factory=set)

    def is_worth_a_copy(self, names: Sequence[SegmentName]) -> bool:
        """Return whether one segment in place of these is better: of several, or of one with deleted rows."""
        return len(names) > 1 or not self.deleted.isdisjoint(names)


@dataclass
class _Better:
    """What the segments have that were visited.

    Attributes:
        checksums: the checksum of each key's row in the best one.
        differing: all checksums of the keys whose rows differ.
        old: the keys that an old one has.
        texts: the keys whose text one has, with whether an old one has it.
    """

    checksums: dict[bytes, int] = field(default_factory=dict)
    differing: dict[bytes, set[int]] = field(default_factory=dict)
    old: set[bytes] = field(default_factory=set)
    texts: dict[bytes, bool] = field(default_factory=dict)

    def has(self, key: bytes, checksum: int, *, text: bool) -> bool:
        """Return whether a row is there, with its text if it has one."""
        is_there = self.checksums.get(key) == checksum or checksum in self.differing.get(key, ())
        return is_there and (not text or key in self.texts)

    def has_long(self, key: bytes, *, text: bool) -> bool:
        """Return whether an old segment has the row of a key, and its text if it has one."""
        return key in self.old and (not text or self.texts[key])

    def add(self, key: bytes, checksum: int, *, text: bool, old: bool) -> None:
        """Note a row."""
        first = self.checksums.setdefault(key, checksum)
        if first != checksum:
            self.differing.setdefault(key, {first}).add(checksum)
        if old:
            self.old.add(key)
        if text:
            self.texts[key] = self.texts.get(key, False) or old


def survey(index: RemoteIndex, before: datetime) -> Survey:
    """Read all commits, the best segments first. Memory grows with the keys.

    Args:
        index: the index of the namespace, in sync.
        before: segments that are older are old.

    Raises:
        StorageError: the store could not be read.
    """
    segments, pairs = index.listing.segments, index.pairs()
    found, better = Survey(), _Better()
    alive: dict[SegmentName, NDArray[np.int64]] = {}
    for name in segments:
        if (commit := index.commit(name)) is not None:
            dead = pairs.dead(name.digest, commit.keys, commit.chains, commit.sources)
            alive[name] = np.flatnonzero(~dead).astype(np.int64)
            if dead.any():
                found.deleted.add(name)

    def rank(name: SegmentName) -> tuple[bool, int, str]:
        return name not in found.deleted, data_bytes(segments[name]), name.digest

    long_there: dict[SegmentName, bool] = {}
    for name in sorted(alive, key=rank, reverse=True):
        if (commit := index.commit(name)) is None:
            continue
        rows = alive[name]
        keys, checksums = as_bytes(commit.keys[rows]), commit.checksums[rows].tolist()
        texts = _has_text(index, name)[rows].tolist()
        is_old = max(part.modified for part in segments[name].values()) <= before
        there = [better.has(*row, text=text) for *row, text in zip(keys, checksums, texts, strict=True)]
        found.fresh[name] = rows[~np.array(there, np.bool_)]
        if not len(found.fresh[name]):
            of_rows = [better.has_long(key, text=text) for key, text in zip(keys, texts, strict=True)]
            long_there[name] = all(of_rows) if of_rows else is_old
        for key, checksum, text in zip(keys, checksums, texts, strict=True):
            better.add(key, checksum, text=text, old=is_old)
    for name, rows in alive.items():
        # Two who did not know of each other pushed different vectors: both stay, so that nobody's changes.
        commit = index.commit(name) if better.differing else None
        if commit is not None and not better.differing.keys().isdisjoint(as_bytes(commit.keys[rows])):
            found.conflicting.add(name)
        elif name in long_there:
            found.replaced[name] = long_there[name]
    return found


def data_bytes(parts: Mapping[str, Part]) -> int:
    """Return the bytes of a segment's data files."""
    return sum(part.size for file, part in parts.items() if file != "keys")


def _has_text(index: RemoteIndex, name: SegmentName) -> NDArray[np.bool_]:
    """Return which rows of a segment have a text (n,). If that cannot be read, all may have one."""
    part = index.listing.segments[name].get("texts-spans.npy")
    if part is None:
        return np.zeros(name.rows, np.bool_)
    content = index.objects.get(f"{index.namespace.name}/{name.file('texts-spans.npy')}", part.size)
    try:
        if content is None:
            raise DefectError("cut off, or gone")
        spans = spans_of(content, name.rows)
    except DefectError:
        return np.ones(name.rows, np.bool_)
    has_text: NDArray[np.bool_] = spans[:, 1] > spans[:, 0]
    return has_text
