"""Check whether a function makes the vectors of a cache without a model name."""

from __future__ import annotations

import hashlib
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from dejavec.errors import IdentityMismatchError
from dejavec.fill.chunks import rows_of
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.claiming import ClaimLostError, StoreOfModel
from dejavec.identity.confirm import Confirming
from dejavec.identity.judge import Judge, ProvenStore, Subject
from dejavec.identity.observed import observe
from dejavec.identity.wrapped import ModelWrapper
from dejavec.keys.items import Keys
from dejavec.support.fork import make_locks_of
from dejavec.vectors.ragged import Rows

_REMEDY = (
    'use another directory, and name there the model (model="name@revision") and what else changes vectors '
    "(prompt=, role=, identity=); confirm=0 serves these unasked"
)


class FunctionCheck:
    """Asks each function once whether it makes the vectors of one cache, before they are served.

    The description identifies a function (code, closure, defaults, globals that it names), not the object. So
    a lambda that is made again for each call is asked once.

    Args:
        cache: the cache.
        confirming: how functions are asked.
        most: how many texts a function gets at a time.
    """

    def __init__(self, cache: ProvenStore, confirming: Confirming, most: int) -> None:
        self._cache = cache
        self._most = most
        self._judge = Judge(confirming)
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
        """Check the cache; yield it as ``fill`` uses it, and an ``encode`` that learns what the call changes.

        Args:
            function: the function that makes vectors.
            keys: the keys of all texts (n, 32).
            texts: returns the texts at some positions.
            encode: calls the function with the texts at some positions, and returns its result.

        Raises:
            IdentityMismatchError: another function made the vectors.
            UnconfirmedError: see ``on_unconfirmed``.
            Exception: the function's own exception, if it fails when asked about unproven vectors.
        """
        left_out = function.left_out if isinstance(function, ModelWrapper) else frozenset[str]()
        observed = observe(_anchor(function), left_out, root="function")
        raw = look = observed.look(function)
        # The description of a function includes its tensors.
        seen = hashlib.sha256(f"{look.description.seen} {look.state}".encode()).hexdigest()[:32]
        # An object without tensors may load them later, or leave the work to a server.
        visible = look.visible and look.state is not None
        look = replace(look, description=replace(look.description, seen=seen), visible=visible)

        def watched(positions: Positions) -> Any:
            with observed.encoding(function, raw):
                return encode(positions)

        def compared(positions: Positions) -> Rows:
            return rows_of(watched(positions), len(positions))

        subject = Subject(look, keys, texts, compared, self._most)
        try:
            with self._asking:
                store = self._store(subject)
            yield store, watched
        except ClaimLostError:
            raise self._mismatch("those of another function, which came there first") from None

    def _store(self, subject: Subject) -> VectorStore:
        cache, description, proofs = self._cache, subject.look.description, self._cache.proofs
        rows = cache.refresh()
        if rows == 0 and not proofs.read():
            return self._judge.claiming(cache.path, cache, proofs, description)
        own = StoreOfModel(cache, description)
        # If another function may have made some of the vectors, the function is asked in each call.
        if self._judge.agreed(cache.path, description) and not proofs.is_mixed():
            return own
        everywhere = np.arange(len(subject.keys))
        verdict = self._judge.judge(cache.path, cache, proofs, subject, everywhere)
        if verdict.refused is None:
            return own
        if not verdict.is_open:
            raise self._mismatch(verdict.refused)
        # There is nothing to compare, so this function's vectors may differ from the stored ones.
        self._judge.note_own(cache.path, description, np.delete(subject.keys, verdict.hits, axis=0))
        return StoreOfModel(cache, description, proofs.mix)

    def _mismatch(self, found: str) -> IdentityMismatchError:
        return IdentityMismatchError(
            self._cache.path, expected="vectors that this function makes", found=found, remedy=_REMEDY
        )


def _anchor(function: Any) -> object:
    """Return the part that stays when a function is made again: its code, or the object that it calls."""
    if isinstance(function, ModelWrapper):
        return function.__wrapped_model__().model
    if isinstance(function, types.MethodType):
        return function.__self__
    return getattr(function, "__code__", function)
