"""Documents with a vector for each token, as late interaction has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from benches import checks, floors, memory
from benches.cases.base import Case, Measured, Place, measured, timed
from benches.contestants.token_stores import Documents
from benches.english import number_of
from benches.work import Setup

TOKENS = 190
"""Of a document on average, as of Cranfield's documents."""

MODEL = "MiniLM as multi-vector, no cache"
_UNCACHED_DOCUMENTS = 64
_RECORD_BYTES = 48
"""A row's key record and where it ends."""


class MultiVector(Case):
    """Documents of 128 numbers a token."""

    item: ClassVar[str] = "document"

    def setups(self, small: bool) -> Sequence[Setup]:
        return (Setup(200 if small else 10_000, 128),)

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec, multi-vector",
            "pickle",
            "npz",
            "Arrow IPC",
            "Lance",
            "LMDB, multi-vector",
        )

    def prepare(self, place: Place) -> None:
        """Nothing: a store is written by the first round that needs it."""


class ColdTokens(MultiVector):
    """Nothing is held. The documents are there: a model of no cost returns them."""

    name = "tokens-cold"
    title = f"Cold encode of documents of {TOKENS} vectors, everything but the model"

    def contestants(self) -> Sequence[str]:
        return (*super().contestants(), MODEL, floors.WRITE)

    def measure(self, place: Place) -> Measured:
        if place.contestant == MODEL:
            return _uncached(place)
        documents, rows = _documents(place.setup), place.setup.rows
        size = sum(one.nbytes for one in documents)
        if place.contestant == floors.WRITE:
            whole = np.concatenate(documents)
            return Measured(floors.write(whole, rows * _RECORD_BYTES, place.scratch / "file"), rows)
        subject, texts = place.subject(place.scratch / "store"), place.work.texts()
        found, result = measured(lambda: subject.run(texts, _model(documents)), rows)
        _check(result, documents)
        subject.close()
        again = place.subject(place.scratch / "store")
        _check(again.run(texts, _model([])), documents)
        return Measured(found.seconds, rows, {**found.memory, "result": size})


class WarmTokens(MultiVector):
    """Everything is held, and every byte of the result is read."""

    name = "tokens-warm"
    title = f"Warm encode of documents of {TOKENS} vectors, and reading every byte"

    def contestants(self) -> Sequence[str]:
        ours, *others = super().contestants()
        return (ours, "dejavec, multi-vector, verify=False", *others, floors.MAP, floors.SHA256_ALL)

    def prepare(self, place: Place) -> None:
        if place.contestant.startswith("floor") or place.store().exists():
            return
        subject = place.subject()
        subject.run(place.work.texts(), _model(_documents(place.setup)))
        subject.close()

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        if place.contestant == floors.SHA256_ALL:
            return Measured(floors.sha256(place.work, floors.cores()), rows)
        documents = _documents(place.setup)
        size = sum(one.nbytes for one in documents)
        if place.contestant == floors.MAP:
            np.save(place.scratch / "all.npy", np.concatenate(documents))
            memory.settle(place.scratch, 1)
            ends = np.cumsum([*map(len, documents)])[:-1]
            seconds, _ = timed(
                lambda: _read(np.split(np.load(place.scratch / "all.npy", mmap_mode="r"), ends))
            )
            return Measured(seconds, rows)
        subject, texts = place.subject(), place.work.texts()
        memory.settle(place.store() if place.store().is_dir() else place.store().parent, 1)

        def run() -> Documents:
            result: Documents = subject.run(texts, _model([]))
            _read(result)
            return result

        found, result = measured(run, rows)
        _check(result, documents)
        return Measured(found.seconds, rows, {**found.memory, "result": size})


def _documents(setup: Setup) -> Documents:
    """The documents of a model: an array each, of 95 to 285 tokens."""
    tokens = np.random.default_rng(0).standard_normal((100_000, setup.dim), np.float32)
    lengths = TOKENS // 2 + np.arange(setup.rows) * 37 % (TOKENS + 1)
    starts = np.arange(setup.rows) * 7 % (len(tokens) - 2 * TOKENS)
    pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
    return [tokens[start : start + length].copy() for start, length in pairs]


def _model(documents: Documents) -> Any:
    return lambda texts: [documents[number_of(text)] for text in texts]


def _read(documents: Documents) -> None:
    """Read every byte once."""
    for one in documents:
        one.view(np.uint64).max()


def _check(found: Documents, expected: Documents) -> None:
    checks.equal("documents", len(found), len(expected))
    for one, other in zip(found, expected, strict=True):
        checks.same(one, other)


def _uncached(place: Place) -> Measured:
    """What one run of a small model takes, without any cache."""
    from dejavec.demo.models import demo_model

    model = demo_model("multi-vector").model
    texts = place.work.texts()[:_UNCACHED_DOCUMENTS]
    model.encode_document(texts[:2])
    seconds, _ = timed(lambda: model.encode_document(texts))
    return Measured(seconds, len(texts))
