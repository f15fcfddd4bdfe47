"""What a forked child must make anew: locks that a thread of its parent may have held."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class HasLocks(Protocol):
    """An object with locks of its own."""

    def make_locks(self) -> None:
        """Make its locks, or new ones in their place."""


_owners: WeakSet[HasLocks] = WeakSet()


def make_locks_of(owner: HasLocks) -> None:
    """Have an object make its locks, now and in every forked child."""
    owner.make_locks()
    _owners.add(owner)


def _after_fork_in_child() -> None:
    for owner in list(_owners):
        owner.make_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
