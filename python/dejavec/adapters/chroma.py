"""Chroma's embedding functions with cached vectors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Unpack

from chromadb.api.types import EmbeddingFunction, SparseEmbeddingFunction, SparseVector

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.adapters.forwarding import Forwarding
from dejavec.adapters.inner_config import config_of, json_form
from dejavec.adapters.sparse_rows import UnstorableError, from_matrix, to_matrix
from dejavec.cache import CacheSettings

_OF_CLASS = ("name", "build_from_config", "validate_config")
"""What Chroma asks of the class of a function."""


class _AsOriginal(Forwarding):
    """Answers Chroma's questions as the original does, so that Chroma stores the original's name.

    Chroma asks some of them of the class, and registers it. So each object has a class of its own, which
    answers as the original does; functions that Chroma builds with it are originals, without a cache.
    """

    def __new__(cls, embedding_function: Any, *_: Any, **__: Any) -> Any:
        """Make an object of a new subclass."""
        return object.__new__(_answering(cls, embedding_function))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self).__mro__[1], self._cached)

    def get_config(self) -> Any:
        """Return the configuration of the original."""
        return self._cached.model.get_config()

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> Any:
        """Have the original check a change of its configuration."""
        return self._cached.model.validate_config_update(old_config, new_config)


def _answering(base: type[Any], function: Any) -> type[Any]:
    answers = {name: staticmethod(getattr(function, name)) for name in _OF_CLASS if hasattr(function, name)}
    return type(base.__name__, (base,), {"__module__": base.__module__, "__doc__": base.__doc__, **answers})


def _restored(base: type[Any], cached: CachedModel) -> Any:
    made = object.__new__(_answering(base, cached.model))
    Forwarding.__init__(made, cached)
    return made


class CachedEmbeddingFunction(_AsOriginal, EmbeddingFunction[Any]):  # type: ignore[misc]
    """An embedding function of Chroma with cached vectors: pass it to a collection instead of the original.

    It answers with the name and configuration of the original. So it opens collections that were made with
    the original, and the original opens those that were made with it. Documents and queries are cached apart,
    in ``<path>/document`` and ``<path>/query``; images and other input go to the original. Name and
    configuration are the identity of the vectors. The original is asked to embed a few cached texts again,
    once in each process, unless ``model=`` names it or ``confirm=0`` is given.

    Args:
        embedding_function: the original.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from chromadb import EmbeddingFunction
        >>> from dejavec.chroma import CachedEmbeddingFunction
        >>> class Lengths(EmbeddingFunction):
        ...     def __init__(self): ...
        ...     def __call__(self, input): return [np.array([len(text)], np.float32) for text in input]
        ...     def name(self): return "lengths"
        ...     def get_config(self): return {}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     cached = CachedEmbeddingFunction(Lengths(), directory)
        ...     cached.name(), cached(["once", "again"])
        ...     cached.close()
        ('lengths', [array([4.], dtype=float32), array([5.], dtype=float32)])
    """

    def __init__(
        self, embedding_function: Any, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        Forwarding.__init__(self, CachedModel(embedding_function, Caches(path, settings), _config))

    def __call__(self, input: Any) -> Any:
        """Return the vectors of documents: n arrays (dim,)."""
        return self._dense("document", input, self._cached.model)

    def embed_query(self, input: Any) -> Any:
        """Return the vectors of queries: n arrays (dim,)."""
        return self._dense("query", input, self._cached.model.embed_query)

    def default_space(self) -> Any:
        """Return the distance of the original."""
        return self._cached.model.default_space()

    def supported_spaces(self) -> Any:
        """Return the distances of the original."""
        return self._cached.model.supported_spaces()

    def is_legacy(self) -> Any:
        """Return whether the original is a function without name and configuration."""
        return self._cached.model.is_legacy()

    def _dense(self, role: str, texts: Any, call: Callable[[Any], Any]) -> Any:
        return list(self._cached.encode(role, texts, call)) if _are_texts(texts) else call(texts)


class CachedSparseEmbeddingFunction(_AsOriginal, SparseEmbeddingFunction[Any]):  # type: ignore[misc]
    """A sparse embedding function of Chroma with cached vectors: see :class:`CachedEmbeddingFunction`.

    Vectors with labels, or with columns beyond 2³¹ - 2, are not cached.

    Args:
        embedding_function: the original.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """

    def __init__(
        self, embedding_function: Any, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        Forwarding.__init__(self, CachedModel(embedding_function, Caches(path, settings), _config))

    def __call__(self, input: Any) -> Any:
        """Return the vectors of documents: n ``SparseVector``."""
        return self._sparse("document", input, self._cached.model)

    def embed_query(self, input: Any) -> Any:
        """Return the vectors of queries: n ``SparseVector``."""
        return self._sparse("query", input, self._cached.model.embed_query)

    def _sparse(self, role: str, texts: Any, call: Callable[[Any], Any]) -> Any:
        if not _are_texts(texts):
            return call(texts)
        try:
            found = self._cached.encode(role, texts, lambda some: _matrix(call(some)))
        except UnstorableError:
            return call(texts)
        return [SparseVector(columns.tolist(), values.tolist()) for columns, values in from_matrix(found)]


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)


def _matrix(vectors: list[Any]) -> Any:
    if any(vector.labels is not None for vector in vectors):
        raise UnstorableError("labels")
    return to_matrix([(vector.indices, [float(number) for number in vector.values]) for vector in vectors])


def _config(function: Any) -> dict[str, Any]:
    """Return name and configuration of a function; its attributes if it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The base class says that they are missing.
        try:
            name, settings = function.name(), function.get_config()
        except (AttributeError, NotImplementedError):
            return config_of(function)
    if not isinstance(name, str) or not isinstance(settings, dict):
        return config_of(function)
    return {"name": name, "settings": json_form(settings)}
