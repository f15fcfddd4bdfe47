"""The directories for the vectors of mteb's calls, and the open caches in them."""

from __future__ import annotations

import glob
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from dejavec.backends import FaissCache, NumpyCache
from dejavec.errors import IdentityMismatchError, sentence
from dejavec.identity.proven import FILE as PROVEN
from dejavec.mteb.directories import experiment_name, safe_name
from dejavec.mteb.foreign_backend import ForeignCache, foreign_identities, foreign_record
from dejavec.storage.identity import BARE, difference, digest, same, sibling
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.canonical import canonical_json
from dejavec.support.fork import make_locks_of
from dejavec.support.secret_names import without_secrets
from dejavec.support.warn import warn

Scope = Literal["task", "model"]

_META = "meta.json"
_OPEN_CACHES = 32
"""How many caches stay open. A benchmark has thousands, and a process may open only some hundred files."""

_BESIDE_STATE = (
    "role",
    "prompt",
    "encoder",
    "experiment",
    "media",
    "arguments",
    "hf_subset",
    "hf_split",
    "store_dtype",
)
"""Entries of an identity, except the model and its loader settings."""


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
        cache_path: the directory of all caches.
        backend: the class of the caches.
        scope: whether tasks share the vectors of one model.
        options: further arguments of each cache.
        raises: whether a directory with another model's vectors raises. Otherwise a sibling is used.
    """

    def __init__(
        self,
        cache_path: Path,
        backend: type[Any],
        scope: Scope,
        options: Mapping[str, Any],
        *,
        raises: bool,
    ) -> None:
        self._cache_path = cache_path
        self._backend = backend
        self._scope = scope
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

    def first(
        self, identity: Mapping[str, Any], *, task: str, model: str, settings: Mapping[str, Any]
    ) -> Place:
        """Return the first place of an identity.

        Args:
            identity: the identity of the call.
            task: the name of the task.
            model: the name of the model.
            settings: the settings of the experiment. The name of the directory contains no secrets.

        Raises:
            TypeError: a setting has no stable form.
        """
        above = self._cache_path / safe_name(task if self._scope == "task" else model)
        directory = self._with_experiment(above, settings)
        if identity["role"] is not None:
            directory = directory / safe_name(identity["role"])
        if self._scope == "model":
            # Tasks of one model have different prompts, so siblings are normal and need no warning.
            directory = sibling(directory, identity)
        return Place.of(directory, identity)

    def all(self, first: Place) -> Iterator[Place]:
        """Yield all places that may hold vectors of an identity, in order, without end.

        Directories come first that were written before identities had a state. Then come the first place and
        its siblings. A sibling is used if the vectors of the same identity are another model's.
        """
        if first not in self._older:
            self._older[first] = list(self._written_before(first))
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
            if not self._exists(place):
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
            IdentityMismatchError: the directory has another identity, with ``on_mismatch="raise"``.
        """
        with self._lock:
            cache = self._opened.pop(place, None) or self._open(place, why)
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

    @property
    def _is_foreign(self) -> bool:
        return self._backend not in (NumpyCache, FaissCache)

    def _exists(self, place: Place) -> bool:
        if self._is_foreign:
            record = foreign_record(place.path, self._backend, json.loads(place.identity))
            directory = record.with_suffix("")
            return record.exists() or (directory.is_dir() and any(directory.iterdir()))
        directory = self._directory(place)
        return any((directory / name).exists() for name in (_META, PROVEN))

    def _with_experiment(self, above: Path, settings: Mapping[str, Any]) -> Path:
        public = without_secrets(dict(settings))
        name = experiment_name(public)
        if public != settings:
            secret = experiment_name(settings)
            old, new = above / "experiments", above if name is None else above / "experiments" / name
            if secret is not None and (old / secret).is_dir():
                self._warn_once(
                    f"{old}: a directory there has a secret in its name, and in each meta.json below it; the "
                    f"vectors are looked for in {new} now: move the caches there, for example by the Python "
                    f'line `import shutil; shutil.copytree(OLD, "{new}", dirs_exist_ok=True)`, then remove '
                    "the old directory and replace the secret"
                )
        return above if name is None else above / "experiments" / name

    def _directory(self, place: Place) -> Path:
        """Return the directory of our cache: a sibling if the place's directory has another identity."""
        found = read_identity(place.path)
        identity = json.loads(place.identity)
        return place.path if found is None or same(found, identity) else sibling(place.path, identity)

    def _open(self, place: Place, why: Elsewhere | None) -> KeyedCache | ForeignCache:
        identity = json.loads(place.identity)
        if self._is_foreign:
            return ForeignCache(place.path, self._backend, identity, **self._options)
        directory = self._directory(place)
        if directory != place.path:
            why = Elsewhere(place.path, *difference(identity, read_identity(place.path) or {}))
        if why is not None:
            if self._raises:
                remedy = 'use another cache_path for other vectors, or on_mismatch="sibling"'
                raise IdentityMismatchError(
                    why.directory, expected=why.expected, found=why.found, remedy=remedy
                )
            self._warn_once(
                sentence(
                    why.directory,
                    expected=why.expected,
                    found=why.found,
                    remedy=f"these vectors go to {directory} instead",
                )
            )
        return KeyedCache(
            directory,
            identity=identity,
            containers=() if self._backend is NumpyCache else (self._backend.container,),
            on_mismatch="sibling",
            **self._options,
        )

    def _warn_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            warn(message)

    def _written_before(self, first: Place) -> Iterator[Place]:
        """Yield places with an identity without a state, which differs from ours only in the model."""
        identity = json.loads(first.identity)
        if self._is_foreign:
            stored = ((first.path, found) for found in foreign_identities(first.path, self._backend))
        else:
            beside = sorted(first.path.parent.glob(f"{glob.escape(first.path.name)}@*"))
            stored = ((path, found) for path in [first.path, *beside] if (found := read_identity(path)))
        for path, found in stored:
            if found != BARE and _only_model_differs(found, identity):
                yield Place.of(path, found)


def read_identity(directory: Path) -> dict[str, Any] | None:
    """Return the identity of the cache in a directory; None if there is no readable one."""
    try:
        identity = json.loads((directory / _META).read_bytes())["identity"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return identity if isinstance(identity, dict) else None


def _only_model_differs(found: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    """Return whether an identity without a state differs from another only in the model."""
    model, wanted = found.get("model"), identity.get("model", {})
    if not isinstance(model, Mapping) or {"state", "variant"} & set(model) or same(found, identity):
        return False
    for name in ("name", "revision"):
        if name in model and model[name] != wanted.get(name):
            return False
    return all(_public(found.get(part)) == _public(identity.get(part)) for part in _BESIDE_STATE)


def _public(part: Any) -> str:
    public = without_secrets(part)
    if isinstance(public, dict):
        public.pop("settings", None)  # The digest of prompt settings does not count here.
    return canonical_json(public or {})
