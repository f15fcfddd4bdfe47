"""LangChain's embeddings with cached vectors."""

from __future__ import annotations

import os
from typing import Unpack

from langchain_core.embeddings import Embeddings

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.adapters.forwarding import Forwarding
from dejavec.cache import CacheSettings


class CachedEmbeddings(Forwarding, Embeddings):  # type: ignore[misc]
    """Embeddings of LangChain with cached vectors: use them wherever the original is used.

    Documents and queries are cached apart, in ``<path>/document`` and ``<path>/query``. Lists of Python
    floats are stored as float64, so they come back equal to the bit. The class and the settings of the
    original are the identity of its vectors. It is asked to embed a few cached texts again, once in each
    process, unless ``model=`` names it or ``confirm=0`` is given. Other attributes are those of the original.

    Args:
        embeddings: the original.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Example:
        >>> import tempfile
        >>> from dejavec.langchain import CachedEmbeddings
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> directory = tempfile.TemporaryDirectory()
        >>> original = DeterministicFakeEmbedding(size=3)
        >>> cached = CachedEmbeddings(original, directory.name)
        >>> cached.embed_documents(["once", "again"]) == original.embed_documents(["once", "again"])
        True
        >>> cached.close()
        >>> directory.cleanup()
    """

    def __init__(
        self, embeddings: Embeddings, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        super().__init__(CachedModel(embeddings, Caches(path, settings, "list")))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of n texts as n lists; the original embeds those that are not cached."""
        inner = self._cached.model
        if not texts:
            return list(inner.embed_documents(texts))
        return list(self._cached.encode("document", texts, inner.embed_documents))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text as a list; the original embeds it if it is not cached."""
        inner = self._cached.model
        (vector,) = self._cached.encode("query", [text], lambda some: list(map(inner.embed_query, some)))
        return list(vector)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what :meth:`embed_documents` does, without blocking the event loop."""
        inner = self._cached.model
        if not texts:
            return list(await inner.aembed_documents(texts))
        return list(await self._cached.aencode("document", texts, inner.aembed_documents))

    async def aembed_query(self, text: str) -> list[float]:
        """Do what :meth:`embed_query` does, without blocking the event loop."""
        inner = self._cached.model

        async def embed(some: list[str]) -> list[list[float]]:
            return [await inner.aembed_query(text) for text in some]

        (vector,) = await self._cached.aencode("query", [text], embed)
        return list(vector)
