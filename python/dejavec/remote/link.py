"""A local cache and its namespace in a store: the index between them, and what each was told of the other."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys, different, words
from dejavec.remote.checksums import row_checksums
from dejavec.remote.index import RemoteIndex
from dejavec.remote.namespace import Namespace
from dejavec.remote.objects import Objects
from dejavec.storage import deletions
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.closing import Closing
from dejavec.support.json_file import read_record, update_record


class Link(Closing):
    """A cache and its namespace at an address.

    Args:
        cache: the cache, which has a form.
        objects: the objects of the address.
        namespace: the namespace of the cache.
        kept: whether the index stays in the cache's directory. Otherwise nothing is written there.

    Attributes:
        cache: the cache.
        objects: the objects of the address.
        namespace: the namespace.
        index: its index.
    """

    def __init__(self, cache: KeyedCache, objects: Objects, namespace: Namespace, *, kept: bool) -> None:
        self.cache = cache
        self.objects = objects
        self.namespace = namespace
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        url = hashlib.sha256(objects.url.rstrip("/").encode()).hexdigest()
        if kept and os.access(cache.path, os.W_OK):
            parent = deletions.share(cache.path)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="dejavec-")
            parent = Path(self._temporary.name)
        directory = parent / f"{url[:16]}-{namespace.name[:16]}"
        self._file = directory / "told.json"
        self.index = RemoteIndex(objects, namespace, directory)
        if self._temporary is None and read_record(self._file) is None:
            # What was deleted before the cache and the store met does not concern the store.
            self._record("deletions", deletions.noted(cache.path)[1])

    def close(self) -> None:
        """Close the index."""
        self.index.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def deleted(self) -> tuple[Keys, int]:
        """Return the keys that were deleted here and not there (n, 32), which differ, and a position."""
        told = (read_record(self._file) or {}).get("deletions")
        if not isinstance(told, int):
            return np.zeros((0, 32), np.uint8), 0
        keys, position = deletions.noted(self.cache.path, told)
        keys = keys[keys.any(axis=1)]
        return different(keys), position

    def told(self, position: int) -> None:
        """Note that all deletions before a position are known there."""
        self._record("deletions", position)

    def pushed(self, files: tuple[str | None, int]) -> int:
        """Return before which row number all rows are there; 0 if the rows have other numbers now.

        Args:
            files: the uuid and the generation of the cache, in which row numbers mean something.
        """
        found = (read_record(self._file) or {}).get("pushed")
        return int(found[2]) if found and tuple(found[:2]) == files else 0

    def note_pushed(self, files: tuple[str | None, int], count: int) -> None:
        """Note that all rows before a row number are there."""
        self._record("pushed", [*files, count])

    def without_deleted(self, keys: Keys) -> Keys:
        """Return keys without those that were deleted here, and not yet there."""
        deleted, _ = self.deleted()
        if not len(deleted):
            return keys
        there = np.isin(words(keys), words(deleted))
        return np.ascontiguousarray(keys[~there])

    def apply_deletions(self, *, dry_run: bool = False) -> int:
        """Delete rows here that others deleted there, and return how many.

        Each tombstone is applied once. A row is deleted if it has the bytes of the deleted one, unless
        another segment still has it.
        """
        record = read_record(self._file) or {}
        applied = set(record.get("applied", ()))
        new = [name for name in self.index.listing.tombstones if name.file not in applied]
        if not new:
            return 0
        pairs = self.index.pairs()
        deleted = self._delete(pairs.keys, pairs.checksums, dry_run=dry_run)
        if not dry_run and self._temporary is None:
            self._record("applied", sorted(applied | {name.file for name in new}))
        return deleted

    def _delete(self, keys: Keys, checksums: NDArray[np.uint64], *, dry_run: bool) -> int:
        rows = self.cache.lookup(keys)
        here = np.flatnonzero(rows >= 0)
        if not len(here):
            return 0
        keys = np.ascontiguousarray(keys[here])
        vectors, damaged = self.cache.gather(keys, rows[here])
        dtype = np.dtype(self.namespace.form.dtype)
        gone = row_checksums(vectors.astype(dtype, copy=False)) == checksums[here]
        gone[damaged] = False
        positions, places = self.index.find(keys)
        gone[positions[places.checksums == checksums[here][positions]]] = False
        chosen = np.ascontiguousarray(keys[gone])
        if dry_run:
            return len(different(chosen))
        return self.cache.delete(chosen, tell=False) if len(chosen) else 0

    def _record(self, entry: str, value: int | Sequence[object]) -> None:
        update_record(self._file, entry, value)  # type: ignore[arg-type]
