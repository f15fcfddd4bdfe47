"""Push: the rows of a cache that a store lacks, as segments; and the deletions that it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

import numpy as np

from dejavec.keys.items import Keys, words
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.fetch import nbytes
from dejavec.remote.link import Link
from dejavec.remote.listing import read_namespace
from dejavec.remote.names import META
from dejavec.remote.namespace import Namespace, namespace_of
from dejavec.remote.objects import Objects
from dejavec.remote.segment import Segment, segment_of
from dejavec.remote.tombstones import NONE, Pairs, joined, name_of
from dejavec.remote.urls import place
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.warn import warn
from dejavec.transfer.pieces import Piece, newest_keys, pieces

SEGMENT_BYTES = 128 << 20
"""About how many bytes of rows a segment has."""

_MOST_PART = 4
"""A part of rows that is this many times as large as a segment should be is cut."""

_AT_ONCE = 2
"""How many segments are hashed and written at a time, each in memory."""

_BLOCK = 1 << 20


@dataclass
class Pushed:
    """What a push did; with ``dry_run``, would do.

    Attributes:
        namespace: the directory below the address.
        rows: how many rows were written.
        bytes: the bytes of their data files.
        segments: in how many segments.
        there: how many rows the store had already.
        deleted: how many rows were deleted in the store, as they were deleted here.
        damaged: how many rows here have a checksum mismatch, and were left out.
        skipped: objects in the store that are not in form, or half uploaded.
    """

    namespace: str
    rows: int = 0
    bytes: int = 0
    segments: int = 0
    there: int = 0
    deleted: int = 0
    damaged: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def push(
    cache: KeyedCache,
    url: str,
    *,
    texts: bool = False,
    segment_bytes: int | None = None,
    dry_run: bool = False,
    kept: bool = True,
    total: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
) -> Pushed:
    """Do what ``EmbeddingCache.push`` says.

    Args:
        cache: the cache, which may be read-only.
        url: the address.
        texts: whether kept texts are shared, too.
        segment_bytes: about how many bytes of rows a segment has; None: :data:`SEGMENT_BYTES`.
        dry_run: whether nothing is written.
        kept: whether the index of the store stays in the cache's directory, for the next push.
        total: is called with the number of rows to write; its result is called with numbers of written rows.
    """
    namespace = namespace_of(cache)
    objects = Objects(place(url, missing="empty" if dry_run else "make"))
    with Link(cache, objects, namespace, kept=kept and not dry_run) as link:
        link.index.sync()
        return push_over(link, texts=texts, segment_bytes=segment_bytes, dry_run=dry_run, total=total)


def push_over(
    link: Link,
    *,
    keys: Keys | None = None,
    texts: bool = False,
    segment_bytes: int | None = None,
    dry_run: bool = False,
    total: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
) -> Pushed:
    """Push over a link whose index is in sync.

    Args:
        link: the link.
        keys: the keys of rows that may be new; None: all of the cache.
        texts: as in :func:`push`.
        segment_bytes: likewise.
        dry_run: likewise.
        total: likewise.
    """
    name = link.namespace.name
    done = Pushed(name)
    segment_bytes = segment_bytes or SEGMENT_BYTES
    if texts and link.cache.has_texts():
        warn(
            f"{link.objects.url} gets the texts of {link.cache.path}",
            remedy="whoever can read it can read them",
        )
    done.deleted = _push_deletions(link, dry_run=dry_run)
    missing = _missing(link, newest_keys(link.cache) if keys is None else keys, done)
    advance = total(len(missing))
    if dry_run:
        done.rows, done.bytes = len(missing), len(missing) * max(link.cache.row_bytes - 40, 0)
    elif len(missing):
        proofs = link.cache.proofs
        ours = replace(link.namespace, proven=tuple(proofs.read()), mixed=proofs.is_mixed())
        _ensure_meta(link.objects, ours)
        found = pieces(link.cache, texts=texts, keys=missing, most=segment_bytes)
        _write_all(link, _counted(_cut(found, segment_bytes), done), done, advance)
    done.skipped = link.index.skipped
    return done


def write(objects: Objects, segment: Segment) -> None:
    """Write a segment: its data files, and its commit last.

    Raises:
        StorageError: it could not be written. Without a commit, nobody reads its files.
    """
    commit = segment.commit
    name = commit.name
    for part, buffers in segment.files.items():
        objects.put(f"{commit.namespace}/{name.file(part)}", buffers)
    objects.put(f"{commit.namespace}/{name.file('keys')}", [commit.to_bytes()])


def unnamed(segment: Segment, pairs: Pairs) -> Segment:
    """Return a segment of the same rows by a name that no tombstone names."""
    while pairs.dead(segment.commit.name.digest, segment.commit.keys, (), segment.commit.sources).any():
        segment = segment.again()
    return segment


def _missing(link: Link, keys: Keys, done: Pushed) -> Keys:
    """Return the keys that the store lacks."""
    found = [np.zeros((0, 32), np.uint8)]
    for at in range(0, len(keys), _BLOCK):
        block = keys[at : at + _BLOCK]
        positions, _ = link.index.find(block)
        done.there += len(positions)
        found.append(np.delete(block, positions, axis=0))
    return np.ascontiguousarray(np.concatenate(found))


def _push_deletions(link: Link, *, dry_run: bool) -> int:
    """Write tombstones for the rows that were deleted here, and return how many rows they name."""
    keys, position = link.deleted()
    deleted = 0
    while len(keys):
        positions, places = link.index.find(keys)
        if not len(positions):
            break
        digests = [link.index.name(number).digest for number in places.numbers.tolist()]
        order = np.argsort(words(keys[positions]))
        pairs = Pairs(
            np.ascontiguousarray(keys[positions][order]),
            np.frombuffer(b"".join(map(bytes.fromhex, digests)), np.uint8).reshape(-1, 32)[order],
            places.checksums[order],
        )
        deleted += len(pairs)
        if dry_run:
            break
        content = pairs.to_bytes(link.namespace.name)
        link.objects.put(f"{link.namespace.name}/{name_of(content).file}", [content])
        # Other segments may have the same keys.
        link.index.sync()
    if position and not dry_run:
        link.told(position)
    return deleted


def _ensure_meta(objects: Objects, namespace: Namespace) -> None:
    """Write ``meta.json`` if it is missing or damaged, or does not know who made the rows."""
    try:
        there = read_namespace(objects, namespace.name)
    except DefectError:
        there = namespace
    else:
        proven = [*there.proven, *(one for one in namespace.proven if one not in there.proven)]
        new = replace(there, proven=tuple(proven), mixed=there.mixed or namespace.mixed)
        if new == there:
            return
        there = new
    objects.put(f"{namespace.name}/{META}", [there.to_bytes()])


def _cut(found: Iterator[Piece], most: int) -> Iterator[Piece]:
    """Cut pieces that are much larger than a segment should be: rows may have very different lengths."""
    for piece in found:
        size = nbytes(piece.rows)
        if size <= most * _MOST_PART or len(piece.keys) < 2:
            yield piece
            continue
        half = len(piece.keys) // 2
        for part in (slice(0, half), slice(half, None)):
            texts = None if piece.texts is None else piece.texts[part]
            damaged = piece.damaged if part.start == 0 else 0
            rows = piece.rows[part]
            yield from _cut(iter([Piece(np.ascontiguousarray(piece.keys[part]), rows, texts, damaged)]), most)


def _counted(found: Iterator[Piece], done: Pushed) -> Iterator[Piece]:
    for piece in found:
        done.damaged += piece.damaged
        if len(piece.keys):
            yield piece


def _write_all(link: Link, found: Iterator[Piece], done: Pushed, advance: Callable[[int], object]) -> None:
    """Hash and write some segments at a time."""
    name, dtype = link.namespace.name, np.dtype(link.namespace.form.dtype)
    pairs = link.index.pairs() if link.index.listing.tombstones else joined([NONE])

    def write_one(piece: Piece) -> Segment:
        rows = piece.rows.astype(dtype, copy=False)
        segment = unnamed(segment_of(name, piece.keys, rows, piece.texts), pairs)
        write(link.objects, segment)
        return segment

    def collect(some: set[Future[Segment]]) -> None:
        for future in some:
            segment = future.result()
            rows = len(segment.commit.keys)
            done.rows, done.bytes, done.segments = (
                done.rows + rows,
                done.bytes + segment.bytes,
                done.segments + 1,
            )
            advance(rows)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="dejavec-push") as pool:
        running: set[Future[Segment]] = set()
        for piece in found:
            running.add(pool.submit(write_one, piece))
            if len(running) > _AT_ONCE:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                collect(ended)
        ended, _ = wait(running)
        collect(ended)
