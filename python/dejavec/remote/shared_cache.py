"""A cache with a store behind it: what is missing here may be there, and what is new here goes there."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import DejavecError, IdentityMismatchError, VectorsError
from dejavec.keys.items import Keys, different, words
from dejavec.remote.fetch import take
from dejavec.remote.hub import is_data_set
from dejavec.remote.link import Link
from dejavec.remote.namespace import namespace_of
from dejavec.remote.objects import Objects
from dejavec.remote.pull import create, namespace_for
from dejavec.remote.push import SEGMENT_BYTES, push_over
from dejavec.remote.urls import obstore, place
from dejavec.storage.identity import BARE
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.fork import make_locks_of
from dejavec.vectors.ragged import Rows, stored_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class StoreBehind:
    """A store behind a cache, and how often it is told and asked.

    Attributes:
        url: the address.
        push_bytes: new rows are pushed when they have so many bytes,
        push_seconds: or when the oldest is so old.
        most_unpushed: while a push is due or under way, whoever stores rows waits until fewer bytes than
            these are not pushed. None: nobody waits.
        look_seconds: how long the index of the store is believed before it is looked at again.
    """

    url: str
    push_bytes: int = SEGMENT_BYTES
    push_seconds: float = 300.0
    most_unpushed: int | None = None
    look_seconds: float = 60.0


class SharedCache(KeyedCache):
    """A :class:`KeyedCache` with a store behind it.

    Keys that are missing here are looked for in the store by :meth:`take`, before a model is asked. New rows
    are pushed in the background, and on close. If the store cannot be read, the cache works without it, and
    warns once. A forked child does not use the store.

    Args:
        path: the directory.
        remote: the address of the store, or all about it.
        **settings: those of :class:`KeyedCache`. The identity names a model.

    Raises:
        ValueError: it is no address; or ``mode="r"``, which cannot take rows.
        VectorsError: no model is named.
        MissingPackageError: obstore is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, remote: str | StoreBehind, **settings: Any) -> None:
        self._behind = remote if isinstance(remote, StoreBehind) else StoreBehind(remote)
        remote = self._behind.url
        if is_data_set(remote):
            raise ValueError(
                f"expected a store that can be written, found {remote!r}; pull it into a cache instead"
            )
        obstore()
        if settings.get("mode", "a") == "r":
            raise ValueError('expected mode="a" with remote=, since rows are taken from there, found "r"')
        if settings.get("identity") in (None, BARE):
            raise VectorsError(
                remote,
                expected="vectors of a named model",
                found="none named",
                remedy='pass model="name@revision"',
            )
        self._url = remote
        self._process = os.getpid()
        self._link: Link | None = None
        self._looked = -math.inf
        self._taking = threading.local()
        self._new_bytes = 0
        self._pushed_now = 0
        self._new_since: float | None = None
        self._ends = False
        self._pusher: threading.Thread | None = None
        make_locks_of(self)
        super().__init__(path, **settings)

    def make_locks(self) -> None:
        """Make the locks, now and in a forked child."""
        self._linking = threading.RLock()
        self._pushing = threading.Lock()
        self._changed = threading.Condition()

    def take(self, keys: Keys) -> int:
        """Take the rows of keys that are missing here and are in the store; return how many.

        A call whose keys are all here asks the store nothing.
        """

        def taken(link: Link, missing: Keys) -> int:
            self._taking.on = True
            try:
                return take(link.index, self, link.without_deleted(missing)).rows
            finally:
                self._taking.on = False

        return self._of_missing(keys, taken) or 0

    def elsewhere(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which keys are missing here and are in the store (n,): what :meth:`take` would take.

        A call whose keys are all here asks the store nothing.
        """

        def there(link: Link, missing: Keys) -> NDArray[np.bool_]:
            wanted = link.without_deleted(missing)
            positions, _ = link.index.find(wanted)
            return np.isin(words(keys), words(wanted[positions]))

        found = self._of_missing(keys, there)
        return np.zeros(len(keys), np.bool_) if found is None else found

    def _of_missing(self, keys: Keys, work: Callable[[Link, Keys], T]) -> T | None:
        """Call ``work`` with the link and the different keys that are missing here.

        Returns:
            What it returns. None if it was not called, or failed: nothing is missing here, the store is
            empty, or it cannot be read.
        """
        if os.getpid() != self._process:
            return None
        self.refresh()
        missing = keys[self.lookup(keys) < 0]
        if not len(missing):
            return None
        try:
            with self._linking:
                link = self._looked_at()
                return None if link is None else work(link, different(missing))
        except (DejavecError, OSError) as error:
            self.warn_once(f"goes on without {self._url}: {error}")
            return None

    def note_stored(self, rows: Rows, appended: int) -> None:
        """Note that rows are to be pushed, unless they were taken from the store."""
        if not getattr(self._taking, "on", False):
            self._note(stored_bytes(rows, rows.dtype) * appended // len(rows))

    def get(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Rows]:
        """Do what :meth:`KeyedCache.get` does, for what is in the store, too."""
        self.take(keys)
        return super().get(keys, out)

    def close(self) -> None:
        """Push what is new, sync, and close all files.

        Raises:
            StorageError: the store could not be written. The rows are here, and go there with the next push.
        """
        if self.closed:
            return
        try:
            if os.getpid() == self._process:
                with self._changed:
                    self._ends = True
                    self._changed.notify_all()
                if self._pusher is not None:
                    self._pusher.join()
                self._push_new()
        finally:
            if self._link is not None:
                self._link.close()
            super().close()

    def _looked_at(self) -> Link | None:
        """Return the link, whose index is not too old; None while there is nothing in the store."""
        if time.monotonic() - self._looked < self._behind.look_seconds:
            return self._link
        self._looked = time.monotonic()
        if self._link is None:
            objects = Objects(place(self._url, missing="make"))
            try:
                namespace = namespace_for(self, objects)
            except IdentityMismatchError:
                return None  # The first vector here will choose the form.
            if namespace is None:
                return None
            create(self, namespace)
            self._link = Link(self, objects, namespace, kept=True)
        self._link.index.sync()
        return self._link

    def _note(self, count: int) -> None:
        if os.getpid() != self._process:
            return
        with self._changed:
            self._new_bytes += count
            if self._new_since is None:
                self._new_since = time.monotonic()
            if self._pusher is None and not self._ends:
                self._pusher = threading.Thread(target=self._push_in_time, name="dejavec-push", daemon=True)
                self._pusher.start()
            self._changed.notify_all()
            if self._behind.most_unpushed is not None and self._pusher is not None:
                self._changed.wait_for(self._may_go_on)

    def _may_go_on(self) -> bool:
        """Return whether few enough bytes are not pushed, or no push is due: after one failed, none is."""
        if self._ends or not (self._pushed_now or self._is_due()):
            return True
        return self._pushed_now + self._new_bytes < (self._behind.most_unpushed or 0)

    def _push_in_time(self) -> None:
        while True:
            with self._changed:
                while not self._ends and not self._is_due():
                    since = self._new_since
                    left = (
                        None
                        if since is None
                        else max(since + self._behind.push_seconds - time.monotonic(), 0)
                    )
                    self._changed.wait(left)
                if self._ends:
                    return
                self._count_as_pushed()
            try:
                self._push_new()
            except (DejavecError, OSError):
                # Tried again later, and on close, which raises.
                with self._changed:
                    self._new_since = self._new_since or time.monotonic()
            finally:
                with self._changed:
                    self._pushed_now = 0
                    self._changed.notify_all()

    def _count_as_pushed(self) -> None:
        self._pushed_now += self._new_bytes
        self._new_bytes, self._new_since = 0, None

    def _is_due(self) -> bool:
        if self._new_since is None:
            return False
        age = time.monotonic() - self._new_since
        return self._new_bytes >= self._behind.push_bytes or age >= self._behind.push_seconds

    def _push_new(self) -> None:
        """Push the rows that were stored since the last push, and the deletions."""
        with self._pushing:
            if self.refresh() == 0:
                return
            namespace = namespace_of(self)
            objects = Objects(place(self._url, missing="make"))
            # A link of its own: reads need not wait while a segment is written.
            with Link(self, objects, namespace, kept=True) as link:
                with self._changed:
                    # Before the rows are counted: what is stored in between is pushed, and counted as new.
                    self._count_as_pushed()
                files, count = (self.uuid, self.generation), self.refresh()
                start = link.pushed(files)
                if start == count and not len(link.deleted()[0]):
                    return
                link.index.sync()
                newest = np.flatnonzero(self.is_newest()[start:count]) + start
                push_over(link, keys=self.keys_of(newest))
                link.note_pushed(files, count)


def opened_with(path: Path, *, remote: str | StoreBehind | None, **settings: Any) -> KeyedCache:
    """Return a cache with a store behind it; without an address, a local one."""
    return KeyedCache(path, **settings) if remote is None else SharedCache(path, remote=remote, **settings)
