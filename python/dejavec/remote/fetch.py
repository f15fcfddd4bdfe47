"""Take rows from a namespace into a local cache: whole segments, or ranges of just the wanted rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys
from dejavec.remote.checksums import Checksums, row_checksums
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.index import RemoteIndex
from dejavec.remote.names import SegmentName
from dejavec.remote.objects import PIECE_BYTES
from dejavec.remote.ranges import merged
from dejavec.remote.segment import (
    HEADER_BYTES,
    check_indices,
    indptr_of,
    rows_of,
    texts_of,
)
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.ahead import one_ahead
from dejavec.transfer.merge import join_proofs
from dejavec.vectors.ragged import Ragged, Rows, offsets_of
from dejavec.vectors.stored import nonfinite

_WHOLE = 2
"""A segment is read whole if at least one in this many of its rows is wanted."""

_ROUNDS = 8
"""How often segments that are gone or bad are replaced by others with the same keys."""

_RANGES_AT_ONCE = 4096


@dataclass
class Taken:
    """What was taken.

    Attributes:
        rows: how many rows were appended.
        bytes: their bytes.
        skipped: rows that were left out.
    """

    rows: int = 0
    bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def take(
    index: RemoteIndex,
    cache: KeyedCache,
    keys: Keys,
    *,
    texts: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> Taken:
    """Append the rows of keys that the namespace has and the cache lacks.

    Args:
        index: the index of the namespace.
        cache: the cache, of the same identity and form.
        keys: different keys (n, 32).
        texts: whether shared texts are kept beside the rows. They come with whole segments alone.
        advance: is called with the number of rows that were taken.

    Raises:
        StorageError: the store could not be read, or the cache not be written.
    """
    taken = Taken()
    for _ in range(_ROUNDS):
        keys = np.ascontiguousarray(keys[cache.lookup(keys) < 0])
        positions, places = index.find(keys)
        if not len(positions):
            break
        order = np.lexsort((places.rows, places.numbers))
        starts = np.flatnonzero(np.diff(places.numbers[order], prepend=-1))
        parts = [
            Wanted(
                index.name(int(places.numbers[part[0]])),
                np.ascontiguousarray(keys[positions[part]]),
                places.rows[part],
                places.checksums[part],
            )
            for part in np.split(order, starts[1:])
        ]
        is_whole = True
        for wanted, found in _read_ahead(index, parts, texts=texts):
            if isinstance(found, DefectError):
                index.refuse(wanted.segment, str(found))
                is_whole = False
            else:
                _append(index, cache, wanted, found, taken)
            advance(len(wanted.keys))
        if is_whole:
            break
        index.sync()
    return taken


_Found = tuple[Rows, list[str | None] | None]
"""Rows and, if they are wanted and there are any, their texts."""


@dataclass(frozen=True)
class Wanted:
    """Rows of one segment.

    Attributes:
        segment: the segment.
        keys: the key of each (n, 32).
        rows: the row numbers in the segment, ascending (n,).
        checksums: the checksum of each (n,).
    """

    segment: SegmentName
    keys: Keys
    rows: NDArray[np.int64]
    checksums: Checksums


def _read_ahead(
    index: RemoteIndex, parts: Sequence[Wanted], *, texts: bool
) -> Iterator[tuple[Wanted, _Found | DefectError]]:
    """Return the rows of each segment, or what is wrong with it. The next one is read meanwhile."""

    def read(wanted: Wanted) -> _Found | DefectError:
        try:
            if len(wanted.rows) * _WHOLE >= wanted.segment.rows:
                return read_whole(index, wanted, texts=texts)
            return _read_ranges(index, wanted), None
        except DefectError as defect:
            return defect

    found = ((wanted, read(wanted)) for wanted in parts)
    return found if len(parts) == 1 else one_ahead(found)


def _append(index: RemoteIndex, cache: KeyedCache, wanted: Wanted, found: _Found, taken: Taken) -> None:
    keys, (rows, kept) = wanted.keys, found
    bad = nonfinite(rows)
    if len(bad):
        taken.skipped.append(Skipped(wanted.segment.file("keys"), f"{len(bad)} rows are not finite"))
        sound = np.delete(np.arange(len(rows)), bad)
        keys, rows = np.ascontiguousarray(keys[sound]), rows[sound]
        kept = None if kept is None else [kept[at] for at in sound.tolist()]
    if not len(keys):
        return
    namespace = index.namespace
    output = cache.output or namespace.output
    join_proofs(cache, namespace.proven, mixed=namespace.mixed)
    dtype = cache.dtype
    appended = cache.append(
        keys, rows if dtype is None else rows.astype(dtype, copy=False), output, None, kept
    )
    taken.rows += appended
    taken.bytes += int(nbytes(rows) * appended / len(keys))


def nbytes(rows: Rows) -> int:
    """Return the bytes of rows."""
    if not isinstance(rows, Ragged):
        return rows.nbytes
    indices = 0 if rows.indices is None else rows.indices.nbytes
    return sum(part.nbytes for part in rows.parts) + indices + rows.indptr.nbytes


def read_whole(index: RemoteIndex, wanted: Wanted, *, texts: bool) -> tuple[Rows, list[str | None] | None]:
    """Return rows of a segment that is read whole, and their texts, if there are any.

    Raises:
        DefectError: the segment is gone or damaged.
    """
    commit = index.commit(wanted.segment)
    if commit is None:
        raise DefectError("gone, or damaged")
    if not np.array_equal(commit.keys[wanted.rows], wanted.keys):
        raise DefectError("its keys are not those of the index")
    parts = list(index.namespace.form.parts)
    if texts and "texts.npy" in commit.files:
        parts += ["texts.npy", "texts-spans.npy"]
    contents: dict[str, Any] = {}
    for part in parts:
        content = index.objects.get(
            f"{index.namespace.name}/{wanted.segment.file(part)}", commit.files[part].size
        )
        if content is None:
            raise DefectError(f"{part} is gone, or cut off")
        contents[part] = content
    rows = rows_of(commit, index.namespace.form, contents)
    kept = texts_of(commit, contents) if "texts.npy" in contents else None
    if len(wanted.rows) == len(rows):
        return rows, kept
    return rows[wanted.rows], None if kept is None else [kept[at] for at in wanted.rows.tolist()]


def _read_ranges(index: RemoteIndex, wanted: Wanted) -> Rows:
    """Return rows of a segment, each read by its range and compared with its checksum.

    Raises:
        DefectError: the segment is gone or damaged.
    """
    form = index.namespace.form
    size = form.element_bytes
    if form.rows == "dense":
        data = _read(index, wanted.segment, "vectors.npy", wanted.rows * size, (wanted.rows + 1) * size)
        rows: Rows = data.view(form.dtype).reshape(-1, form.dim)
    else:
        name = f"{index.namespace.name}/{wanted.segment.file('indptr.npy')}"
        content = index.objects.get(name, HEADER_BYTES + 8 * (wanted.segment.rows + 1))
        if content is None:
            raise DefectError("indptr.npy is gone, or cut off")
        indptr = indptr_of(content, wanted.segment.rows, form)
        starts, ends = indptr[wanted.rows], indptr[wanted.rows + 1]
        data = _read(index, wanted.segment, form.parts[0], starts * size, ends * size).view(form.dtype)
        offsets = offsets_of(ends - starts)
        if form.rows == "ragged":
            rows = Ragged(data.reshape(-1, form.dim), offsets)
        else:
            indices = _read(index, wanted.segment, "indices.npy", starts * 4, ends * 4).view("<i4")
            check_indices(indices, form)
            rows = Ragged(data, offsets, indices, form.dim)
    damaged = np.flatnonzero(row_checksums(rows) != wanted.checksums)
    if len(damaged):
        raise DefectError(
            f"row {wanted.rows[damaged[0]]} is damaged: its checksum is not the one of the commit"
        )
    return rows


def _read(
    index: RemoteIndex, segment: SegmentName, part: str, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the bytes of ranges of a data file, one after the other. The ranges begin behind the header."""
    whole = np.empty(int((ends - starts).sum()), np.uint8)
    filled = np.flatnonzero(ends > starts)
    if not len(filled):
        return whole
    starts, ends = starts[filled] + HEADER_BYTES, ends[filled] + HEADER_BYTES
    firsts, lasts, numbers = merged(starts, ends, PIECE_BYTES)
    at = 0
    name = f"{index.namespace.name}/{segment.file(part)}"
    for begin in range(0, len(firsts), _RANGES_AT_ONCE):
        end = min(begin + _RANGES_AT_ONCE, len(firsts))
        found = index.objects.ranges(name, firsts[begin:end].tolist(), lasts[begin:end].tolist())
        if found is None:
            raise DefectError(f"{part} is gone, or cut off")
        for position in np.flatnonzero((numbers >= begin) & (numbers < end)).tolist():
            number = int(numbers[position])
            start = int(starts[position] - firsts[number])
            length = int(ends[position] - starts[position])
            whole[at : at + length] = found[number - begin][start : start + length]
            at += length
    return whole
