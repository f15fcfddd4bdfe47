"""What is shared at an address, without reading keys or vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dejavec.remote.defects import Skipped
from dejavec.remote.listing import listing_of, namespaces_of
from dejavec.remote.namespace import Namespace
from dejavec.remote.opening import objects_at


@dataclass(frozen=True)
class Shared:
    """The vectors of one identity and form.

    Attributes:
        namespace: the directory below the address.
        identity: which model and settings made them.
        rows: rows of all segments: of keys in several segments, each.
        deleted: how many of them were deleted.
        segments: how many segments there are.
        dim: numbers in a vector.
        dtype: the dtype of the vectors that the models returned.
        container: the format of the rows: npy, ragged or sparse.
        bytes: the size of all objects.
        written: when the last segment was written: ISO 8601, UTC; empty without any.
        surroundings: libraries with their versions, and devices, of models that made or confirmed vectors.
    """

    namespace: str
    identity: Mapping[str, Any]
    rows: int
    deleted: int
    segments: int
    dim: int
    dtype: str
    container: str
    bytes: int
    written: str
    surroundings: list[str]


def overview(url: str) -> tuple[list[Shared], list[Skipped]]:
    """Return what is shared at an address, and what is skipped there.

    Raises:
        CacheNotFoundError: the directory of ``file://`` is missing.
        StorageError: the store could not be read.
    """
    objects = objects_at(url)
    found, skipped = namespaces_of(objects)
    shared = []
    for namespace in found:
        listing = listing_of(objects, namespace.name)
        skipped += listing.skipped
        parts = [part for files in listing.segments.values() for part in files.values()]
        written = max((part.modified for part in parts), default=None)
        shared.append(
            Shared(
                namespace.name,
                namespace.identity,
                sum(name.rows for name in listing.segments),
                sum(name.pairs for name in listing.tombstones),
                len(listing.segments),
                namespace.form.dim,
                namespace.form.returned,
                "npy" if namespace.form.rows == "dense" else namespace.form.rows,
                sum(part.size for part in parts),
                "" if written is None else written.isoformat(timespec="seconds"),
                _surroundings(namespace),
            )
        )
    return shared, skipped


def _surroundings(namespace: Namespace) -> list[str]:
    found = []
    for description in namespace.proven:
        entries = description.to_json()
        versions = [f"{name} {version}" for name, version in sorted(entries["versions"].items())]
        found.append(", ".join([*versions, *([entries["device"]] if entries["device"] else [])]))
    return list(dict.fromkeys(found))
