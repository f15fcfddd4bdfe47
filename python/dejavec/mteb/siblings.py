"""Which directory serves a call: the first whose vectors are the model's, as is seen or as the model says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec.claiming import ClaimingStore, ClaimLostError
from dejavec.confirm import Confirming, ask_about, choose, items_to_ask
from dejavec.errors import VectorsError
from dejavec.fill_run import WRITE_ERRORS
from dejavec.fork import make_locks_of
from dejavec.in_flight import InFlight
from dejavec.keys import Keys, first_of_each
from dejavec.mteb.foreign_backend import ForeignCache, ForeignCall
from dejavec.mteb.loaders import Items, Positions
from dejavec.mteb.places import Place, Places
from dejavec.observed import Description, Look
from dejavec.proven import Proofs
from dejavec.values import Rows
from dejavec.vector_store import VectorStore

_CARRIED_ROWS = 10_000
"""How many vectors are copied from one sibling to another at a time."""


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
        confirming: how the model is asked; with 0 items only what is proven is served. None: the user answers
            for the model, so nothing is asked or noted.
    """

    def __init__(
        self,
        places: Places,
        *,
        confirming: Confirming | None,
    ) -> None:
        self._places = places
        self._confirming = confirming
        self._answers: dict[tuple[Place, Description], bool] = {}
        self._own: dict[tuple[Place, Description], set[bytes]] = {}
        self._settled: dict[tuple[Place, Description], Place] = {}
        make_locks_of(self)
        self._asked = 0

    def make_locks(self) -> None:
        """Make the lock, now and in a forked child."""
        self._choosing = threading.RLock()

    @property
    def asks(self) -> bool:
        """Whether it counts what the model is, or the user answers for it."""
        return self._confirming is not None

    @contextmanager
    def serving(self, request: Request) -> Iterator[tuple[Any, VectorStore, int]]:
        """Yield the cache that serves a call, how ``fill`` sees it, and how many items were asked for.

        Raises:
            UnconfirmedError: see ``on_unconfirmed``.
            IdentityMismatchError: another model's vectors lie in the directory, and that is to raise.
            Exception: whatever the model raises when it is asked about vectors that nothing proves.
        """
        settled = self._settled.get((request.first, request.look.description))
        confirming = self._confirming
        if confirming is None or settled is not None:
            with self._places.using(settled or request.first) as cache:
                yield cache, _store_of(cache, request), 0
            return
        with ExitStack() as stack:
            with self._choosing:
                self._asked = 0
                cache, store = self._choose(request, stack, confirming)
                asked = self._asked
            yield cache, store, asked

    def _choose(self, request: Request, stack: ExitStack, confirming: Confirming) -> tuple[Any, VectorStore]:
        description = request.look.description
        existing, free = self._places.existing(request.first)
        candidates = [self._candidate(place, request, stack) for place in existing]
        if len(candidates) > 1:
            # Those that the description is proven for need the fewest questions.
            candidates.sort(key=lambda candidate: not self._serves(candidate, request))
        agreeing: list[Candidate] = []
        reason = None
        missing = np.arange(len(request.keys))
        for candidate in candidates:
            if candidate.is_empty and not candidate.proofs.read():
                if not agreeing:
                    return candidate.cache, self._claiming(candidate, description)
                continue
            refused, hits = self._judge(candidate, request, missing, confirming)
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
            _carry_over(other.store, chosen.store, request.keys)
        if len(existing) == 1 and self._answers.get((chosen.place, description)):
            self._settled[request.first, description] = chosen.place
        return chosen.cache, chosen.store

    def _candidate(
        self, place: Place, request: Request, stack: ExitStack, reason: str | None = None
    ) -> Candidate:
        cache = stack.enter_context(self._places.using(place, reason))
        store = _store_of(cache, request)
        rows = store.refresh()
        is_empty = cache.is_empty if isinstance(cache, ForeignCache) else cache.dim is None or rows == 0
        return Candidate(place, cache, store, cache.proofs, is_empty)

    def _serves(self, candidate: Candidate, request: Request) -> bool:
        """Tell whether a directory has some of the items, and the description is proven for it."""
        if request.look.description not in candidate.proofs.read():
            return False
        return bool((candidate.store.lookup(request.keys) >= 0).any())

    def _judge(
        self, candidate: Candidate, request: Request, positions: Positions, confirming: Confirming
    ) -> tuple[str | None, Positions]:
        """Find out whether a directory's vectors are the model's.

        Args:
            candidate: the directory.
            request: the call.
            positions: of the items that are looked for.
            confirming: how the model is asked.

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
            if proven and (look.visible or not confirming.items):
                self._answers[key] = True
            elif proven and not request.is_built:
                return None, hits  # Not remembered: once it is built, it is asked.
            elif not len(others := self._of_others(key, request, hits)):
                if not proven:
                    return f"{path}: nothing shows that its vectors are this model's", hits
                # What this model is about to store says nothing of what was there before.
                missing = np.setdiff1d(positions, hits)
                self._own.setdefault(key, set()).update(map(bytes, request.keys[missing]))
                return None, hits
            elif versions and all(other.tokenizer != look.description.tokenizer for other in versions):
                return f"{path}: expected the tokenizer that its vectors were made with, found another", hits
            elif not confirming.items:
                return f"{path}: the model was not confirmed, as confirm=0 says", hits
            else:
                request.ready()
                why = self._ask(candidate, request, others, known, confirming)
                self._answers[key] = why is None
                if why is not None:
                    return why, hits
                candidate.proofs.add(look.description)
        if self._answers[key]:
            return None, hits
        return f"{path}: expected this model's vectors, found another's", hits

    def _of_others(self, key: tuple[Place, Description], request: Request, hits: Positions) -> Positions:
        """Return the hits that this wrapper has not stored itself before it asked."""
        own = self._own.get(key)
        if own is None:
            return hits
        return np.array([at for at in hits if bytes(request.keys[at]) not in own], np.intp)

    def _ask(
        self,
        candidate: Candidate,
        request: Request,
        hits: Positions,
        known: list[Description],
        confirming: Confirming,
    ) -> str | None:
        """Have the model encode some hits; return why the vectors are not its own, None if they are."""
        look, items = request.look, request.items

        def texts(positions: Positions) -> list[str]:
            return [str(text) for text in items.texts(positions)]

        answer = ask_about(
            candidate.store,
            request.keys,
            choose(
                request.keys,
                hits,
                texts if items.text_only else None,
                items_to_ask(known, look.description, confirming.items),
            ),
            lambda positions: request.encode(positions, candidate.cache),
            look=look,
            known=known,
            confirming=confirming,
        )
        self._asked += answer.asked
        if answer.agrees:
            return None
        return f"{candidate.cache.path}: expected this model's vectors, found others: {answer.said}"

    def _claiming(self, candidate: Candidate, description: Description) -> VectorStore:
        def claim() -> None:
            if not candidate.proofs.claim(description, empty=candidate.store.refresh() == 0):
                raise ClaimLostError
            self._answers[candidate.place, description] = True

        # Another model may encode the same items for the same directory meanwhile.
        in_flight = InFlight.of((candidate.cache.path, description))
        store: Any = ClaimingStore(candidate.store, claim, in_flight)
        return store  # type: ignore[no-any-return]


def _store_of(cache: Any, request: Request) -> VectorStore:
    return ForeignCall(cache, request.keys, request.items) if isinstance(cache, ForeignCache) else cache


def _carry_over(source: VectorStore, target: VectorStore, keys: Keys) -> None:
    """Copy the vectors of keys that one store has and the other has not.

    If that fails, they are encoded again.
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
