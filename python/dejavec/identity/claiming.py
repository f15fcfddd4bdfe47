"""An empty store of which several models may want to make their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.fill.in_flight import InFlight
from dejavec.fill.vector_store import VectorStore
from dejavec.keys.items import Keys


class ClaimLostError(Exception):
    """Another model took the empty directory meanwhile. Never leaves this package."""


class ClaimingStore:
    """An empty store, which is claimed before the first vectors go into it or come out of it.

    Args:
        store: the store.
        claim: claims it; raises :class:`ClaimLostError` if another has it.
        in_flight: of this model alone: another may encode the same items for the same directory.
    """

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
