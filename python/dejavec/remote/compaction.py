"""Many small segments become few large ones; what is not needed any more is removed after a grace period.

New segments are added first, so a reader finds every row at any time. A segment is removed only if each of
its rows that count lies in a larger segment, where segments of equal size are ordered by their digests. So
the largest one with a row stays, whatever several compactions do at a time. Memory grows with the keys.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys
from dejavec.remote.commit import MOST_CHAIN, MOST_SOURCES, Chain, Commit
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.fetch import Wanted, read_whole
from dejavec.remote.index import RemoteIndex
from dejavec.remote.listing import Listing, namespaces_of
from dejavec.remote.names import SegmentName
from dejavec.remote.objects import Objects
from dejavec.remote.push import SEGMENT_BYTES, unnamed, write
from dejavec.remote.segment import segment_of
from dejavec.remote.urls import place
from dejavec.vectors.ragged import Rows, joined

GRACE = timedelta(days=7)
"""How old a segment must be before others are removed for it, and how old what was half uploaded."""

_SMALL = 2
"""A segment is small if it has less than one in this many parts of the bytes that it should have."""


@dataclass
class Compacted:
    """What a compaction did; with ``dry_run``, would do.

    Attributes:
        merged: how many small segments were copied into large ones.
        written: how many large segments were written.
        rows: how many rows they have.
        removed: how many segments were removed, after the grace period.
        swept: how many half-uploaded files were removed, after the grace period.
        bytes: the bytes of all removed objects.
        skipped: objects that are not in form.
    """

    merged: int = 0
    written: int = 0
    rows: int = 0
    removed: int = 0
    swept: int = 0
    bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def compact(
    index: RemoteIndex,
    *,
    grace: timedelta = GRACE,
    segment_bytes: int | None = None,
    now: datetime | None = None,
    dry_run: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> Compacted:
    """Merge small segments of a namespace, and remove what others have replaced.

    Args:
        index: the index of the namespace, in sync.
        grace: how long a new segment is there before old ones are removed for it.
        segment_bytes: about how many bytes of rows a segment should have.
        now: the time; None: this machine's.
        dry_run: whether nothing is written or removed.
        advance: is called with the number of rows that were copied.

    Raises:
        StorageError: the store could not be read or written. What was done is whole.
    """
    done = Compacted()
    before = (now or datetime.now(UTC)) - grace
    most = segment_bytes or SEGMENT_BYTES
    replaced = _replaced(index, before)
    for group in _groups(index, replaced, most):
        _merge(index, group, done, dry_run=dry_run, advance=advance)
    for name, is_long_ago in replaced.items():
        if is_long_ago:
            done.removed += 1
            done.bytes += _remove(index, name, index.listing.segments[name], dry_run=dry_run)
    for name, parts in index.listing.uncommitted.items():
        # Nobody is uploading it any more.
        if max(part.modified for part in parts.values()) <= before:
            done.swept += len(parts)
            done.bytes += _remove(index, name, parts, dry_run=dry_run)
    done.skipped = index.skipped
    return done


def compact_all(
    url: str,
    *,
    grace: timedelta = GRACE,
    segment_bytes: int | None = None,
    now: datetime | None = None,
    dry_run: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> Compacted:
    """Do what :func:`compact` does, for all namespaces at an address."""
    objects = Objects(place(url))
    found, skipped = namespaces_of(objects)
    whole = Compacted(skipped=skipped)
    for namespace in found:
        with tempfile.TemporaryDirectory(prefix="dejavec-") as directory:
            index = RemoteIndex(objects, namespace, Path(directory) / "index")
            try:
                index.sync()
                done = compact(
                    index,
                    grace=grace,
                    segment_bytes=segment_bytes,
                    now=now,
                    dry_run=dry_run,
                    advance=advance,
                )
            finally:
                index.close()
        for entry in ("merged", "written", "rows", "removed", "swept", "bytes"):
            setattr(whole, entry, getattr(whole, entry) + getattr(done, entry))
        whole.skipped += done.skipped
    return whole


def _size(listing: Listing, name: SegmentName) -> int:
    """Return the bytes of a segment's data files."""
    return sum(part.size for file, part in listing.segments[name].items() if file != "keys")


