"""Whatever an address names, as objects to read."""

from __future__ import annotations

from dejavec.remote.hub import DataSetObjects, is_data_set
from dejavec.remote.objects import Objects
from dejavec.remote.urls import place


def objects_at(url: str) -> Objects:
    """Return the objects at an address, to read them.

    Raises:
        ValueError: it is no address.
        CacheNotFoundError: the directory of ``file://`` is missing.
        StorageError: there is no such repository.
        MissingPackageError: a package is not installed.
    """
    return DataSetObjects(url) if is_data_set(url) else Objects(place(url))
