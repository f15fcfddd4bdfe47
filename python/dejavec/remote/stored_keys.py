"""Which texts a store has vectors of: the keys of one identity, without a vector."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import text_keys
from dejavec.remote.index import RemoteIndex
from dejavec.remote.namespace import Namespace
from dejavec.remote.objects import Objects
from dejavec.remote.pull import namespaces_with, one_of
from dejavec.remote.urls import place
from dejavec.storage.identity import describe
from dejavec.support.closing import Closing
from dejavec.support.paths import local_directory


class StoredKeys(Closing):
    """The keys of a store, for one identity.

    They lie in mapped files, so that the processes of a machine share them: about 70 bytes on disk for each.
    Opening reads the keys that are new in the store.

    Args:
        url: the address of the store: see :meth:`dejavec.EmbeddingCache.push`.
        path: a directory on the disk of this machine. All processes on it may use it at a time.
        model: which model made the vectors, as ``"name@revision"``.
        identity: as in :class:`dejavec.EmbeddingCache`.
        prompt: likewise.
        role: likewise.
        store_dtype: likewise.

    Raises:
        IdentityMismatchError: the store has rows of several forms for this identity.
        StorageError: the store could not be read.
        MissingPackageError: obstore is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from dejavec import EmbeddingCache
        >>> with tempfile.TemporaryDirectory() as path:
        ...     team = f"file://{path}/team"
        ...     with EmbeddingCache(f"{path}/mine", model="toy@1", remote=team) as mine:
        ...         _ = mine.put(["east", "north"], np.eye(2, dtype=np.float32))
        ...     with StoredKeys(team, path=f"{path}/keys", model="toy@1") as stored:
        ...         len(stored), stored.has(["north", "south"])
        (2, array([ True, False]))
    """

    def __init__(
        self,
        url: str,
        *,
        path: str | os.PathLike[str],
        model: str,
        identity: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        role: str | None = None,
        store_dtype: str | None = None,
    ) -> None:
        self._identity = describe(model, identity, prompt=prompt, role=role, store_dtype=store_dtype)
        self._objects = Objects(place(url, missing="make"))
        self._path = local_directory(path)
        self._index: RemoteIndex | None = None
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Read the keys that are new in the store.

        Raises:
            StorageError: it could not be read.
        """
        with self._lock:
            if self._index is None:
                namespace = one_of(namespaces_with(self._objects, self._identity), self._objects)
                if namespace is None:
                    return
                self._index = RemoteIndex(self._objects, namespace, self._path / self._name(namespace))
            self._index.sync()

    def has(self, texts: object) -> NDArray[np.bool_]:
        """Return which texts the store had at the last :meth:`refresh` (n,).

        Args:
            texts: n texts, in any form of :func:`dejavec.keys.items.text_keys`.

        Raises:
            ItemError: a text is not a string.
        """
        keys = text_keys(texts)
        with self._lock:
            return np.zeros(len(keys), np.bool_) if self._index is None else self._index.has(keys)

    def __len__(self) -> int:
        """Return how many different texts the store had."""
        return 0 if self._index is None else len(self._index)

    def __bool__(self) -> bool:
        """Return True, also without keys."""
        return True

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            if self._index is not None:
                self._index.close()
                self._index = None

    def _name(self, namespace: Namespace) -> str:
        url = hashlib.sha256(self._objects.url.rstrip("/").encode()).hexdigest()
        return f"keys-{url[:16]}-{namespace.name[:16]}"
