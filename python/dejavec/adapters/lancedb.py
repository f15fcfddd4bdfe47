"""LanceDB's text embedding functions with cached vectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import numpy as np
from lancedb.embeddings import get_registry
from lancedb.embeddings.base import TextEmbeddingFunction
from pydantic import PrivateAttr

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.adapters.sparse_rows import UnstorableError
from dejavec.cache import CacheSettings
from dejavec.support.paths import local_directory


def cache_embeddings(
    alias: str, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
) -> type[Any]:
    """Have a registered text embedding function of LanceDB answer from a cache, in this process.

    LanceDB makes the functions of a table by their names in its registry. So this registers, under the same
    name, a class that inherits from the original. Tables hold what the original would write, and open without
    dejavec. Source texts and queries are cached apart, in ``<path>/document`` and ``<path>/query``. The class
    and settings of the original are the identity of the vectors. It is asked to embed a few cached texts
    again, once in each process, unless ``model=`` names it or ``confirm=0`` is given. Input that is no text,
    and calls with further arguments, go to the original.

    Args:
        alias: the registered name, such as ``"openai"``.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Returns:
        The class. ``create(...)`` makes a function, as that of the original does.

    Raises:
        KeyError: no function has this name.
        TypeError: the function does not embed texts.
    """
    registry = get_registry()
    found = registry.get(alias)
    original: Any = getattr(found, "uncached", found)
    if not issubclass(original, TextEmbeddingFunction):
        raise TypeError(f"expected a function that embeds texts, found {alias!r}, which does not")
    directory = local_directory(path)
    # LanceDB makes a new function for each use of a table.
    caches = Caches(directory, settings)
    # By default, LanceDB embeds a query as if it were a source, through the method that is replaced here.
    has_queries = original.compute_query_embeddings is not TextEmbeddingFunction.compute_query_embeddings
    embed_query = original.compute_query_embeddings if has_queries else original.compute_source_embeddings

    class Cached(original):  # type: ignore[misc]
        uncached: ClassVar[type] = original
        _cached: Any = PrivateAttr(default=None)

        def compute_source_embeddings(self, texts: Any, *args: Any, **keywords: Any) -> Any:
            plain = self.sanitize_input(texts)
            plain = plain.tolist() if isinstance(plain, np.ndarray) else plain
            if args or keywords or not _are_texts(plain):
                return original.compute_source_embeddings(self, texts, *args, **keywords)
            return self._embed("document", plain, lambda some: original.compute_source_embeddings(self, some))

        def compute_query_embeddings(self, query: Any, *args: Any, **keywords: Any) -> Any:
            if args or keywords or not isinstance(query, str):
                return embed_query(self, query, *args, **keywords)
            return self._embed("query", [query], lambda some: [embed_query(self, one)[0] for one in some])

        def _embed(self, role: str, texts: list[str], call: Callable[[list[str]], Any]) -> Any:
            if self._cached is None:
                self._cached = CachedModel(self, caches)
            try:
                return list(self._cached.encode(role, texts, lambda some: _whole(call(some))))
            except UnstorableError:
                return call(texts)

        def __reduce__(self) -> Any:
            return _created, (alias, str(directory), settings, self.safe_model_dump())

    Cached.__module__, Cached.__qualname__ = original.__module__, original.__qualname__
    Cached.__name__ = f"Cached{original.__name__}"
    made: type[Any] = registry.register(alias)(Cached)
    return made


def _created(alias: str, path: str, settings: CacheSettings, arguments: dict[str, Any]) -> Any:
    return cache_embeddings(alias, path, **settings).create(**arguments)


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)


def _whole(vectors: list[Any]) -> list[Any]:
    """Return vectors, if there is one for each text.

    Raises:
        UnstorableError: a text has none.
    """
    if any(vector is None for vector in vectors):
        raise UnstorableError("no vector")
    return vectors
