"""Share a cache through an object store: ``push`` and ``pull``, of an open cache or of a directory."""

from __future__ import annotations

import os
from contextlib import ExitStack

from dejavec.cache import EmbeddingCache
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
