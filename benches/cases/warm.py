"""A second run in which everything is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from benches import checks, floors, memory
from benches.cases.base import OTHER_VECTORS, Case, Measured, Place, measured
from benches.model import NumberedModel
from benches.work import Setup


class WarmEncode(Case):
    """The texts in the order in which they were stored."""

    name = "warm"
    title = "Warm encode, corpus order"
    order: ClassVar[str] = "corpus"

    def setups(self, small: bool) -> Sequence[Setup]:
        others = () if small or self.order != "corpus" else OTHER_VECTORS
        return (*super().setups(small), *others)

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec",
            "dejavec, list[str]",
            "dejavec, verify=False",
            "dejavec FaissCache",
            "mteb NumpyCache",
            "mteb FaissCache",
            "LMDB",
            "RocksDB",
            "SQLite",
            "diskcache",
            "LangChain",
            "dict + NumPy",
            floors.SHA256_ALL,
        )

    def takes_part(self, setup: Setup) -> list[str]:
        # mteb's caches return everything as float32.
        kept = setup.dtype == "float32"
        return [name for name in super().takes_part(setup) if kept or not name.startswith("mteb")]

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        if place.contestant == floors.SHA256_ALL:
            return Measured(floors.sha256(place.work, floors.cores()), rows)
        if place.contestant == floors.TAKE:
            seconds, taken = floors.take(place.work)
            checks.same(taken, place.work.vectors(), place.work.permutation())
            return Measured(seconds, rows)
        subject, model = place.subject(), NumberedModel(place.work)
        inputs = subject.inputs(_touched(place.work.dataset(self.order)))
        subject.warm_up()
        memory.settle(place.store(), place.setup.vector_bytes)
        found, result = measured(lambda: subject.run(inputs, model), rows)
        checks.equal("texts encoded", model.encoded, 0)
        numbers = None if self.order == "corpus" else place.work.permutation()
        checks.same(np.asarray(result), place.work.vectors(), numbers)
        return found


class WarmShuffled(WarmEncode):
    """The texts in another order, so that their vectors have to be gathered."""

    name = "shuffled"
    title = "Warm encode, shuffled"
    order = "shuffled"

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec",
            "dejavec, verify=False",
            "mteb NumpyCache",
            "LMDB",
            "RocksDB",
            floors.SHA256_ALL,
            floors.TAKE,
        )


class WarmTitled(WarmEncode):
    """Documents with titles, as in retrieval: three fields are hashed."""

    name = "titled"
    title = "Warm encode, titled documents"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else (Setup(100_000),)

    def contestants(self) -> Sequence[str]:
        return ("dejavec, titled documents", "mteb NumpyCache, titled documents")


def _touched(dataset: Any) -> Any:
    """Read the texts once: pages of a mapped input are nobody's result."""
    for column in dataset.data.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                np.frombuffer(buffer, np.uint8)[::4096].sum()
    return dataset
