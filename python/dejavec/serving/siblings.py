"""Choose the directory that serves a call: the first with proven vectors, or with vectors that agree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec.errors import VectorsError
from dejavec.fill.run import WRITE_ERRORS
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.claiming import StoreOfModel
from dejavec.identity.confirm import Confirming
from dejavec.identity.judge import Judge, Subject
from dejavec.identity.observed import Description, Look
from dejavec.identity.proven import Proofs
from dejavec.keys.items import Keys, first_of_each
from dejavec.serving.places import Elsewhere, Place, Places
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.fork import make_locks_of
from dejavec.vectors.ragged import Rows

_CARRIED_ROWS = 10_000
"""Vectors are copied between siblings in groups of this size."""


@dataclass(frozen=True)
class Request:
    """One call that needs a directory.

    Attributes:
        first: the first place of its identity.
        look: the look at the model.
        keys: the keys of the items (n, 32).
        is_built: whether the model is built.
        ready: builds the model if it is not built yet.
        encode: returns the model's vectors (k, dim) of the items at some positions, to compare them with a
            cache; None if they are incomparable.
        texts: returns the texts at some positions; None if the items are no texts.
        store_of: returns the store of an open cache, and whether it has no vectors.
    """

    first: Place
    look: Look
    keys: Keys
    is_built: bool
    ready: Callable[[], object]
    encode: Callable[[Positions, Any], Rows | None]
    texts: Callable[[Positions], Sequence[str]] | None
    store_of: Callable[[Any], tuple[VectorStore, bool]]

    def subject(self, cache: Any) -> Subject:
        """Return the model and the items, as a judge needs them to compare vectors with a cache."""
        return Subject(
            self.look,
            self.keys,
            self.texts,
            lambda positions: self.encode(positions, cache),
            most=len(self.keys),
            is_built=self.is_built,
            ready=self.ready,
        )


@dataclass(frozen=True)
class Candidate:
    """A directory that may serve a call.

    Attributes:
        place: the directory and its identity.
        cache: the open cache.
        store: the cache as ``fill`` uses it.
        proofs: the proven descriptions of the directory.
        is_empty: whether it has no vectors.
    """

    place: Place
    cache: Any
    store: VectorStore
    proofs: Proofs
    is_empty: bool


class Siblings:
    """The directories of one wrapper. Several of them may have the same identity.

    Args:
        places: the directories.
        confirming: how the model is asked. With 0 items, only proven descriptions are served. None: the user
            answers for the model, so nothing is asked or recorded.
    """

    def __init__(
        self,
        places: Places,
        *,
        confirming: Confirming | None,
    ) -> None:
        self._places = places
        self._judge = None if confirming is None else Judge(confirming)
        self._settled: dict[tuple[Place, Description], Place] = {}
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock. A forked child makes a new one."""
        self._choosing = threading.RLock()

    @property
    def asks(self) -> bool:
        """Whether models are examined and asked; otherwise the user answers for them."""
        return self._judge is not None

    @contextmanager
    def serving(self, request: Request) -> Iterator[tuple[Any, VectorStore, int]]:
        """Yield the cache that serves a call, the store for ``fill``, and how many items were asked for.

        Raises:
            UnconfirmedError: see ``on_unconfirmed``.
            IdentityMismatchError: the directory has another model's vectors, with ``on_mismatch="raise"``.
            Exception: the model's own exception, if it fails when asked about unproven vectors.
        """
        settled = self._settled.get((request.first, request.look.description))
        judge = self._judge
        if judge is None or settled is not None:
            with self._places.using(settled or request.first) as cache:
                store, _ = request.store_of(cache)
                yield cache, store if judge is None else StoreOfModel(store, request.look.description), 0
            return
        with ExitStack() as stack:
            with self._choosing:
                cache, store, asked = self._choose(request, stack, judge)
            yield cache, store, asked

    def _choose(self, request: Request, stack: ExitStack, judge: Judge) -> tuple[Any, VectorStore, int]:
        description = request.look.description
        existing, free = self._places.existing(request.first)
        candidates = [self._candidate(place, request, stack) for place in existing]
        if len(candidates) > 1:
            # Directories with a proof of this description come first, since they need the fewest questions.
            candidates.sort(key=lambda candidate: not self._serves(candidate, request))
        agreeing: list[Candidate] = []
        reason: Elsewhere | None = None
        asked = 0
        missing = np.arange(len(request.keys))
        for candidate in candidates:
            if candidate.is_empty and not candidate.proofs.read():
                if not agreeing:
                    return candidate.cache, _claiming(judge, candidate, description), asked
                continue
            verdict = judge.judge(
                candidate.place, candidate.store, candidate.proofs, request.subject(candidate.cache), missing
            )
            asked += verdict.asked
            if verdict.refused is None:
                agreeing.append(candidate)
                missing = np.setdiff1d(missing, verdict.hits)
            elif reason is None:
                reason = Elsewhere(candidate.cache.path, "this model's vectors", verdict.refused)
            if agreeing and not len(missing):
                break
        if not agreeing:
            candidate = self._candidate(free, request, stack, reason)
            return candidate.cache, _claiming(judge, candidate, description), asked
        chosen, *others = agreeing
        for other in others:
            _carry_over(other.store, chosen.store, request.keys)
        if len(existing) == 1 and judge.agreed(chosen.place, description):
            self._settled[request.first, description] = chosen.place
        return chosen.cache, StoreOfModel(chosen.store, description), asked

    def _candidate(
        self, place: Place, request: Request, stack: ExitStack, reason: Elsewhere | None = None
    ) -> Candidate:
        cache = stack.enter_context(self._places.using(place, reason))
        store, is_empty = request.store_of(cache)
        return Candidate(place, cache, store, cache.proofs, is_empty)

    def _serves(self, candidate: Candidate, request: Request) -> bool:
        """Return whether a directory has some of the items, and a proof of the description."""
        if request.look.description not in candidate.proofs.read():
            return False
        return bool((candidate.store.lookup(request.keys) >= 0).any())


def _claiming(judge: Judge, candidate: Candidate, description: Description) -> VectorStore:
    return judge.claiming(candidate.place, candidate.store, candidate.proofs, description)


def own_store(cache: KeyedCache) -> tuple[VectorStore, bool]:
    """Return a cache of ours as the store of a :class:`Request`, and whether it has no vectors."""
    rows = cache.refresh()
    return cache, cache.dim is None or rows == 0


def _carry_over(source: VectorStore, target: VectorStore, keys: Keys) -> None:
    """Copy the vectors of keys that only the source has.

    If that fails, these items are encoded again.
    """
    rows = np.where(target.lookup(keys) < 0, source.lookup(keys), -1)
    found = np.flatnonzero((rows >= 0) & (first_of_each(keys) == np.arange(len(keys))))
    output = source.output
    if output is None:
        return
    with suppress(VectorsError, *WRITE_ERRORS):
        for start in range(0, len(found), _CARRIED_ROWS):
            some = found[start : start + _CARRIED_ROWS]
            vectors, damaged = source.gather(keys[some], rows[some])
            sound = np.delete(np.arange(len(some)), damaged)
            target.append(np.ascontiguousarray(keys[some][sound]), vectors[sound], output, None)
