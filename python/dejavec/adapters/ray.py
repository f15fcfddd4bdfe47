"""Ray Data: what of a data set is embedded already. The data set brings Ray; nothing is imported here."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.remote.stored_keys import StoredKeys
from dejavec.remote.urls import split
from dejavec.storage.identity import describe
from dejavec.support.canonical import canonical_json
from dejavec.support.paths import local_directory


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        stored: how many of its rows have their vector in the store.
        rows: how many rows it has.
    """

    stored: int
    rows: int

    def __str__(self) -> str:
        part = self.stored / self.rows if self.rows else 1.0
        return f"{self.stored:,} of {self.rows:,} rows ({part:.1%})"


def filter_missing(
    dataset: Any,
    url: str,
    *,
    path: str | os.PathLike[str],
    model: str,
    column: str = "text",
    identity: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    role: str | None = None,
    store_dtype: str | None = None,
    **options: Any,
) -> Any:
    """Return the rows of a data set that are not embedded yet. No model is needed, and no vector is read.

    The keys of the store are read once on each machine, into mapped files that all its processes share. What
    others push later is not seen: the workers look for it.

    Args:
        dataset: a ``ray.data.Dataset``.
        url: the address of the store: see :meth:`dejavec.EmbeddingCache.push`.
        path: a directory on the disk of each machine.
        model: as in :class:`dejavec.cluster.CachedEmbedder`, like the next arguments: they are the identity.
        column: the column of texts.
        identity: see ``model``.
        prompt: see ``model``.
        role: see ``model``.
        store_dtype: see ``model``.
        **options: those of ``map_batches`` of Ray Data, such as ``batch_size`` or ``num_cpus``.

    Raises:
        IdentityMismatchError: the store has rows of several forms for this identity; when the rows are read.
        StorageError: the store could not be read; likewise.
    """
    described = {"identity": identity, "prompt": prompt, "role": role, "store_dtype": store_dtype}
    has = _asking(url, column, {"path": path, "model": model, **described})
    return dataset.map_batches(
        lambda table: table.filter(~has(table)), batch_format="pyarrow", zero_copy_batch=True, **options
    )


def progress(
    dataset: Any,
    url: str,
    *,
    path: str | os.PathLike[str],
    model: str,
    column: str = "text",
    identity: Mapping[str, Any] | None = None,
    prompt: str | None = None,
    role: str | None = None,
    store_dtype: str | None = None,
    **options: Any,
) -> Progress:
    """Return how many rows of a data set are embedded. It reads the whole column, and no vector.

    Args:
        dataset: a ``ray.data.Dataset``.
        url: as in :func:`filter_missing`, like all other arguments.
        path: likewise.
        model: likewise.
        column: likewise.
        identity: likewise.
        prompt: likewise.
        role: likewise.
        store_dtype: likewise.
        **options: likewise.
    """
    described = {"identity": identity, "prompt": prompt, "role": role, "store_dtype": store_dtype}
    has = _asking(url, column, {"path": path, "model": model, **described})

    def counted(table: Any) -> dict[str, Any]:
        flags = has(table)
        return {"stored": np.array([flags.sum()]), "rows": np.array([len(flags)])}

    counts = dataset.map_batches(counted, batch_format="pyarrow", zero_copy_batch=True, **options)
    sums = counts.sum(["stored", "rows"]) or {}
    return Progress(int(sums.get("sum(stored)") or 0), int(sums.get("sum(rows)") or 0))


def _asking(url: str, column: str, settings: dict[str, Any]) -> Callable[[Any], NDArray[np.bool_]]:
    """Return a function that says which rows of a table are in the store; it can be sent to other machines.

    Args:
        url: the address.
        column: the column of texts.
        settings: further arguments of :class:`StoredKeys`.

    Raises:
        ValueError: the address or the identity is none.
        TypeError: likewise.
    """
    split(url)
    describe(**{name: value for name, value in settings.items() if name != "path"})
    settings = {**settings, "path": str(local_directory(settings["path"]))}
    as_of = uuid.uuid4().hex

    def has(table: Any) -> NDArray[np.bool_]:
        return _keys_of_process(url, settings, as_of).has(table[column])

    return has


_open: dict[str, StoredKeys] = {}
_read: dict[str, str] = {}
_opening = threading.Lock()


def _keys_of_process(url: str, settings: dict[str, Any], as_of: str) -> StoredKeys:
    """Return the keys of a store, which this process has read once for each call by a user.

    Args:
        url: the address.
        settings: further arguments of :class:`StoredKeys`.
        as_of: names the call.
    """
    name = canonical_json([url, settings])
    with _opening:
        keys = _open.get(name)
        if keys is None:
            keys = _open[name] = StoredKeys(url, **settings)
        elif _read.get(name) != as_of:
            keys.refresh()
        _read[name] = as_of
        return keys