def _replaced(index: RemoteIndex, before: datetime) -> dict[SegmentName, bool]:
    """Return the segments whose rows that count lie in larger ones, each with whether that is so long ago."""
    listing, pairs = index.listing, index.pairs()
    found: dict[SegmentName, bool] = {}
    # By key: the checksum of its row in the larger segments, None if they differ; and whether one is old.
    larger: dict[bytes, tuple[int | None, bool]] = {}
    for name in sorted(listing.segments, key=lambda name: (_size(listing, name), name.digest), reverse=True):
        commit = index.commit(name)
        if commit is None:
            continue
        alive = np.flatnonzero(~pairs.dead(name.digest, commit.keys, commit.chains, commit.sources))
        words = np.ascontiguousarray(commit.keys[alive]).view("V32").ravel().tolist()
        rows = list(zip(words, commit.checksums[alive].tolist(), strict=True))
        is_old = max(part.modified for part in listing.segments[name].values()) <= before
        there = [larger.get(key, (None, False)) for key, _ in rows]
        if all(other[0] == checksum for other, (_, checksum) in zip(there, rows, strict=True)):
            found[name] = all(other[1] for other in there) if rows else is_old
        for (key, checksum), (other, was_old) in zip(rows, there, strict=True):
            # Two who did not know of each other pushed different vectors: both stay.
            same = checksum if other == checksum or key not in larger else None
            larger[key] = (same, was_old or is_old)
    return found


def _groups(
    index: RemoteIndex, replaced: Mapping[SegmentName, bool], most: int
) -> Iterator[list[SegmentName]]:
    """Yield groups of small segments, each for one large one."""
    # Texts stay where they are: only some segments have them, and they are not copied into others.
    small = sorted(
        name
        for name, parts in index.listing.segments.items()
        if name not in replaced and _size(index.listing, name) * _SMALL < most and "texts.npy" not in parts
    )
    group: list[SegmentName] = []
    size = 0
    for name in small:
        if group and (size + _size(index.listing, name) > most or len(group) == MOST_SOURCES):
            yield group
            group, size = [], 0
        group.append(name)
        size += _size(index.listing, name)
    yield group


def _merge(
    index: RemoteIndex,
    group: Sequence[SegmentName],
    done: Compacted,
    *,
    dry_run: bool,
    advance: Callable[[int], object],
) -> None:
    """Write one segment with the rows of others that count and are nowhere else in a larger one."""
    keys: list[Keys] = []
    rows: list[Rows] = []
    chains: list[Chain] = []
    sources: list[NDArray[np.uint16]] = []
    merged = 0
    for name in group:
        found = _counting(index, name)
        if found is None:
            continue
        commit, counting = found
        if not len(counting):
            continue
        own, numbers = _chains_of(commit, name)
        if len(chains) + len(own) > MOST_SOURCES or any(len(chain) > MOST_CHAIN for chain in own):
            continue
        chosen = np.ascontiguousarray(commit.keys[counting])
        try:
            part, _ = read_whole(
                index, Wanted(name, chosen, counting, commit.checksums[counting]), texts=False
            )
        except DefectError as defect:
            index.refuse(name, str(defect))
            continue
        keys.append(chosen)
        rows.append(part)
        sources.append((numbers[counting] + len(chains)).astype(np.uint16))
        chains += own
        merged += 1
        advance(len(counting))
    if merged < 2:
        return
    done.merged += merged
    done.written += 1
    done.rows += sum(map(len, keys))
    if dry_run:
        return
    segment = segment_of(
        index.namespace.name,
        np.concatenate(keys),
        joined(rows),
        chains=chains,
        sources=np.concatenate(sources),
    )
    write(index.objects, unnamed(segment, index.pairs()))


def _counting(index: RemoteIndex, name: SegmentName) -> tuple[Commit, NDArray[np.int64]] | None:
    """Return the commit of a segment and its rows that the index has; None if it is bad."""
    commit = index.commit(name)
    if commit is None:
        return None
    positions, places = index.find(commit.keys)
    here = np.array([index.name(number) == name for number in np.unique(places.numbers).tolist()], np.bool_)
    numbers = np.unique(places.numbers)[here]
    return commit, positions[np.isin(places.numbers, numbers)].astype(np.int64)


def _chains_of(commit: Commit, name: SegmentName) -> tuple[list[Chain], NDArray[np.int64]]:
    """Return the chains of the rows of a segment when they leave it, and the chain of each row (n,)."""
    if not commit.chains:
        return [(name.digest,)], np.zeros(len(commit.keys), np.int64)
    return [(*chain, name.digest) for chain in commit.chains], commit.sources.astype(np.int64)


def _remove(index: RemoteIndex, name: SegmentName, parts: Iterable[str], *, dry_run: bool) -> int:
    """Remove files of a segment, and return their bytes."""
    found = index.listing.segments.get(name) or index.listing.uncommitted[name]
    if not dry_run:
        # The commit first: without it, nobody begins to read the others.
        files = sorted(parts, key=lambda part: part != "keys")
        index.objects.remove([f"{index.namespace.name}/{name.file(part)}" for part in files])
    return sum(part.size for part in found.values())
