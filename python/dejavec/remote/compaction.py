"""Many small segments become few large ones; what is not needed any more is removed after a grace period.

A segment with deleted rows is copied without them, whatever its size.

New segments are added first, so a reader finds every row at any time. A segment is removed only if each of
its rows that count, and its text, lies in a better segment: one without deleted rows, or a larger one, where
segments of equal size are ordered by their digests. So the best one with a row stays, whatever several
compactions do at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys, words
from dejavec.remote.commit import MOST_CHAIN, MOST_SOURCES, Chain, Commit
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.fetch import Wanted, read_whole
from dejavec.remote.index import RemoteIndex
from dejavec.remote.listing import namespaces_of
from dejavec.remote.names import SegmentName
from dejavec.remote.objects import Objects
from dejavec.remote.push import SEGMENT_BYTES, unnamed, write
from dejavec.remote.segment import segment_of
from dejavec.remote.survey import Survey, data_bytes, survey
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
    found = survey(index, before)
    for group in _groups(index, found, most):
        if found.is_worth_a_copy(group):
            _merge(index, group, found, done, dry_run=dry_run, advance=advance)
    for name, is_long_ago in found.replaced.items():
        # Who can read all tombstones may find other segments better, and remove those that are kept here.
        if is_long_ago and not index.bad_tombstones:
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


def _groups(index: RemoteIndex, found: Survey, most: int) -> Iterator[list[SegmentName]]:
    """Yield groups of small segments, each for one large one; and each other one with deleted rows, alone."""
    segments = index.listing.segments
    wanted = sorted(name for name, rows in found.fresh.items() if len(rows))
    small = {name for name in wanted if data_bytes(segments[name]) * _SMALL < most} - found.conflicting
    yield from ([name] for name in wanted if name in found.deleted and name not in small)
    # Those with texts have groups of their own, so that others need not be copied with them.
    for has_texts in (False, True):
        group: list[SegmentName] = []
        size = 0
        for name in wanted:
            if name not in small or ("texts.npy" in segments[name]) != has_texts:
                continue
            bytes_of_it = data_bytes(segments[name])
            if group and (size + bytes_of_it > most or len(group) == MOST_SOURCES):
                yield group
                group, size = [], 0
            group.append(name)
            size += bytes_of_it
        yield group


def _merge(
    index: RemoteIndex,
    group: Sequence[SegmentName],
    found: Survey,
    done: Compacted,
    *,
    dry_run: bool,
    advance: Callable[[int], object],
) -> None:
    """Write one segment with the fresh rows of others, and their texts."""
    keys: list[Keys] = []
    rows: list[Rows] = []
    texts: list[str | None] = []
    chains: list[Chain] = []
    sources: list[NDArray[np.uint16]] = []
    merged: list[SegmentName] = []
    for name in group:
        fresh, commit = found.fresh[name], index.commit(name)
        if commit is None:
            continue
        own, numbers = _chains_of(commit, name)
        if len(chains) + len(own) > MOST_SOURCES or any(len(chain) > MOST_CHAIN for chain in own):
            continue
        chosen = np.ascontiguousarray(commit.keys[fresh])
        try:
            part, kept = read_whole(index, Wanted(name, chosen, fresh, commit.checksums[fresh]), texts=True)
        except DefectError as defect:
            index.refuse(name, str(defect))
            continue
        keys.append(chosen)
        rows.append(part)
        texts += kept or [None] * len(fresh)
        sources.append((numbers[fresh] + len(chains)).astype(np.uint16))
        chains += own
        merged.append(name)
        advance(len(fresh))
    if not found.is_worth_a_copy(merged):
        return
    whole = np.concatenate(keys)
    at = _with_texts_first(whole, texts)
    done.merged += len(merged)
    done.written += 1
    done.rows += len(at)
    if dry_run:
        return
    segment = segment_of(
        index.namespace.name,
        np.ascontiguousarray(whole[at]),
        joined(rows) if len(at) == len(whole) else joined(rows)[at],
        [texts[position] for position in at.tolist()],
        chains=chains,
        sources=np.concatenate(sources)[at],
    )
    write(index.objects, unnamed(segment, index.pairs()))


def _with_texts_first(keys: Keys, texts: Sequence[str | None]) -> NDArray[np.intp]:
    """Return a position of each key (n,), ascending. A key may be there twice, once without its text."""
    order = np.argsort(np.array([text is None for text in texts]), kind="stable")
    return np.sort(order[np.unique(words(keys[order]), return_index=True)[1]])


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
