"""Rows from one cache to another, beside a copy of its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from benches import checks, floors
from benches.cases.base import Case, Measured, Place, measured
from benches.cases.numbered import directory, fill, vectors
from benches.work import Setup

COMPACT = "dejavec compact"
MERGE = "dejavec merge"
COPY = "dejavec copy_to"


class Transfer(Case):
    """All rows of a cache into a new one."""

    name = "transfer"
    title = "All rows of a cache into a new one, synced"
    item = "row"
    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 1_000_000)]

    def contestants(self) -> Sequence[str]:
        return (MERGE, COPY, floors.COPY)

    def prepare(self, place: Place) -> None:
        fill(place)

    def measure(self, place: Place) -> Measured:
        from dejavec import EmbeddingCache

        new, rows = place.scratch / "new", place.setup.rows
        if place.contestant == floors.COPY:
            return Measured(floors.copy(directory(place), new), rows)
        with EmbeddingCache(directory(place), mode="r") as cache:

            def merge() -> None:
                with EmbeddingCache(new, model="numbered@1", durability="close") as target:
                    target.merge(cache)

            found, _ = measured(merge if place.contestant == MERGE else lambda: cache.copy_to(new), rows)
        with EmbeddingCache(new, mode="r") as copy:
            for first, block in vectors(place.setup):
                checks.same(copy.vectors[first : first + len(block)], block)
        return found


class Compact(Case):
    """A cache of which half of the rows were deleted, at random."""

    name = "compact"
    title = "The rows that are left after half were deleted, into new files, synced"
    item = "row"
    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000 if small else 1_000_000)]

    def contestants(self) -> Sequence[str]:
        return (COMPACT, floors.COPY)

    def prepare(self, place: Place) -> None:
        fill(place)

    def measure(self, place: Place) -> Measured:
        from dejavec import EmbeddingCache

        work, left = place.scratch / "work", place.setup.rows // 2
        floors.copy(directory(place), work)
        gone = np.random.default_rng(0).permutation(place.setup.rows)[left:]
        with EmbeddingCache(work, model="numbered@1") as cache:
            cache.delete([str(number) for number in gone])
            os.sync()
            found, _ = measured(cache.compact, left)
            stays = np.setdiff1d(np.arange(place.setup.rows), gone)
            for first, block in vectors(place.setup):
                rows = np.searchsorted(stays, [first, first + len(block)])
                checks.same(cache.vectors[slice(*rows)], block[stays[slice(*rows)] - first])
        if place.contestant == floors.COPY:
            return Measured(floors.copy(work, place.scratch / "copy"), left)
        shutil.rmtree(work)
        return found
