"""The directories of the vectors of one identity, and the open caches in them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dejavec.errors import IdentityMismatchError, sentence
from dejavec.identity.proven import FILE as PROVEN
from dejavec.storage.identity import difference, digest, same, sibling
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.canonical import canonical_json
from dejavec.support.fork import make_locks_of
from dejavec.support.warn import warn
from dejavec.vectors.output import Container

_META = "meta.json"
_OPEN_CACHES = 32
"""How many caches stay open. A benchmark has thousands, and a process may open only some hundred files."""


@dataclass(frozen=True)
class Place:
    """A directory, and the identity of its vectors, even before there are any.

    Attributes:
        path: the directory of the identity if no other identity uses it.
        digest: the digest of the identity.
        identity: the identity as JSON.
    """

    path: Path
    digest: str
    identity: str

    @classmethod
    def of(cls, path: Path, identity: Mapping[str, Any]) -> Place:
        """Return the place of an identity."""
        return cls(path, digest(identity), canonical_json(identity))


@dataclass(frozen=True)
class Elsewhere:
    """Why vectors do not go to the requested directory.

    Attributes:
        directory: the requested directory.
        expected: the identity that it should have, as a message says it.
        found: the identity that it has.
    """

    directory: Path
    expected: str
    found: str


class Places:
    """The caches of one wrapper.

    Args:
        containers: the containers that a cache may have; empty for any.
        options: further arguments of each cache.
        raises: whether a directory with another model's vectors raises. Otherwise a sibling is used.
        opened: opens a cache, with the arguments of :class:`KeyedCache`.
    """

    def __init__(
        self,
        containers: Sequence[Container],
        options: Mapping[str, Any],
        *,
        raises: bool,
        opened: Callable[..., KeyedCache] = KeyedCache,
    ) -> None:
        self._open_cache = opened
        self._containers = containers
        self._options = options
        self._raises = raises
        self._opened: dict[Place, Any] = {}
        self._used: dict[Place, int] = {}
        self._older: dict[Place, list[Place]] = {}
        self._told: set[str] = set()
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock. A forked child makes a new one."""
        self._lock = threading.RLock()

    def all(self, first: Place) -> Iterator[Place]:
        """Yield all places that may hold vectors of an identity, in order, without end.

        Those of :meth:`written_before` come first. Then come the first place and its siblings. A sibling is
        used if the vectors of the same identity are another model's.
        """
        if first not in self._older:
            self._older[first] = list(self.written_before(first))
        yield from self._older[first]
        yield first
        identity = json.loads(first.identity)
        for variant in count(1):
            other = {**identity, "model": {**identity.get("model", {}), "variant": variant}}
            yield Place.of(sibling(first.path, other), other)

    def existing(self, first: Place) -> tuple[list[Place], Place]:
        """Return the used places of an identity, in order, and the first free one."""
        found: list[Place] = []
        for place in self.all(first):
            if not self.exists(place):
                return found, place
            found.append(place)
        raise AssertionError("the places of an identity have no end")

    @contextmanager
    def using(self, place: Place, why: Elsewhere | None = None) -> Iterator[Any]:
        """Return the open cache of a place, which is opened if necessary, and keep it open in the context.

        Args:
            place: one of :meth:`all`.
            why: why it is not the requested directory; None if it is.

        Raises:
            IdentityMismatchError: the directory has another identity, with ``raises``.
        """
        with self._lock:
            cache = self._opened.pop(place, None) or self.open(place, why)
            self._opened[place] = cache  # The most recently used cache is closed last.
            self._used[place] = self._used.get(place, 0) + 1
            idle = [other for other in self._opened if not self._used.get(other)]
            for other in idle[: max(len(self._opened) - _OPEN_CACHES, 0)]:
                self._opened.pop(other).close()
        try:
            yield cache
        finally:
            with self._lock:
                self._used[place] -= 1

    def close(self) -> None:
        """Close all caches."""
        with self._lock:
            while self._opened:
                self._opened.popitem()[1].close()

    def written_before(self, first: Place) -> Iterable[Place]:
        """Return places whose identity is of an older form, but may mean the same."""
        del first
        return ()

    def exists(self, place: Place) -> bool:
        """Return whether there is a cache, or a claim on one."""
        directory = self._directory(place)
        return any((directory / name).exists() for name in (_META, PROVEN))

    def open(self, place: Place, why: Elsewhere | None) -> Any:
        """Open the cache of a place. The arguments and errors are those of :meth:`using`."""
        directory = self._directory(place)
        identity = json.loads(place.identity)
        if directory != place.path:
            why = Elsewhere(place.path, *difference(identity, read_identity(place.path) or {}))
        if why is not None:
            if self._raises:
                remedy = 'use another cache_path for other vectors, or on_mismatch="sibling"'
                raise IdentityMismatchError(
                    why.directory, expected=why.expected, found=why.found, remedy=remedy
                )
            self.warn_once(
                sentence(
                    why.directory,
                    expected=why.expected,
                    found=why.found,
                    remedy=f"these vectors go to {directory} instead",
                )
            )
        return self._open_cache(
            directory,
            identity=identity,
            containers=self._containers,
            on_mismatch="sibling",
            **self._options,
        )

    def warn_once(self, message: str) -> None:
        """Warn, unless the same message was given before."""
        if message not in self._told:
            self._told.add(message)
            warn(message)

    def _directory(self, place: Place) -> Path:
        """Return the directory of our cache: a sibling if the place's directory has another identity."""
        found = read_identity(place.path)
        identity = json.loads(place.identity)
        return place.path if found is None or same(found, identity) else sibling(place.path, identity)


def read_identity(directory: Path) -> dict[str, Any] | None:
    """Return the identity of the cache in a directory; None if there is no readable one."""
    try:
        identity = json.loads((directory / _META).read_bytes())["identity"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return identity if isinstance(identity, dict) else None
