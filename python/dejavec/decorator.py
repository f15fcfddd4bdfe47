"""The decorator that gives a function of texts a cache."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Protocol, cast

from dejavec.cache import EmbeddingCache


class Cached(Protocol):
    """A function of texts with a cache: ``(texts) -> (n, dim) array``."""

    cache: EmbeddingCache

    def __call__(self, texts: object) -> Any:
        """Return the vectors of texts: see :meth:`EmbeddingCache.encode`."""


def cached(path: str | os.PathLike[str], **settings: Any) -> Callable[[Callable[[list[str]], Any]], Cached]:
    """Cache what the decorated function returns: for a list of texts, an array of their vectors (n, dim).

    Args:
        path: the directory.
        **settings: see :class:`EmbeddingCache`; ``model="name@revision"`` above all.

    Returns:
        A decorator. The decorated function has the cache as its attribute ``cache``.

    Example:
        >>> import tempfile, numpy as np
        >>> from dejavec import cached
        >>> directory = tempfile.TemporaryDirectory()
        >>> @cached(directory.name, model="toy@1")
        ... def embed(texts: list[str]) -> np.ndarray:
        ...     print("encoding", texts)
        ...     return np.array([[len(text)] for text in texts], np.float32)
        >>> embed(["a", "bcd"]).shape
        encoding ['a', 'bcd']
        (2, 1)
        >>> embed(["bcd", "a"]).ravel()
        array([3., 1.], dtype=float32)
        >>> embed.cache.close()
        >>> directory.cleanup()
    """

    def decorate(function: Callable[[list[str]], Any]) -> Cached:
        cache = EmbeddingCache(path, **settings)

        @functools.wraps(function)
        def wrapper(texts: object) -> Any:
            return cache.encode(texts, function)

        decorated = cast("Cached", wrapper)
        decorated.cache = cache
        return decorated

    return decorate
