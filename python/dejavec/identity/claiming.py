"""A store that serves one model, and the claim of a model on an empty store."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.fill.in_flight import InFlight
from dejavec.fill.vector_store import VectorStore
from dejavec.keys.items import Keys


class ClaimLostError(Exception):
    """Another model took the empty directory meanwhile. Never leaves this package."""


class StoreOfModel:
    """A store that serves one model. An empty one is claimed before the first vectors go in or come out.

    Args:
        store: the store.
        description: the description of the model.
        claim: claims the store; raises :class:`ClaimLostError` if another model has claimed it. None: the
            vectors are known to be the model's.

    Attributes:
        in_flight: the items that callers are encoding with this model. Another model has a table of its own,
            even for the same directory.
    """

    def __init__(
        self, store: VectorStore, description: Hashable, claim: Callable[[], None] | None = None
    ) -> None:
        self.in_flight = InFlight.of((store.path, description))
        self._store = store
        self._claim = claim

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Do what the store's ``partition`` does.

        Raises:
            ClaimLostError: another model has claimed the store. ``lookup`` and ``append`` raise it too.
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

    def append(self, *arguments: Any, **keywords: Any) -> int | None:
        """Do what the store's ``append`` does."""
        self._take()
        return self._store.append(*arguments, **keywords)

    def _take(self) -> None:
        if self._claim is not None:
            self._claim()
            self._claim = None
