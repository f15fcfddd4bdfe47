"""The open store of a cache: opened once it exists, checked for its identity, reopened after a fork."""

from __future__ import annotations

import json
import os
import shlex
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

from dejavec import _core
from dejavec.errors import (
    CacheNotFoundError,
    ClosedCacheError,
    ForeignDirectoryError,
    IdentityMismatchError,
    VectorsError,
)
from dejavec.fill.in_flight import InFlight
from dejavec.identity.proven import Proofs, proven_file
from dejavec.storage.identity import mismatch, model_text, same, sibling
from dejavec.support.canonical import canonical_json
from dejavec.support.mteb_files import is_old_cache, old_cache_error
from dejavec.support.warn import warn
from dejavec.vectors.output import Container, Output, family_of

Mode = Literal["r", "a"]
Durability = Literal["commit", "close"]
OnMismatch = Literal["raise", "sibling"]

DEFAULT_CONTAINER: Container = "npy"
"""The container of dense rows in a new cache."""


_handles: WeakSet[Handle] = WeakSet()


def _after_fork_in_child() -> None:
    for handle in list(_handles):
        handle.forget()
    _core.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_core.before_fork,
        after_in_parent=_core.after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


class Handle:
    """The directory of a cache, and its store once that exists.

    Args:
        path: the directory.
        identity: the identity that the cache must have; None accepts any.
        containers: the containers that the cache may have; empty for any.
        mode: as in ``EmbeddingCache``.
        durability: likewise.
        on_mismatch: likewise.
        lock_timeout: likewise.
        shared: likewise.
        allow_network: likewise.

    Attributes:
        path: the directory in use. ``on_mismatch="sibling"`` may change it.
        on_mismatch: the policy for that directory: ``"raise"`` once it is a sibling.
        is_closed: whether :meth:`close` was called.
    """

    def __init__(
        self,
        path: Path,
        *,
        identity: Mapping[str, Any] | None,
        containers: tuple[Container, ...],
        mode: Mode,
        durability: Durability,
        on_mismatch: OnMismatch,
        lock_timeout: float,
        shared: bool,
        allow_network: bool,
    ) -> None:
        self.path = path
        self._identity = identity
        self._containers = containers
        self._mode: Mode = mode
        self._durability: Durability = durability
        self.on_mismatch: OnMismatch = on_mismatch
        self._lock_timeout = lock_timeout
        self._shared = shared
        self._proofs: Proofs | None = None
        self._allow_network = allow_network
        self.is_closed = False
        self._warned = False
        self._store: _core.Store | None = None
        self._in_flight: tuple[object, InFlight] | None = None
        # Two threads at the first use must not open two stores: one would be dropped without a sync.
        self._opening = threading.RLock()
        _handles.add(self)
        self.store()

    def store(self) -> _core.Store | None:
        """Return the open store; None while there is no cache in the directory.

        Raises:
            ClosedCacheError: after :meth:`close`.
            IdentityMismatchError, ForeignDirectoryError, CacheNotFoundError: as ``EmbeddingCache`` says.
        """
        if (store := self._store) is not None:
            return store
        with self._opening:
            if self.is_closed:
                raise ClosedCacheError(
                    self.path, expected="an open cache", found="it closed", remedy="open it again"
                )
            if self._store is None:
                self._store = self._open()
            return self._store

    def identity(self) -> dict[str, Any] | None:
        """Return the identity of the cache, even before it exists; None if any is accepted."""
        store = self.store()
        if store is not None:
            found: dict[str, Any] = json.loads(store.identity)
            return found
        return None if self._identity is None else dict(self._identity)

    @property
    def writes(self) -> bool:
        """Whether the cache may be written."""
        return self._mode == "a"

    @property
    def in_flight(self) -> InFlight:
        """The items that callers of this process are encoding for this cache."""
        cache = (self.path, None if self._identity is None else canonical_json(self._identity))
        if self._in_flight is None or self._in_flight[0] != cache:
            self._in_flight = cache, InFlight.of(cache)
        return self._in_flight[1]

    @property
    def container(self) -> Container:
        """The container of the rows. Before there are any, the one that was asked for first."""
        store = self.store()
        return (*self._containers, DEFAULT_CONTAINER)[0] if store is None else store.container

    def accepts(self, containers: Sequence[Container]) -> bool:
        """Return whether a new cache may have one of these containers."""
        return not self._containers or any(container in containers for container in self._containers)

    def container_for(self, output: Output, where: str) -> Container:
        """Return the container of the cache, or of a new one for vectors of an array kind.

        Raises:
            VectorsError: none that the cache may have holds such vectors.
        """
        store = self.store()
        if store is not None:
            return store.container
        for container in self._containers or (DEFAULT_CONTAINER, "ragged", "sparse"):
            if family_of(container) == output.family:
                return container
        raise VectorsError(
            where,
            expected=f"vectors that the container {self._containers[0]} holds",
            found=f"{output.family} ones",
            remedy="leave container out, or use NumpyCache, for a container that fits",
        )

    @property
    def proofs(self) -> Proofs:
        """The proven descriptions of the cache."""
        if self._proofs is None or self._proofs.file.parent != self.path:
            self._proofs = proven_file(
                self.path,
                writes=self._mode == "a",
                shared=self._shared,
                allow_network=self._allow_network,
                lock_timeout=self._lock_timeout,
            )
        return self._proofs

    def forget(self) -> None:
        """Drop the store in a forked child; the next use opens it again.

        A store cannot be used across a fork, and a thread of the parent may have held the lock.
        """
        self._store, self._opening = None, threading.RLock()

    def refresh(self) -> _core.Store | None:
        """Read the commits of others, or notice that the directory is gone; return :meth:`store`.

        Raises:
            CacheNotFoundError: the directory is gone, and ``mode="r"``.
        """
        store = self.store()
        if store is None:
            return None
        try:
            store.refresh()
        except CacheNotFoundError:
            if self._mode == "r":
                raise
            with self._opening:
                if self._store is store:
                    self._store = None
            return self.store()
        return store

    def create(self, dim: int, dtype: str, output: Output, container: Container) -> _core.Store:
        """Return the open store, which is created in this form if necessary.

        Raises:
            LockTimeoutError: another writer held the lock for longer than ``lock_timeout``.
        """
        # `_opening` is not held here: threads that wait for it could not time out after `lock_timeout`.
        while (store := self.store()) is None:
            path = self.path
            try:
                _core.Store.create(
                    str(path),
                    dim=dim,
                    dtype=dtype,
                    identity=canonical_json(self._identity),
                    output=output.to_json(),
                    container=container,
                    durability=self._durability,
                    lock_timeout=self._lock_timeout,
                    shared=self._shared,
                    allow_network=self._allow_network,
                )
            except VectorsError:
                # Another process may have just created another cache. Opening it gives the right error.
                if self.store() is None and self.path == path:
                    raise
        return store

    def close(self) -> None:
        """Close the store, if it is open."""
        with self._opening:
            store, self._store, self.is_closed = self._store, None, True
            if store is not None:
                store.close()

    def _open(self) -> _core.Store | None:
        try:
            store = _core.Store.open(
                str(self.path),
                mode=self._mode,
                durability=self._durability,
                lock_timeout=self._lock_timeout,
                allow_network=self._allow_network,
            )
        except CacheNotFoundError:
            if self._mode == "a":
                return None
            raise
        except ForeignDirectoryError:
            if is_old_cache(self.path):
                raise old_cache_error(self.path, model_text(self._identity or {})) from None
            raise
        self._warn_of_open_directory()
        expected, found = self._identity, json.loads(store.identity)
        if self._containers and store.container not in self._containers:
            expected = {**({} if expected is None else expected), "container": self._containers[0]}
            found = {**({} if self._identity is None else found), "container": store.container}
        if expected is None or same(found, expected):
            return store
        wanted, held, remedy = mismatch(expected, found)
        if self.on_mismatch == "raise":
            raise IdentityMismatchError(self.path, expected=wanted, found=held, remedy=remedy)
        beside = sibling(self.path, expected)
        warn(self.path, expected=wanted, found=held, remedy=f"these vectors go to {beside} instead")
        self.path, self.on_mismatch = beside, "raise"
        return self._open()

    def _warn_of_open_directory(self) -> None:
        """Warn if the directory is world-writable."""
        mode = self.path.stat().st_mode
        if mode & stat.S_IWOTH and not self._warned:
            self._warned = True
            command = shlex.join(["chmod", "o-w", str(self.path)])
            warn(
                self.path,
                expected="a directory that only its owner or group writes",
                found=f"mode {stat.S_IMODE(mode):o}",
                remedy=f"anybody may forge vectors there: run `{command}`",
            )
