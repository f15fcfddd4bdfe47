"""Whether a function makes the vectors of a cache of which no model is named."""

from __future__ import annotations

import hashlib
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from dejavec.chunks import joined
from dejavec.claiming import ClaimingStore, ClaimLostError
from dejavec.confirm import Confirming, ask_about, choose, items_to_ask
from dejavec.errors import IdentityMismatchError
from dejavec.fork import make_locks_of
from dejavec.in_flight import InFlight
from dejavec.keyed_cache import KeyedCache
from dejavec.keys import Keys
from dejavec.observed import Description, Look, observe
from dejavec.values import to_rows
from dejavec.vector_store import Positions, VectorStore

_REMEDY = (
    'use another directory, and name there the model (model="name@revision") and what else changes vectors '
    "(prompt=, role=, identity=); confirm=0 serves these unasked"
)


class FunctionCheck:
    """Asks each function once about the vectors that one cache has, before they are served.

    A function is known by its description (code, closure, defaults, what it names), not by its object, so
    that a lambda made anew for each call is asked once.

    Args:
        cache: the cache.
        confirming: how functions are asked.
    """

    def __init__(self, cache: KeyedCache, confirming: Confirming) -> None:
        self._cache = cache
        self._confirming = confirming
        self._agreed: set[Description] = set()
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock, now and in a forked child."""
        self._asking = threading.RLock()

    @contextmanager
    def serving(
        self,
        function: Callable[..., Any],
        keys: Keys,
        texts: Callable[[Positions], list[str]],
        encode: Callable[[Positions], Any],
    ) -> Iterator[tuple[VectorStore, Callable[[Positions], Any]]]:
        """Yield the cache as ``fill`` sees it, once its vectors are the function's, and ``encode``, watched.

        Args:
            function: what makes vectors.
            keys: the keys of all texts (n, 32).
            texts: returns the texts at some positions.
            encode: has the function encode these, and returns what it makes of them.

        Raises:
            IdentityMismatchError: they are another's.
            UnconfirmedError: see ``on_unconfirmed``.
            Exception: whatever the function raises when it is asked about vectors that nothing proves.
        """
        observed = observe(_anchor(function), root="function")
        raw = look = observed.look(function)
        # Of all that is seen of a function, its tensors are a part.
        seen = hashlib.sha256(f"{look.description.seen} {look.state}".encode()).hexdigest()[:32]
        look = replace(look, description=replace(look.description, seen=seen))

        def watched(positions: Positions) -> Any:
            with observed.encoding(function, raw):
                return encode(positions)

        try:
            with self._asking:
                store = self._store(look, keys, texts, watched)
            yield store, watched
        except ClaimLostError:
            raise self._mismatch("found those of another function, which came there first") from None

    def _store(
        self,
        look: Look,
        keys: Keys,
        texts: Callable[[Positions], list[str]],
        encode: Callable[[Positions], Any],
    ) -> VectorStore:
        cache, description = self._cache, look.description
        rows = cache.refresh()
        proofs = cache.proofs
        if rows == 0 and not proofs.read():

            def claim() -> None:
                if not proofs.claim(description, empty=cache.refresh() == 0):
                    raise ClaimLostError
                self._agreed.add(description)

            store: Any = ClaimingStore(cache, claim, InFlight.of((cache.path, description)))
            return store  # type: ignore[no-any-return]
        # Where another function may have made some of the vectors, each call has to be asked about.
        if description in self._agreed and not proofs.is_mixed():
            return cache
        hits = np.flatnonzero(cache.lookup(keys) >= 0)
        if len(hits):
            known = proofs.read()
            count = items_to_ask(known, description, self._confirming.items)
            chosen = choose(keys, hits, texts, min(count, cache.settings.chunk_rows))
            answer = ask_about(
                cache,
                keys,
                chosen,
                lambda positions: to_rows(
                    joined(encode(positions)), len(positions), "the vectors of some texts"
                )[0],
                look=look,
                known=known,
                confirming=self._confirming,
            )
            if not answer.agrees:
                raise self._mismatch(f"found others: {answer.said}")
            proofs.add(description)
            self._agreed.add(description)
            return cache
        if description in proofs.read():
            return cache
        # Nothing can be compared, so what this function makes is not known to be what others made.
        mixing: Any = ClaimingStore(cache, proofs.mix, cache.in_flight)
        return mixing  # type: ignore[no-any-return]

    def _mismatch(self, found: str) -> IdentityMismatchError:
        expected = "vectors that this function makes"
        return IdentityMismatchError(
            f"{self._cache.path}: expected {expected}, {found}; {_REMEDY}",
            path=str(self._cache.path),
            expected=expected,
            found=found.removeprefix("found "),
            remedy=_REMEDY,
        )


def _anchor(function: Any) -> object:
    """Return what stays the same when a function is made anew: its code, or the object of a method."""
    if isinstance(function, types.MethodType):
        return function.__self__
    return getattr(function, "__code__", function)
