"""What a case is: who does what to how much, and how that is timed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from benches import memory
from benches.contestants import BY_NAME, Contestant
from benches.work import Setup, Work

Result = TypeVar("Result")

STANDARD = (Setup(10_000), Setup(100_000), Setup(1_000_000))
OTHER_VECTORS = (Setup(100_000, 1_024, "float16"), Setup(100_000, 768))
SMALL = (Setup(2_000),)

SLOW = {
    "LangChain": 10_000,
    "mteb FaissCache": 100_000,
    "diskcache": 100_000,
    "SQLite": 100_000,
    "LMDB": 100_000,
    "RocksDB": 100_000,
}
"""The most rows that are asked of a contestant that would take the whole time."""


@dataclass(frozen=True)
class Measured:
    """What one process found.

    Attributes:
        seconds: what the timed part took.
        items: how many texts or calls that was.
        memory: bytes: ``peak`` above what was resident before; ``anonymous`` that no file backs, when the
            result was there; ``result`` of the result itself.
    """

    seconds: float
    items: int
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One contestant's part of a case, as its processes see it.

    Attributes:
        work: the texts and vectors.
        contestant: who.
        directory: where stores lie that serve several cases.
        scratch: an empty directory for one process.
    """

    work: Work
    contestant: str
    directory: Path
    scratch: Path

    @property
    def setup(self) -> Setup:
        return self.work.setup

    def store(self) -> Path:
        """Where this contestant's full store lies."""
        return self.directory / f"{BY_NAME[self.contestant].store}-{self.setup.slug}"

    def subject(self, path: Path | None = None) -> Any:
        """The contestant, over its full store or another directory; not open."""
        return BY_NAME[self.contestant](path or self.store(), self.setup)


class Case(ABC):
    """One kind of work.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        item: what the time is divided by.
        texts: whether it works on texts and vectors that were written before.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    item: ClassVar[str] = "text"
    texts: ClassVar[bool] = True

    def setups(self, small: bool) -> Sequence[Setup]:
        """How much is worked on, one after the other."""
        return SMALL if small else STANDARD

    def takes_part(self, setup: Setup) -> list[str]:
        """Who takes part, floors included."""
        return [name for name in self.contestants() if setup.rows <= SLOW.get(name, setup.rows)]

    @abstractmethod
    def contestants(self) -> Sequence[str]:
        """Who takes part in the case, floors included."""

    def prepare(self, place: Place) -> None:
        """Do what is not timed and serves all rounds; in a process of its own."""
        if place.contestant in BY_NAME and not place.store().exists():
            place.subject().fill(place.work)

    @abstractmethod
    def measure(self, place: Place) -> Measured:
        """Time it once; in a process of its own."""


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Run ``work``; the seconds that it took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measured(work: Callable[[], Result], items: int) -> tuple[Measured, Result]:
    """Run ``work``, which returns an array, and count memory too."""
    memory.reset_peak()
    resident, anonymous = memory.resident(), memory.anonymous()
    seconds, result = timed(work)
    counted = {"peak": memory.peak() - resident, "anonymous": memory.anonymous() - anonymous}
    if isinstance(result, np.ndarray):
        counted["result"] = result.nbytes
    return Measured(seconds, items, counted), result


__all__ = [
    "BY_NAME",
    "OTHER_VECTORS",
    "SMALL",
    "STANDARD",
    "Case",
    "Contestant",
    "Measured",
    "Place",
    "measured",
    "timed",
]
