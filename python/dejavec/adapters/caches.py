"""The caches of one adapter: directories beside each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from dejavec.cache import CacheSettings, EmbeddingCache
from dejavec.support.canonical import canonical_json
from dejavec.support.closing import Closing
from dejavec.support.fork import make_locks_of
from dejavec.support.paths import local_directory
from dejavec.vectors.output import Kind

_OWN = ("identity", "on_mismatch", "output", "prompt", "role")
"""Settings that an adapter chooses."""


class Caches(Closing):
    """The caches of one adapter, each opened at its first use.

    If a directory has another identity, a sibling is used.

    Args:
        path: the directory above.
        settings: the settings of each cache, see :class:`dejavec.EmbeddingCache`.
        output: the array kind of all vectors; None: what the model returned first.

    Raises:
        TypeError: there is no such setting, or the adapter chooses it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path, Caches(path, {"model": "toy@1"}) as caches:
        ...     caches.of("query", {"layer": 3}).path.name, caches.of("query", {"layer": 3}).identity["layer"]
        ('query', 3)
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: CacheSettings, output: Kind | None = None
    ) -> None:
        known = CacheSettings.__annotations__.keys() - set(_OWN)
        unknown = sorted(set(settings) - known)
        if unknown:
            raise TypeError(
                f"expected settings of EmbeddingCache besides {', '.join(_OWN)}, found {', '.join(unknown)}"
            )
        self._path = local_directory(path)
        self._settings: Mapping[str, Any] = settings
        self._output = output
        self._open: dict[str, EmbeddingCache] = {}
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock, now and in a forked child."""
        self._opening = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": str(self._path), "settings": dict(self._settings), "output": self._output}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Caches.__init__(self, **state)

    def of(self, name: str, identity: Mapping[str, Any]) -> EmbeddingCache:
        """Return a cache.

        Args:
            name: the name of its directory.
            identity: the identity, as a JSON object.
        """
        key = canonical_json({"name": name, "identity": identity})
        with self._opening:
            if key not in self._open:
                self._open[key] = EmbeddingCache(
                    self._path / name,
                    identity=identity,
                    on_mismatch="sibling",
                    output=self._output,
                    **self._settings,
                )
            return self._open[key]

    def close(self) -> None:
        """Close the caches that are open. The next use opens them again."""
        with self._opening:
            while self._open:
                self._open.popitem()[1].close()
