"""Items that some caller of this process is encoding just now: the others wait for it.

Each cache has one table, however many objects of the process open it. A caller claims the keys of one chunk
at a time and never waits while it holds claims, so callers cannot wait for each other in a circle.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from numpy.typing import NDArray

from dejavec.keys.items import Keys

_tables: WeakValueDictionary[object, InFlight] = WeakValueDictionary()
_all: WeakSet[InFlight] = WeakSet()
_making = threading.Lock()


class Claim:
    """The keys of one chunk that one caller encodes.

    Attributes:
        owner: the thread of the caller.
        vectors: the vectors (dim,) that are not in the cache, by key, such as those with NaN.
        error: what ended the chunk, if it concerns those who wait too.
    """

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.vectors: dict[bytes, NDArray[Any]] = {}
        self.error: Exception | None = None


class InFlight:
    """The claims on the items of one cache.

    Attributes:
        ended: how often claims have ended so far: whoever sees it unchanged need not look for new rows.
    """

    def __init__(self) -> None:
        self.ended = 0
        self._claims: dict[bytes, Claim] = {}
        self._changed = threading.Condition()
        _all.add(self)

    @classmethod
    def of(cls, cache: object) -> InFlight:
        """Return the one table of a cache, which is named by anything that can be hashed."""
        with _making:
            table = _tables.get(cache)
            if table is None:
                _tables[cache] = table = cls()
            return table

    def claim(self, keys: Keys) -> tuple[Claim, dict[int, Claim]]:
        """Claim those of different keys (n, 32) that nobody else has claimed.

        A caller that encodes again from within its own model is not made to wait for itself.

        Returns:
            The claim, and the claims of others by the position of the key.
        """
        claim, others = Claim(), {}
        with self._changed:
            for at, key in enumerate(as_bytes(keys)):
                other = self._claims.setdefault(key, claim)
                if other is not claim and other.owner != claim.owner:
                    others[at] = other
        return claim, others

    def release(self, claim: Claim, keys: Keys, error: BaseException | None = None) -> None:
        """Give keys (n, 32) back, and let those go on who wait for them.

        Args:
            claim: what :meth:`claim` returned.
            keys: which of its keys are done with.
            error: what ended the chunk. Interrupts and the like concern their own caller only.
        """
        with self._changed:
            if isinstance(error, Exception) and not getattr(error, "concerns_own_call", False):
                claim.error = error
            self.ended += 1
            for key in as_bytes(keys):
                if self._claims.get(key) is claim:
                    del self._claims[key]
            self._changed.notify_all()

    def wait(self, key: bytes, claim: Claim) -> None:
        """Wait until a key of another caller's claim is done with."""
        with self._changed:
            self._changed.wait_for(lambda: self._claims.get(key) is not claim)

    def forget(self) -> None:
        """Drop all claims, in a forked child: their threads are the parent's."""
        self._claims, self._changed = {}, threading.Condition()


def as_bytes(keys: Keys) -> list[bytes]:
    """Return each of the keys (n, 32) as 32 bytes."""
    whole: list[bytes] = keys.view("V32").ravel().tolist()
    return whole


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603 - a thread of the parent may hold it for ever
    _making = threading.Lock()
    for table in list(_all):
        table.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
