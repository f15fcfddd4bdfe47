"""Share a cache through an object store: ``push``, ``pull`` and ``tidy``."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import timedelta

from dejavec.cache import EmbeddingCache
from dejavec.remote.compaction import GRACE, Compacted, compact_all
from dejavec.remote.pull import PullOutcome, Vectors, open_for
from dejavec.remote.pull import pull as pull_into
from dejavec.remote.push import Pushed
from dejavec.remote.push import push as push_from
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.paths import local_directory
from dejavec.support.progress import progress as show_progress


def push(
    cache: EmbeddingCache | str | os.PathLike[str],
    url: str,
    *,
    texts: bool = False,
    progress: bool | None = None,
) -> Pushed:
    """Do what :meth:`dejavec.EmbeddingCache.push` does, for an open cache or the directory of one."""
    if isinstance(cache, EmbeddingCache):
        return cache.push(url, texts=texts, progress=progress)
    with KeyedCache(cache, mode="r") as opened, ExitStack() as stack:
        return push_from(
            opened,
            url,
            texts=texts,
            total=lambda rows: stack.enter_context(show_progress(progress, rows, "row")),
        )


def pull(
    url: str,
    cache: EmbeddingCache | str | os.PathLike[str],
    *,
    vectors: Vectors = "all",
    texts: bool = False,
    progress: bool | None = None,
) -> PullOutcome:
    """Do what :meth:`dejavec.EmbeddingCache.pull` does, for an open cache or a directory.

    A directory without a cache gets one, with the identity of the shared vectors.

    Raises:
        CacheNotFoundError: vectors of several models are shared, and there is no cache.
    """
    if isinstance(cache, EmbeddingCache):
        return cache.pull(url, vectors=vectors, texts=texts, progress=progress)
    with open_for(local_directory(cache), url) as opened, ExitStack() as stack:
        return pull_into(
            url,
            opened,
            vectors=vectors,
            texts=texts,
            total=lambda rows: stack.enter_context(show_progress(progress, rows, "row")),
        )


def tidy(url: str, *, grace: timedelta = GRACE) -> Compacted:
    """Merge small segments at an address into large ones, and remove what is not needed any more.

    Small segments are those of many small pushes. They are removed by a later call, when the large ones have
    been there for the grace period, and so are half-uploaded files of that age. Readers and writers go on
    meanwhile. Memory grows with the keys.

    Args:
        url: the address: see :meth:`dejavec.EmbeddingCache.push`.
        grace: how long a reader may take to read what it has listed.

    Raises:
        StorageError: the store could not be read or written; what was done is whole.
    """
    return compact_all(url, grace=grace)
