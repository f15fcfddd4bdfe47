"""Vectors of held texts, without a model."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, measured, timed
from benches.english import number_of

_TEXTS = 100_000
_CALLS = 2_000


class WarmGet(Case):
    """Up to 100,000 texts in a random order, from a store of at least as many; the store is open."""

    name = "get"
    title = "Warm get, up to 100,000 shuffled texts"

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec, list[str]",
            "dejavec, out=",
            "LMDB",
            "RocksDB",
            "SQLite",
            "diskcache",
            "LangChain",
            "dict + NumPy",
        )

    def measure(self, place: Place) -> Measured:
        subject = place.subject()
        subject.warm_up()
        subject.open()
        texts = place.work.texts("shuffled")[:_TEXTS]
        numbers = place.work.permutation()[:_TEXTS]
        # The first call maps files and makes the array that `out=` uses again.
        checks.same(subject.get(texts), place.work.vectors(), numbers)
        found, result = measured(lambda: subject.get(texts), len(texts))
        checks.same(result, place.work.vectors(), numbers)
        return found


class SingleGet(Case):
    """One text at a time, as a loop over items does."""

    name = "single"
    title = "get_vector of one text"
    item = "call"

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec NumpyCache",
            "mteb NumpyCache",
            "mteb FaissCache",
            "LMDB",
            "RocksDB",
            "SQLite",
            "diskcache",
            "LangChain",
            "dict + NumPy",
        )

    def measure(self, place: Place) -> Measured:
        subject = place.subject()
        subject.warm_up()
        subject.open()
        texts = place.work.texts("shuffled")[:_CALLS]
        expected = place.work.vectors()
        get_one, arguments = subject.single_gets(texts)

        def get_all() -> list[object]:
            return [get_one(argument) for argument in arguments]

        get_all()
        gc.disable()
        seconds, found = timed(get_all)
        gc.enable()
        numbers = np.array([number_of(text) for text in texts])
        checks.same(np.array(found), expected, numbers)
        return Measured(seconds, len(texts))
