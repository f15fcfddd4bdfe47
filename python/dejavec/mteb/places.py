"""The directories for the vectors of mteb's calls."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dejavec.backends import FaissCache, NumpyCache
from dejavec.mteb.directories import experiment_name
from dejavec.mteb.foreign_backend import ForeignCache, foreign_identities, foreign_record
from dejavec.serving.places import Elsewhere, Place, Places, read_identity
from dejavec.storage.identity import BARE, same, sibling
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.canonical import canonical_json
from dejavec.support.safe_name import safe_name
from dejavec.support.secret_names import without_secrets

Scope = Literal["task", "model"]

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


class TaskPlaces(Places):
    """The caches of one wrapper for mteb.

    Args:
        cache_path: the directory of all caches.
        backend: the class of the caches.
        scope: whether tasks share the vectors of one model.
        options: further arguments of each cache.
        raises: whether a directory with another model's vectors raises. Otherwise a sibling is used.
        opened: opens a cache, with the arguments of ``KeyedCache``.
    """

    def __init__(
        self,
        cache_path: Path,
        backend: type[Any],
        scope: Scope,
        options: Mapping[str, Any],
        *,
        raises: bool,
        opened: Callable[..., KeyedCache],
    ) -> None:
        self._is_foreign = backend not in (NumpyCache, FaissCache)
        chosen = () if self._is_foreign or backend is NumpyCache else (backend.container,)
        super().__init__(chosen, options, raises=raises, opened=opened)
        self._cache_path = cache_path
        self._backend = backend
        self._scope = scope

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

    def written_before(self, first: Place) -> Iterator[Place]:
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

    def exists(self, place: Place) -> bool:
        """Return whether there is a cache, or a claim on one."""
        if not self._is_foreign:
            return super().exists(place)
        record = foreign_record(place.path, self._backend, json.loads(place.identity))
        directory = record.with_suffix("")
        return record.exists() or (directory.is_dir() and any(directory.iterdir()))

    def open(self, place: Place, why: Elsewhere | None) -> Any:
        """Open the cache of a place. The arguments and errors are those of :meth:`using`."""
        if not self._is_foreign:
            return super().open(place, why)
        return ForeignCache(place.path, self._backend, json.loads(place.identity), **self._options)

    def _with_experiment(self, above: Path, settings: Mapping[str, Any]) -> Path:
        public = without_secrets(dict(settings))
        name = experiment_name(public)
        if public != settings:
            secret = experiment_name(settings)
            old, new = above / "experiments", above if name is None else above / "experiments" / name
            if secret is not None and (old / secret).is_dir():
                self.warn_once(
                    f"{old}: a directory there has a secret in its name, and in each meta.json below it; the "
                    f"vectors are looked for in {new} now: move the caches there, for example by the Python "
                    f'line `import shutil; shutil.copytree(OLD, "{new}", dirs_exist_ok=True)`, then remove '
                    "the old directory and replace the secret"
                )
        return above if name is None else above / "experiments" / name


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
