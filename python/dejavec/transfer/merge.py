"""Merge caches of one identity: the rows of others are appended to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import IdentityMismatchError, VectorsError
from dejavec.fill.settings import check_choice
from dejavec.fill.vector_store import Seen
from dejavec.identity.observed import Description
from dejavec.keys.items import Keys
from dejavec.storage.identity import difference, same
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.ahead import one_ahead
from dejavec.transfer.pieces import Piece, at, pieces, stored_form
from dejavec.vectors.compare import same_bytes
from dejavec.vectors.ragged import Rows

OnConflict = Literal["first", "last"]
"""Which vector counts if two caches have different ones for a text."""


@dataclass(frozen=True, eq=False)
class MergeOutcome:
    """What a merge did.

    Attributes:
        added: how many texts got a vector that had none.
        equal: how many vectors were stored already, with the same bytes.
        replaced: how many vectors were replaced: conflicts with ``on_conflict="last"``, and damaged rows.
        damaged: how many rows of the others have a checksum mismatch, and were left out.
        conflicts: the keys of the texts with different vectors (m, 32), in the order in which they were met.
        conflict_texts: their texts (m,), None for a text that the other cache does not keep.
    """

    added: int
    equal: int
    replaced: int
    damaged: int
    conflicts: Keys
    conflict_texts: list[str | None]


def merge(
    target: KeyedCache,
    others: Sequence[KeyedCache],
    *,
    on_conflict: OnConflict,
    keep_texts: bool,
    advance: Callable[[int], object],
    dry_run: bool = False,
) -> MergeOutcome:
    """Do what ``EmbeddingCache.merge`` says.

    Args:
        target: the cache that gets the rows.
        others: where they come from.
        on_conflict: ``"first"`` keeps the vector of the target, ``"last"`` takes that of the other cache.
        keep_texts: whether the texts come along.
        advance: is called with the number of rows that were read.
        dry_run: whether nothing is written. The counts are those that a merge would have.
    """
    check_choice("on_conflict", on_conflict, OnConflict)
    for other in others:
        _check_identity(target, other)
    formed = [cache for cache in (target, *others) if cache.output is not None]
    for other in formed[1:]:
        _check_form(formed[0], other)
    counts = {"added": 0, "equal": 0, "replaced": 0, "damaged": 0}
    conflicts: list[Keys] = [np.empty((0, 32), np.uint8)]
    conflict_texts: list[str | None] = []
    # Where the stored vectors are, the one that counts first. A dry run leaves them in their caches.
    holders = [target]
    for other in others:
        other.refresh()
        output = other.output
        if output is None:
            continue
        if not dry_run:
            join_proofs(target, other.proofs.read(), mixed=other.proofs.is_mixed())
        for piece in one_ahead(pieces(other, texts=True)):
            appended: int | None = None
            while appended is None:
                numbering = target.numbering
                there, equal, conflicting = _compared(holders, target, other, piece)
                wanted = ~equal & ~conflicting if on_conflict == "first" else ~equal
                keys, rows, texts = at(piece, wanted)
                appended = len(keys)
                if appended and not dry_run:
                    rows, kept = _as_stored(target, other, rows), texts if keep_texts else None
                    # None if a compaction gave other numbers to the rows.
                    appended = target.append(keys, rows, output, Seen(there[wanted], numbering), kept)
            # A key that another process stored meanwhile is left out.
            replaced = min(appended, int((there[wanted] >= 0).sum()))
            counts["replaced"] += replaced
            counts["added"] += appended - replaced
            if keep_texts and piece.texts is not None and equal.any() and not dry_run:
                target.put_texts(piece.keys[equal], at(piece, equal)[2] or [])
            counts["equal"] += int(equal.sum())
            counts["damaged"] += piece.damaged
            conflicts.append(piece.keys[conflicting])
            conflict_texts += at(piece, conflicting)[2] or [None] * int(conflicting.sum())
            advance(len(piece.keys) + piece.damaged)
        if dry_run:
            holders = [*holders, other] if on_conflict == "first" else [other, *holders]
    return MergeOutcome(**counts, conflicts=np.concatenate(conflicts), conflict_texts=conflict_texts)


def _check_identity(target: KeyedCache, other: KeyedCache) -> None:
    if not same(target.identity, other.identity):
        wanted, found = difference(target.identity, other.identity)
        raise IdentityMismatchError(
            other.path,
            expected=f"vectors of {wanted}, as {target.path} has",
            found=found,
            remedy="merge caches of one model and its settings",
        )


def _check_form(first: KeyedCache, other: KeyedCache) -> None:
    """Check that the vectors of a cache have the form of those of the first cache that has any."""
    ours, theirs = first.output, other.output
    if ours is None or theirs is None:
        return
    wanted = (ours.family, first.dim, ours.dtype)
    found = (theirs.family, other.dim, theirs.dtype)
    if wanted != found:
        text = "{} vectors of {} numbers, {}"
        raise VectorsError(
            other.path,
            expected=f"{text.format(*wanted)}, as {first.path} has",
            found=text.format(*found),
            remedy="convert them with copy_to",
        )


def _compared(
    holders: Sequence[KeyedCache], target: KeyedCache, other: KeyedCache, piece: Piece
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return each key's row in the first holder of one or -1, and which vectors are equal, or differ (n,).

    A vector is compared with the first sound one. Without any it is neither equal nor different.
    """
    there = np.full(len(piece.keys), -1, np.int64)
    equal = np.zeros(len(there), np.bool_)
    conflicting = np.zeros(len(there), np.bool_)
    for holder in holders:
        unknown = np.flatnonzero(~equal & ~conflicting)
        found = holder.lookup(np.ascontiguousarray(piece.keys[unknown]))
        known, rows = unknown[found >= 0], found[found >= 0]
        if not len(known):
            continue
        ours, damaged = holder.gather(np.ascontiguousarray(piece.keys[known]), rows)
        if holder is not target:
            rows[damaged] = -1  # A merge leaves them out.
        there[known] = np.where(there[known] < 0, rows, there[known])
        # Both as the target has them: it, and each of the others, may have a container of float32.
        alike = same_bytes(_as_stored(target, holder, ours), _as_stored(target, other, piece.rows[known]))
        equal[known], conflicting[known] = alike, ~alike
        equal[known[damaged]] = conflicting[known[damaged]] = False
    return there, equal, conflicting


def _as_stored(target: KeyedCache, other: KeyedCache, rows: Rows) -> Rows:
    """Return rows of another cache in the dtype of the target, which holds them exactly."""
    output = other.output
    if output is None:
        return rows
    dtype = target.dtype
    if dtype is None:
        dtype = stored_form(rows.dtype, other.container, output, other.identity)
    return rows.astype(dtype, copy=False)


def join_proofs(target: KeyedCache, theirs: Sequence[Description], *, mixed: bool) -> None:
    """Record who made the vectors of another cache, before they come.

    If nothing proves that one function made both, functions are asked again in each call.

    Args:
        target: the cache that gets them.
        theirs: the proven descriptions of the other cache.
        mixed: whether other functions may have made some of its vectors.
    """
    ours = target.proofs.read()
    if mixed:
        target.proofs.mix()
    elif len(target) == 0:
        for description in theirs:
            target.proofs.add(description)
    elif any(description in ours for description in theirs):
        return
    elif ours or theirs or "model" not in target.identity:
        target.proofs.mix()
