"""FastEmbed's models with cached vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.adapters.forwarding import Forwarding
from dejavec.adapters.inner_config import config_of
from dejavec.adapters.sparse_rows import UnstorableError, from_matrix, to_matrix
from dejavec.cache import CacheSettings
from dejavec.support.canonical import canonical_json

_BATCH = 256
"""FastEmbed's batch size."""

_IN_PARALLEL = 10_000
"""Texts of one call if FastEmbed starts processes for each."""

_SPEED = ("batch_size", "parallel")
"""Arguments that change no vector."""


class _CachedModel(Forwarding):
    """What the models have in common: three methods that yield vectors, and take texts as they come.

    Args:
        original: the model.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """

    def __init__(
        self, original: Any, path: str | os.PathLike[str], /, **settings: Unpack[CacheSettings]
    ) -> None:
        # A group of texts is one call, so that the batches are those of the original.
        given: CacheSettings = {"chunk_seconds": None, **settings}
        super().__init__(CachedModel(original, Caches(path, given), _config))

    def embed(
        self,
        documents: str | Iterable[str],
        batch_size: int = 256,
        parallel: int | None = None,
        **keywords: Any,
    ) -> Iterator[Any]:
        """Yield the vector of each text. Texts are read, and embedded, ``batch_size`` at a time."""
        keywords = {"batch_size": batch_size, "parallel": parallel, **keywords}
        yield from self._yielded("text", documents, self._cached.model.embed, keywords)

    def passage_embed(self, texts: Iterable[str], **keywords: Any) -> Iterator[Any]:
        """Yield the vector of each passage."""
        yield from self._yielded("passage", texts, self._cached.model.passage_embed, keywords)

    def query_embed(self, query: str | Iterable[str], **keywords: Any) -> Iterator[Any]:
        """Yield the vector of each query."""
        yield from self._yielded("query", query, self._cached.model.query_embed, keywords)

    def _yielded(
        self, role: str, texts: str | Iterable[str], call: Callable[..., Any], keywords: dict[str, Any]
    ) -> Iterator[Any]:
        parameters = {name: value for name, value in keywords.items() if name not in _SPEED}
        try:
            canonical_json(parameters)
        except (TypeError, ValueError):
            yield from call(texts, **keywords)
            return
        identity = {"parameters": parameters} if parameters else {}
        in_parallel = keywords.get("parallel") is not None
        size = max(keywords.get("batch_size") or _BATCH, _IN_PARALLEL if in_parallel else 1)
        coming = iter([texts] if isinstance(texts, str) else texts)

        def embed(some: list[str]) -> Any:
            return self._form(list(call(some, **keywords)))

        while group := list(islice(coming, size)):
            try:
                found = self._cached.encode(role, group, embed, further=identity)
            except UnstorableError:
                yield from call(group, **keywords)
            else:
                yield from self._items(found)

    def _form(self, vectors: list[Any]) -> Any:
        """Return the vectors of the original in the form that is stored."""
        return vectors

    def _items(self, found: Any) -> Iterable[Any]:
        """Return the vectors of the cache in the original's form."""
        return found  # type: ignore[no-any-return]


class CachedTextEmbedding(_CachedModel):
    """A ``TextEmbedding`` of FastEmbed with cached vectors: use it instead of the original.

    ``embed``, ``passage_embed`` and ``query_embed`` are cached apart, in ``<path>/text``, ``<path>/passage``
    and ``<path>/query``. They yield vectors as the original does, and read texts as they are needed, a batch
    at a time. Name and settings of the model are the identity of its vectors. It is asked to embed a few
    cached texts again, once in each process, unless ``model=`` names it or ``confirm=0`` is given. Other
    attributes are those of the original.

    Args:
        original: the model.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """


class CachedLateInteractionTextEmbedding(_CachedModel):
    """A ``LateInteractionTextEmbedding`` with cached vectors (tokens, dim): see :class:`CachedTextEmbedding`.

    Args:
        original: the model.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """


class CachedSparseTextEmbedding(_CachedModel):
    """A ``SparseTextEmbedding`` with cached vectors: see :class:`CachedTextEmbedding`.

    Indices that are not int64, or beyond 2³¹ - 2, are not cached.

    Args:
        original: the model.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """

    def _form(self, vectors: list[Any]) -> Any:
        if any(np.asarray(vector.indices).dtype != np.int64 for vector in vectors):
            raise UnstorableError("indices")
        return to_matrix([(vector.indices, vector.values) for vector in vectors])

    def _items(self, found: Any) -> Iterable[Any]:
        from fastembed import SparseEmbedding

        pairs: Iterator[tuple[NDArray[np.int64], NDArray[Any]]] = from_matrix(found)
        return (SparseEmbedding(values=values, indices=columns) for columns, values in pairs)


def _config(model: Any) -> dict[str, Any]:
    """Return the settings of a model, and those of the object that it chose by its name."""
    inner = getattr(model, "model", None)
    return {**config_of(model), **({} if inner is None else {"inner": config_of(inner)})}
