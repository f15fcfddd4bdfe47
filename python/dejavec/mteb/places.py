"""Where the vectors of mteb's calls lie, and the caches that are open there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dejavec.backends import FaissCache, NumpyCache
from dejavec.cache import EmbeddingCache
from dejavec.identity import digest, sibling
from dejavec.mteb.directories import experiment_name, safe_name
from dejavec.mteb.foreign_backend import ForeignCache

Scope = Literal["task", "model"]
Place = tuple[Path, str]
"""A directory, and the digest of the identity of the vectors there."""

_OPEN_CACHES = 32
"""A benchmark has thousands of directories, and a process may open some hundred files."""


class Places:
    """The caches of one wrapper.

    Args:
        cache_path: the directory of all.
        backend: the class of each.
        scope: whether tasks share the vectors of one model.
        options: for each ``EmbeddingCache``.

    Attributes:
        opened: the caches that are open.
    """

    def __init__(
        self, cache_path: Path, backend: type[Any], scope: Scope, options: Mapping[str, Any]
    ) -> None:
        self._cache_path = cache_path
        self._backend = backend
        self._scope = scope
        self._options = options
        self.opened: dict[Place, Any] = {}

    def open(
        self, identity: Mapping[str, Any], *, task: str, model: str, settings: Mapping[str, Any]
    ) -> Place:
        """Return where vectors of this identity lie, having opened the cache there.

        Args:
            identity: of the call.
            task: the task's name.
            model: the model's name.
            settings: of the experiment.

        Raises:
            TypeError: a setting has no stable form.
        """
        directory = self._cache_path / safe_name(task if self._scope == "task" else model)
        experiment = experiment_name(settings)
        if experiment is not None:
            directory = directory / "experiments" / experiment
        if identity["role"] is not None:
            directory = directory / safe_name(identity["role"])
        if self._scope == "model":
            # Tasks of one model differ in their prompts, so a directory for each is nothing to warn of.
            directory = sibling(directory, identity)
        place = (directory, digest(identity))
        if place not in self.opened:
            while len(self.opened) >= _OPEN_CACHES:
                self.opened.pop(next(iter(self.opened))).close()
            self.opened[place] = self._open(directory, identity)
        return place

    def close(self) -> None:
        """Release all caches."""
        while self.opened:
            self.opened.popitem()[1].close()

    def _open(self, directory: Path, identity: Mapping[str, Any]) -> EmbeddingCache | ForeignCache:
        if self._backend in (NumpyCache, FaissCache):
            container = self._backend.container
            return EmbeddingCache(directory, identity=identity, container=container, **self._options)
        return ForeignCache(directory, self._backend, identity, **self._options)
