"""New locks in a forked child, since a thread of the parent may have held the old ones."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class HasLocks(Protocol):
    """An object with locks."""

    def make_locks(self) -> None:
        """Make the locks, or replace them by new ones."""


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
