"""Runs in which something is missing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benches import checks, floors
from benches.cases.base import SMALL, Case, Measured, Place, measured
from benches.model import NumberedModel
from benches.work import Setup

_RECORD_BYTES = 40
_SOME = (Setup(10_000), Setup(100_000))


class ColdFill(Case):
    """Nothing is held: everything but the model, in groups of 8,192 where the contestant has groups."""

    name = "cold"
    title = "Cold fill, everything but the model"

    def setups(self, small: bool) -> Sequence[Setup]:
        return SMALL if small else _SOME

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec, list[str]",
            "dejavec, synced at close",
            "mteb NumpyCache",
            "mteb FaissCache",
            "LMDB",
            "LMDB, not synced",
            "RocksDB",
            "RocksDB, not synced",
            "SQLite",
            "SQLite, not synced",
            "diskcache",
            "LangChain",
            floors.WRITE,
        )

    def prepare(self, place: Place) -> None:
        """Nothing: each round begins with an empty directory."""

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        if place.contestant == floors.WRITE:
            vectors = np.asarray(place.work.vectors())
            return Measured(floors.write(vectors, rows * _RECORD_BYTES, place.scratch / "file"), rows)
        subject, model = place.subject(place.scratch / "store"), NumberedModel(place.work)
        inputs = subject.inputs(place.work.dataset())
        found, result = measured(lambda: subject.run(inputs, model), rows)
        checks.equal("texts encoded", model.encoded, rows)
        checks.same(np.asarray(result), place.work.vectors())
        subject.close()
        # What was written must be there for the next process.
        again, idle = place.subject(place.scratch / "store"), NumberedModel(place.work)
        checks.same(np.asarray(again.run(inputs, idle)), place.work.vectors())
        checks.equal("texts encoded again", idle.encoded, 0)
        return Measured(found.seconds - model.seconds, rows, found.memory)


class SomeMissing(Case):
    """One text in ten is missing."""

    name = "misses"
    title = "Encode with 10 % misses, without the model"

    def setups(self, small: bool) -> Sequence[Setup]:
        return SMALL if small else _SOME

    def contestants(self) -> Sequence[str]:
        return ("dejavec", "dejavec, list[str]", "mteb NumpyCache", "mteb FaissCache", "LMDB", "RocksDB")

    def prepare(self, place: Place) -> None:
        if not _partial(place).exists():
            subject = place.subject(_partial(place))
            dataset = place.work.dataset()
            held = dataset.select([row for row in range(len(dataset)) if row % 10])
            subject.run(subject.inputs(held), NumberedModel(place.work))
            subject.close()

    def measure(self, place: Place) -> Measured:
        store = place.scratch / "store"
        shutil.copytree(_partial(place), store)
        subject, model = place.subject(store), NumberedModel(place.work)
        inputs = subject.inputs(place.work.dataset())
        found, result = measured(lambda: subject.run(inputs, model), place.setup.rows)
        checks.equal("texts encoded", model.encoded, -(-place.setup.rows // 10))
        checks.same(np.asarray(result), place.work.vectors())
        return Measured(found.seconds - model.seconds, found.items, found.memory)


class Duplicates(Case):
    """Each text comes ten times; all are held."""

    name = "duplicates"
    title = "Warm encode with 90 % duplicates"

    def setups(self, small: bool) -> Sequence[Setup]:
        return SMALL if small else _SOME

    def contestants(self) -> Sequence[str]:
        return ("dejavec", "dejavec, list[str]", "mteb NumpyCache", "LMDB", "RocksDB", "dict + NumPy")

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        numbers = np.random.default_rng(1).permutation(np.arange(rows) % (rows // 10))
        subject, model = place.subject(), NumberedModel(place.work)
        inputs = subject.inputs(place.work.dataset().select(numbers).flatten_indices())
        subject.warm_up()
        found, result = measured(lambda: subject.run(inputs, model), rows)
        checks.equal("texts encoded", model.encoded, 0)
        checks.same(np.asarray(result), place.work.vectors(), numbers)
        return found


def _partial(place: Place) -> Path:
    full = place.store()
    return full.with_name(f"{full.name}-partial")
