"""Items that a caller of this process is encoding now. Other callers wait for them.

Each cache has one table for the whole process, even if several objects open it. A caller claims the keys of
one chunk at a time, and never waits while it holds claims. So there is no deadlock.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet, WeakValueDictionary

from dejavec.keys.items import Keys, as_bytes
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows

_tables: WeakValueDictionary[object, InFlight] = WeakValueDictionary()
_all: WeakSet[InFlight] = WeakSet()
_making = threading.Lock()


class Claim:
    """The keys of one chunk that one caller encodes.

    Attributes:
        owner: the thread of the caller.
        rows: the rows that are not stored, such as vectors with NaN, by key: one row each.
        output: the array kind of these rows.
        error: the exception that ended the chunk, if it concerns waiting callers too.
    """

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.rows: dict[bytes, Rows] = {}
        self.output: Output | None = None
        self.error: Exception | None = None


class InFlight:
    """The claims on the items of one cache.

    Attributes:
        ended: how often claims have ended. While it is unchanged, there are no new rows to look up.
    """

    def __init__(self) -> None:
        self.ended = 0
        self._claims: dict[bytes, Claim] = {}
        self._changed = threading.Condition()
        _all.add(self)

    @classmethod
    def of(cls, cache: object) -> InFlight:
        """Return the table of a cache. Any hashable object identifies the cache."""
        with _making:
            table = _tables.get(cache)
            if table is None:
                _tables[cache] = table = cls()
            return table

    def claim(self, keys: Keys) -> tuple[Claim, dict[int, Claim]]:
        """Claim the keys that nobody else has claimed, among different keys (n, 32).

        Claims of the same thread do not count, since a model may call the cache again from within ``encode``.

        Returns:
            The claim, and other callers' claims by the position of the key.
        """
        claim, others = Claim(), {}
        with self._changed:
            for at, key in enumerate(as_bytes(keys)):
                other = self._claims.setdefault(key, claim)
                if other is not claim and other.owner != claim.owner:
                    others[at] = other
        return claim, others

    def release(self, claim: Claim, keys: Keys, error: BaseException | None = None) -> None:
        """Release keys (n, 32), and wake the callers that wait for them.

        Args:
            claim: the result of :meth:`claim`.
            keys: the keys to release.
            error: the exception that ended the chunk. Interrupts and the like concern their own caller only.
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
        """Wait until another caller releases a key of its claim."""
        with self._changed:
            self._changed.wait_for(lambda: self._claims.get(key) is not claim)

    def forget(self) -> None:
        """Drop all claims in a forked child, since their threads belong to the parent."""
        self._claims, self._changed = {}, threading.Condition()


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603 - a thread of the parent may hold it for ever
    _making = threading.Lock()
    for table in list(_all):
        table.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
