"""Which directory serves a call: the first whose vectors are the model's, as is seen or as the model says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.confirm import OnUnconfirmed, ask, choose, items_to_ask, tolerance_for, unconfirmed
from dejavec.errors import VectorsError
from dejavec.fill_run import WRITE_ERRORS
from dejavec.in_flight import InFlight
from dejavec.keys import Keys, first_of_each
from dejavec.mteb.foreign_backend import ForeignCache, ForeignCall
from dejavec.mteb.loaders import Items, Positions
from dejavec.mteb.places import Place, Places
from dejavec.observed import Description, Look
from dejavec.proven import Proofs, ProvenFile
from dejavec.values import Rows
from dejavec.vector_store import VectorStore

_CARRIED_ROWS = 10_000
"""How many vectors are copied from one sibling to another at a time."""


class ClaimLostError(Exception):
    """Another model took the empty directory meanwhile. Never leaves the wrapper."""


@dataclass(frozen=True)
class Request:
    """One call, as the choice of a directory needs it.

    Attributes:
        first: the first place of its identity.
        look: what the model is.
        items: its items.
        keys: theirs (n, 32).
        is_built: whether the model can be asked without being built for that.
        ready: builds the model, if it is not built yet.
        encode: returns the model's vectors (k, dim) of the items at some positions, to be compared with those
            of a cache; None if they are of another kind altogether.
    """

    first: Place
    look: Look
    items: Items
    keys: Keys
    is_built: bool
    ready: Callable[[], object]
    encode: Callable[[Positions, Any], Rows | None]


@dataclass(frozen=True)
class Candidate:
    """A directory that may serve a call.

    Attributes:
        place: where it is.
        cache: what is open there.
        store: the cache as ``fill`` sees it.
        proofs: for which descriptions of the model its vectors are proven.
        is_empty: whether it has no vectors.
    """

    place: Place
    cache: Any
    store: VectorStore
    proofs: Proofs
    is_empty: bool


class Siblings:
    """The directories of one wrapper, of which several may have the same identity.

    Args:
        places: where they lie.
        confirm: how many items a question has about a description that is proven; 0: never ask, and serve
            only what is proven; None: the user answers for the model, so nothing is asked or noted.
        tolerance: how far a number may be off, None for what the dtype needs.
        on_unconfirmed: whether vectors that are served without having been confirmed warn or raise.
        shared: whether directories are their group's too.
    """

    def __init__(
        self,
        places: Places,
        *,
        confirm: int | None,
        tolerance: float | None,
        on_unconfirmed: OnUnconfirmed,
        shared: bool,
    ) -> None:
        self._places = places
        self._confirm = confirm
        self._tolerance = tolerance
        self._on_unconfirmed = on_unconfirmed
        self._shared = shared
        self._answers: dict[tuple[Place, Description], bool] = {}
        self._settled: dict[tuple[Place, Description], Place] = {}
        self._proofs: dict[Place, Proofs] = {}
        self._choosing = threading.RLock()
        self._asked = 0

    @contextmanager
    def serving(self, request: Request) -> Iterator[tuple[Any, VectorStore, int]]:
        """Yield the cache that serves a call, how ``fill`` sees it, and how many items were asked for.

        Raises:
            UnconfirmedError: see ``on_unconfirmed``.
            IdentityMismatchError: another model's vectors lie in the directory, and that is to raise.
            Exception: whatever the model raises when it is asked about vectors that nothing proves.
        """
        settled = self._settled.get((request.first, request.look.description))
        if self._confirm is None or settled is not None:
            with self._places.using(settled or request.first) as cache:
                yield cache, _store_of(cache, request), 0
            return
        with ExitStack() as stack:
            with self._choosing:
                self._asked = 0
                cache, store = self._choose(request, stack)
                asked = self._asked
            yield cache, store, asked

    def _choose(self, request: Request, stack: ExitStack) -> tuple[Any, VectorStore]:
        description = request.look.description
        existing, free = self._places.existing(request.first)
        candidates = [self._candidate(place, request, stack) for place in existing]
        distinct = np.flatnonzero(first_of_each(request.keys) == np.arange(len(request.keys)))
        if len(candidates) > 1:
            # Those that the description is proven for need the fewest questions.
            candidates.sort(key=lambda candidate: not self._serves(candidate, request, distinct))
        agreeing: list[Candidate] = []
        reason = None
        missing = distinct
        for candidate in candidates:
            if candidate.is_empty and not candidate.proofs.read():
                if not agreeing:
                    return candidate.cache, self._claiming(candidate, description)
                continue
            refused, hits = self._judge(candidate, request, missing)
            if refused is None:
                agreeing.append(candidate)
                missing = np.setdiff1d(missing, hits)
            reason = reason or refused
            if agreeing and not len(missing):
                break
        if not agreeing:
            candidate = self._candidate(free, request, stack, reason)
            return candidate.cache, self._claiming(candidate, description)
        chosen, *others = agreeing
        for other in others:
            _carry_over(other.store, chosen.store, request.keys[distinct])
        if len(existing) == 1 and self._answers.get((chosen.place, description)):
            self._settled[request.first, description] = chosen.place
        return chosen.cache, chosen.store

    def _candidate(
        self, place: Place, request: Request, stack: ExitStack, reason: str | None = None
    ) -> Candidate:
        cache = stack.enter_context(self._places.using(place, reason))
        store = _store_of(cache, request)
        rows = store.refresh()
        if isinstance(cache, ForeignCache):
            return Candidate(place, cache, store, cache.proofs, cache.dim is None)
        if place not in self._proofs:
            self._proofs[place] = ProvenFile(cache.path, shared=self._shared)
        return Candidate(place, cache, store, self._proofs[place], rows == 0)

    def _serves(self, candidate: Candidate, request: Request, positions: Positions) -> bool:
        """Tell whether a directory has some of the items, and the description is proven for it."""
        if request.look.description not in candidate.proofs.read():
            return False
        return bool((candidate.store.lookup(request.keys[positions]) >= 0).any())

    def _judge(
        self, candidate: Candidate, request: Request, positions: Positions
    ) -> tuple[str | None, Positions]:
        """Find out whether a directory's vectors are the model's.

        Args:
            candidate: the directory.
            request: the call.
            positions: of the different items that are looked for.

        Returns:
            Why they are not, None if they are; and the positions of the items that are there.
        """
        look, path = request.look, candidate.cache.path
        hits = positions[candidate.store.lookup(request.keys[positions]) >= 0]
        key = (candidate.place, look.description)
        if key not in self._answers:
            known = candidate.proofs.read()
            proven = look.description in known
            versions = [other for other in known if other.versions == look.description.versions]
            if proven and (look.visible or not request.is_built):
                self._answers[key] = True
            elif not len(hits):
                return None if proven else f"{path}: nothing shows that its vectors are this model's", hits
            elif versions and all(other.tokenizer != look.description.tokenizer for other in versions):
                return f"{path}: expected the tokenizer that its vectors were made with, found another", hits
            elif not self._confirm:
                return None if proven else f"{path}: the model was not confirmed, as confirm=0 says", hits
            else:
                request.ready()
                why = self._ask(candidate, request, hits, known)
                self._answers[key] = why is None
                if why is not None:
                    return why, hits
                candidate.proofs.add(look.description)
        if self._answers[key]:
            return None, hits
        return f"{path}: expected this model's vectors, found another's", hits

    def _ask(
        self, candidate: Candidate, request: Request, hits: Positions, known: list[Description]
    ) -> str | None:
        """Have the model encode some hits; return why the vectors are not its own, None if they are."""
        look, store, items = request.look, candidate.store, request.items
        count = items_to_ask(known, look.description, self._confirm or 0)

        def texts(positions: Positions) -> list[str]:
            return [str(text) for text in items.texts(positions)]

        chosen = choose(hits, texts if items.text_only else None, count)
        keys = request.keys[chosen]
        cached, damaged = store.gather(keys, store.lookup(keys))
        chosen, cached = np.delete(chosen, damaged), np.delete(cached, damaged, axis=0)
        output = store.output
        if not len(chosen) or output is None:
            return None  # All of them are encoded anew.
        tolerance = self._tolerance
        answer = ask(
            cached,
            lambda: request.encode(chosen, candidate.cache),
            tolerance=tolerance_for(known, look, output) if tolerance is None else tolerance,
            proven=look.description in known,
        )
        self._asked += answer.asked
        if answer.doubt is not None:
            unconfirmed(f"{candidate.cache.path}: {answer.doubt}", self._on_unconfirmed)
        if answer.agrees:
            return None
        return (
            f"{candidate.cache.path}: expected this model's vectors, found others: of {len(chosen)} items "
            f"encoded again, one is off by {answer.difference:.2g} of its largest number"
        )

    def _claiming(self, candidate: Candidate, description: Description) -> VectorStore:
        def claim() -> None:
            if not candidate.proofs.claim(description, empty=candidate.store.refresh() == 0):
                raise ClaimLostError
            self._answers[candidate.place, description] = True

        # Another model may encode the same items for the same directory meanwhile.
        in_flight = InFlight.of((candidate.cache.path, description))
        store: Any = _Claiming(candidate.store, claim, in_flight)
        return store  # type: ignore[no-any-return]


class _Claiming:
    """An empty store, which is claimed before the first vectors go into it or come out of it."""

    def __init__(self, store: VectorStore, claim: Callable[[], None], in_flight: InFlight) -> None:
        self.in_flight = in_flight
        self._store = store
        self._claim: Callable[[], None] | None = claim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Do what the store's ``partition`` does.

        Raises:
            ClaimLostError: another model has claimed the store; of the following, too.
        """
        found = self._store.partition(keys)
        if (found[0] >= 0).any():
            self._take()
        return found

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Do what the store's ``lookup`` does."""
        found = self._store.lookup(keys)
        if (found >= 0).any():
            self._take()
        return found

    def append(self, *arguments: Any) -> int:
        """Do what the store's ``append`` does."""
        self._take()
        return self._store.append(*arguments)

    def _take(self) -> None:
        if self._claim is not None:
            self._claim()
            self._claim = None


def _store_of(cache: Any, request: Request) -> VectorStore:
    return ForeignCall(cache, request.keys, request.items) if isinstance(cache, ForeignCache) else cache


def _carry_over(source: VectorStore, target: VectorStore, keys: Keys) -> None:
    """Copy the vectors of keys that one store has and the other has not.

    If that fails, they are encoded again.
    """
    rows = np.where(target.lookup(keys) < 0, source.lookup(keys), -1)
    found = np.flatnonzero(rows >= 0)
    output = source.output
    if output is None:
        return
    with suppress(VectorsError, *WRITE_ERRORS):
        for start in range(0, len(found), _CARRIED_ROWS):
            some = found[start : start + _CARRIED_ROWS]
            vectors, damaged = source.gather(keys[some], rows[some])
            sound = np.delete(np.arange(len(some)), damaged)
            target.append(np.ascontiguousarray(keys[some][sound]), vectors[sound], output, None)
