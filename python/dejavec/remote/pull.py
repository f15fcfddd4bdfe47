"""Pull: the rows of a namespace into a cache; or their keys alone, and rows when they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dejavec.errors import CacheNotFoundError, IdentityMismatchError
from dejavec.fill.settings import check_choice
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.fetch import take
from dejavec.remote.link import Link
from dejavec.remote.listing import namespaces_of, read_namespace
from dejavec.remote.namespace import Namespace, namespace_of
from dejavec.remote.objects import Objects
from dejavec.remote.opening import objects_at
from dejavec.storage.identity import BARE, model_text, same
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.output import Container
from dejavec.vectors.ragged import Ragged, Rows

Vectors = Literal["all", "on-demand"]
"""Whether a pull takes all vectors, or their keys alone."""

_CONTAINERS: dict[str, tuple[Container, ...]] = {
    "dense": ("npy", "faiss-l2", "faiss-ip"),
    "ragged": ("ragged",),
    "sparse": ("sparse",),
}


@dataclass
class PullOutcome:
    """What a pull did; with ``dry_run``, would do.

    Attributes:
        namespace: the directory below the address.
        rows: how many rows were appended.
        bytes: their bytes.
        there: how many rows of the store were here already.
        keys: how many keys the store has.
        deleted: how many rows were deleted here, as others deleted them.
        requests: how many reads were asked for.
        read_bytes: how many bytes they returned.
        skipped: objects in the store that were left out.
    """

    namespace: str
    rows: int = 0
    bytes: int = 0
    there: int = 0
    keys: int = 0
    deleted: int = 0
    requests: int = 0
    read_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def pull(
    url: str,
    cache: KeyedCache,
    *,
    vectors: Vectors = "all",
    texts: bool = False,
    dry_run: bool = False,
    total: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
) -> PullOutcome:
    """Do what ``EmbeddingCache.pull`` says.

    Args:
        url: the address.
        cache: the cache, whose identity decides what is taken.
        vectors: ``"all"`` takes all rows, ``"on-demand"`` their keys alone.
        texts: whether shared texts are kept beside the rows.
        dry_run: whether no row is taken.
        total: is called with the number of rows to take; its result is called with numbers of taken rows.
    """
    check_choice("vectors", vectors, Vectors)
    objects = objects_at(url)
    namespace = namespace_for(cache, objects)
    if namespace is None:
        raise _nothing(cache, objects)
    if not dry_run:
        create(cache, namespace)
    with Link(cache, objects, namespace, kept=not dry_run) as link:
        link.index.sync()
        done = pull_over(link, vectors=vectors, texts=texts, dry_run=dry_run, total=total)
    done.requests, done.read_bytes = objects.requests, objects.read_bytes
    return done


def pull_over(
    link: Link,
    *,
    vectors: Vectors,
    texts: bool,
    dry_run: bool,
    total: Callable[[int], Callable[[int], object]],
) -> PullOutcome:
    """Pull over a link whose index is in sync."""
    done = PullOutcome(link.namespace.name, keys=len(link.index))
    done.deleted = link.apply_deletions(dry_run=dry_run)
    if vectors == "all":
        blocks = []
        for keys in link.index.all_keys():
            missing = np.ascontiguousarray(keys[link.cache.lookup(keys) < 0])
            done.there += len(keys) - len(missing)
            blocks.append(link.without_deleted(missing))
        wanted = np.concatenate([np.zeros((0, 32), np.uint8), *blocks])
        advance = total(len(wanted))
        if dry_run:
            done.rows, done.bytes = len(wanted), int(len(wanted) * _mean_bytes(link))
        else:
            taken = take(link.index, link.cache, wanted, texts=texts, advance=advance)
            done.rows, done.bytes, done.skipped = taken.rows, taken.bytes, taken.skipped
    done.skipped = [*link.index.skipped, *done.skipped]
    return done


def _mean_bytes(link: Link) -> float:
    """Return how many bytes a row of the store has, on average."""
    segments = link.index.listing.segments
    sizes = sum(
        parts[part].size for parts in segments.values() for part in link.namespace.form.parts if part in parts
    )
    return sizes / max(sum(name.rows for name in segments), 1)


def namespace_for(cache: KeyedCache, objects: Objects) -> Namespace | None:
    """Return the namespace of a cache; None if there is none.

    A cache without vectors has no form yet. It gets the one namespace of its identity.

    Raises:
        StorageError: the store could not be read.
        IdentityMismatchError: the identity has rows of several forms.
    """
    if cache.output is not None:
        name = namespace_of(cache).name
        try:
            return read_namespace(objects, name)
        except DefectError:
            # Without it, the cache knows what the rows are.
            return namespace_of(cache) if any(True for _ in objects.below(name)) else None
    fitting = namespaces_with(objects, cache.identity or BARE)
    return one_of([one for one in fitting if cache.accepts(_CONTAINERS[one.form.rows])], objects)


def namespaces_with(objects: Objects, identity: Mapping[str, Any]) -> list[Namespace]:
    """Return the namespaces of an identity, one for each form of its rows."""
    return [one for one in namespaces_of(objects)[0] if same(one.identity, identity)]


def one_of(namespaces: Sequence[Namespace], objects: Objects) -> Namespace | None:
    """Return the only namespace; None if there is none.

    Raises:
        IdentityMismatchError: there are several.
    """
    if len(namespaces) > 1:
        forms = " and ".join(f"{one.form.rows} {one.form.dtype} of {one.form.dim}" for one in namespaces)
        raise IdentityMismatchError(
            objects.url,
            expected="rows of one form for this identity",
            found=forms,
            remedy="store one vector first, which chooses",
        )
    return namespaces[0] if namespaces else None


def create(cache: KeyedCache, namespace: Namespace) -> None:
    """Create a cache for the rows of a namespace, if there is none."""
    if cache.output is not None:
        return
    form = namespace.form
    none: Rows = np.empty((0, form.dim), form.dtype)
    if form.rows == "ragged":
        none = Ragged(np.empty((0, form.dim), form.dtype), np.zeros(1, np.int64))
    elif form.rows == "sparse":
        none = Ragged(np.empty(0, form.dtype), np.zeros(1, np.int64), np.empty(0, np.int32), form.dim)
    cache.append(np.empty((0, 32), np.uint8), none, namespace.output)


def open_for(
    path: Path, url: str, *, namespace: str | None = None, allow_network: bool = False
) -> KeyedCache:
    """Open a cache that gets the rows at an address; create it with their identity if there is none.

    Args:
        path: the directory.
        url: the address.
        namespace: how the directory below the address begins; None: the only one.
        allow_network: whether to write on a network file system.

    Raises:
        CacheNotFoundError: there are no rows, or those of several models.
    """
    try:
        with KeyedCache(path, mode="r") as cache:
            identity, container = cache.identity, cache.container
    except CacheNotFoundError:
        found, skipped = namespaces_of(objects_at(url))
        chosen = [one for one in found if one.name.startswith(namespace or "")]
        if len(chosen) != 1:
            listed = ", ".join(f"{one.name[:12]} ({model_text(one.identity)})" for one in chosen)
            raise CacheNotFoundError(
                url,
                expected="shared vectors of one model",
                found=listed or (f"{len(skipped)} objects that are none" if skipped else "none"),
                remedy="choose one by its first digits" if chosen else "check the address",
            ) from None
        return KeyedCache(
            path,
            identity=chosen[0].identity,
            containers=(_CONTAINERS[chosen[0].form.rows][0],),
            allow_network=allow_network,
        )
    return KeyedCache(path, identity=identity or None, containers=(container,), allow_network=allow_network)


def _nothing(cache: KeyedCache, objects: Objects) -> CacheNotFoundError:
    found, _ = namespaces_of(objects)
    others = sorted({model_text(one.identity) or "no named model" for one in found})
    return CacheNotFoundError(
        objects.url,
        expected=f"vectors of {cache.model or 'this identity'} in this form",
        found=f"those of {', '.join(others)}" if others else "none",
        remedy="check the address",
        path=cache.path,
    )
