"""What one core does, and what more do together."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benches import checks, floors, memory
from benches.cases.base import STANDARD, Case, Measured, Place, timed
from benches.work import Setup

_PASSES = 20
_READERS = {"dejavec, 1 reader": 1, "dejavec, 4 readers": 4}
_HASHING = {"dejavec, one core": 1, "dejavec, all cores": 0, floors.SHA256_ONE: 1, floors.SHA256_ALL: 0}


class Hashing(Case):
    """The keys of the texts of a data set's column, against a plain loop."""

    name = "hashing"
    title = "Keys of texts"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else STANDARD[1:2]

    def contestants(self) -> Sequence[str]:
        return tuple(_HASHING)

    def measure(self, place: Place) -> Measured:
        from dejavec.keys.items import text_keys

        cores = _HASHING[place.contestant] or floors.cores()
        if place.contestant.startswith("floor"):
            return Measured(floors.sha256(place.work, cores), place.setup.rows)
        column = place.work.dataset()["text"]
        expected = text_keys(column)
        with floors.pinned(cores):
            seconds, keys = timed(lambda: text_keys(column))
        checks.equal("all keys the same", bool((keys == expected).all()), True)
        return Measured(seconds, len(keys))


class Readers(Case):
    """Processes that read one cache into arrays of their own, each on one core."""

    name = "readers"
    title = "Processes reading one cache, one core each"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else STANDARD[1:2]

    def contestants(self) -> Sequence[str]:
        return tuple(_READERS)

    def prepare(self, place: Place) -> None:
        super().prepare(_as_cache(place))

    def measure(self, place: Place) -> Measured:
        count = _READERS[place.contestant]
        place = _as_cache(place)
        context = multiprocessing.get_context("fork")
        start, answers = context.Barrier(count), context.SimpleQueue()
        readers = [context.Process(target=_read, args=(place, i, start, answers)) for i in range(count)]
        for reader in readers:
            reader.start()
        found: list[dict[str, Any]] = [answers.get() for _ in readers]
        for reader in readers:
            reader.join()
        if failures := [answer["failed"] for answer in found if "failed" in answer]:
            raise checks.CheckError(failures[0])
        seconds = max(answer["stop"] for answer in found) - min(answer["start"] for answer in found)
        anonymous = max(answer["anonymous"] for answer in found)
        return Measured(
            seconds,
            count * _PASSES * place.setup.rows,
            {"anonymous": anonymous, "result": found[0]["result"]},
        )


def _as_cache(place: Place) -> Place:
    """The same with the contestant whose store is read."""
    return Place(place.work, "dejavec, out=", place.directory, place.scratch)


def _read(place: Place, number: int, start: Any, answers: Any) -> None:
    """Be one reader."""
    try:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
        before = memory.anonymous()
        subject = place.subject()
        subject.open()
        texts = place.work.texts("shuffled")
        before = memory.anonymous()
        result = subject.get(texts)
        start.wait()
        began = time.monotonic()
        for _ in range(_PASSES):
            result = subject.get(texts)
        stop = time.monotonic()
        checks.same(np.asarray(result), place.work.vectors(), place.work.permutation())
        answers.put(
            {
                "start": began,
                "stop": stop,
                "anonymous": memory.anonymous() - before,
                "result": result.nbytes,
            }
        )
    except Exception as error:
        start.abort()
        answers.put({"failed": f"{type(error).__name__}: {error}"})
