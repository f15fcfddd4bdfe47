"""LlamaIndex's embedding models with cached vectors."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.cache import CacheSettings

_LARGEST_BATCH = 2048
"""The most texts that LlamaIndex hands over at a time."""

_COPIED = ("model_name", "callback_manager", "num_workers")
"""Fields that LlamaIndex's own methods read from the object they are called on."""

Vector = list[float]


class CachedEmbedding(BaseEmbedding):  # type: ignore[misc]
    """An embedding model of LlamaIndex with cached vectors: use it wherever the original is used.

    Texts and queries are cached apart, in ``<path>/document`` and ``<path>/query``, as float64, equal to the
    bit. The original gets batches of its ``embed_batch_size``, and its ``rate_limiter`` counts only these.
    Its class and settings are the identity of the vectors. It is asked to embed a few cached texts again,
    once in each process, unless ``model=`` names it or ``confirm=0`` is given. Other attributes are those of
    the original, and ``to_dict`` too, so that an ingestion cache stays valid.

    Args:
        embed_model: the original.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Example:
        >>> import tempfile
        >>> from dejavec.llama_index import CachedEmbedding
        >>> from llama_index.core import MockEmbedding
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     cached = CachedEmbedding(MockEmbedding(embed_dim=2), directory)
        ...     cached.get_text_embedding_batch(["once", "again"])
        ...     cached.close()
        [[0.5, 0.5], [0.5, 0.5]]
    """

    _cached: CachedModel = PrivateAttr()

    def __init__(
        self, embed_model: BaseEmbedding, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        copied = {name: getattr(embed_model, name) for name in _COPIED}
        super().__init__(embed_batch_size=_LARGEST_BATCH, **copied)
        self._cached = CachedModel(embed_model, Caches(path, settings, "list"))

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class."""
        return "CachedEmbedding"

    def to_payload(self) -> dict[str, Any]:
        """Return what events say of the original."""
        return dict(self._cached.model.to_payload())

    def to_dict(self, **keywords: Any) -> dict[str, Any]:
        """Return what the original returns."""
        return dict(self._cached.model.to_dict(**keywords))

    def close(self) -> None:
        """Sync and close the caches. The next use opens them again."""
        self._cached.caches.close()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "_cached":
                raise
            return getattr(self._cached.model, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("_cached", "callback_manager"):
            super().__setattr__(name, value)
            return
        self._cached.assign(name, value)
        if name in _COPIED:
            super().__setattr__(name, value)

    def _get_query_embedding(self, query: str) -> Vector:
        inner = self._cached.model
        return self._one("query", query, inner._get_query_embedding)

    async def _aget_query_embedding(self, query: str) -> Vector:
        inner = self._cached.model
        return await self._aone("query", query, inner._aget_query_embedding)

    def _get_text_embedding(self, text: str) -> Vector:
        inner = self._cached.model
        return self._one("document", text, inner._get_text_embedding)

    async def _aget_text_embedding(self, text: str) -> Vector:
        inner = self._cached.model
        return await self._aone("document", text, inner._aget_text_embedding)

    def _get_text_embeddings(self, texts: list[str]) -> list[Vector]:
        inner = self._cached.model
        return self._many("document", texts, inner._get_text_embeddings)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Vector]:
        inner = self._cached.model
        return await self._amany("document", texts, inner._aget_text_embeddings)

    def _one(self, role: str, text: str, call: Callable[[Any], Vector], named: Any = None) -> Vector:
        """Return one vector; the original embeds texts one by one."""
        limiter = self._cached.model.rate_limiter

        def embed(some: list[str]) -> Iterator[list[Vector]]:
            for name in some:
                if limiter is not None:
                    limiter.acquire()
                yield [call(name if named is None else _fresh(named))]

        (vector,) = self._cached.encode(role, [text], embed)
        return list(vector)

    async def _aone(
        self, role: str, text: str, call: Callable[[Any], Awaitable[Vector]], named: Any = None
    ) -> Vector:
        limiter = self._cached.model.rate_limiter

        async def embed(some: list[str]) -> list[Vector]:
            vectors = []
            for name in some:
                if limiter is not None:
                    await limiter.async_acquire()
                vectors.append(await call(name if named is None else _fresh(named)))
            return vectors

        (vector,) = await self._cached.aencode(role, [text], embed)
        return list(vector)

    def _many(
        self, role: str, texts: list[str], call: Callable[[list[Any]], list[Vector]], named: Any = None
    ) -> list[Vector]:
        """Return many vectors; the original embeds batches of its size.

        Args:
            role: the role.
            texts: n texts.
            call: returns the vectors of a batch.
            named: what each text stands for, as a dict; None: itself.
        """
        inner = self._cached.model
        if not texts:
            return call(texts)

        def embed(some: list[str]) -> list[Vector]:
            if inner.rate_limiter is not None:
                inner.rate_limiter.acquire()
            return call(some if named is None else [_fresh(named[text]) for text in some])

        return list(self._cached.encode(role, texts, embed, batch_size=inner.embed_batch_size))

    async def _amany(
        self,
        role: str,
        texts: list[str],
        call: Callable[[list[Any]], Awaitable[list[Vector]]],
        named: Any = None,
    ) -> list[Vector]:
        """Do what :meth:`_many` does, with as many batches at a time as the original's ``num_workers``."""
        inner = self._cached.model
        if not texts:
            return await call(texts)
        workers, size = inner.num_workers, inner.embed_batch_size

        async def embed(some: list[str]) -> Iterator[list[Vector]]:
            turn: AbstractAsyncContextManager[Any] = asyncio.Semaphore(workers) if workers else nullcontext()

            async def one(batch: list[Any]) -> list[Vector]:
                async with turn:
                    if inner.rate_limiter is not None:
                        await inner.rate_limiter.async_acquire()
                    return await call(batch)

            things = some if named is None else [_fresh(named[text]) for text in some]
            batches = [one(things[start : start + size]) for start in range(0, len(things), size)]
            return _until_failure(await asyncio.gather(*batches, return_exceptions=True))

        return list(await self._cached.aencode(role, texts, embed))


class CachedMultiModalEmbedding(CachedEmbedding, MultiModalEmbedding):  # type: ignore[misc]
    """A multi-modal embedding model of LlamaIndex with cached vectors: see :class:`CachedEmbedding`.

    Images are cached in ``<path>/image``. The key of an image is the digest of its file, so a file that is
    moved is a hit, and one that changed is not. What cannot be read as a file here goes to the original.

    Args:
        embed_model: the original.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class."""
        return "CachedMultiModalEmbedding"

    def _get_image_embedding(self, img_file_path: Any) -> Vector:
        inner = self._cached.model
        digest = _digest(img_file_path)
        if digest is None:
            return list(inner._get_image_embedding(img_file_path))
        return self._one("image", digest, inner._get_image_embedding, img_file_path)

    async def _aget_image_embedding(self, img_file_path: Any) -> Vector:
        inner = self._cached.model
        digest = await asyncio.to_thread(_digest, img_file_path)
        if digest is None:
            return list(await inner._aget_image_embedding(img_file_path))
        return await self._aone("image", digest, inner._aget_image_embedding, img_file_path)

    def _get_image_embeddings(self, img_file_paths: list[Any]) -> list[Vector]:
        inner = self._cached.model
        digests = list(map(_digest, img_file_paths))
        if None in digests:
            return list(inner._get_image_embeddings(img_file_paths))
        named = dict(zip(digests, img_file_paths, strict=True))
        return self._many("image", digests, inner._get_image_embeddings, named)  # type: ignore[arg-type]

    async def _aget_image_embeddings(self, img_file_paths: list[Any]) -> list[Vector]:
        inner = self._cached.model
        digests = await asyncio.to_thread(lambda: list(map(_digest, img_file_paths)))
        if None in digests:
            return list(await inner._aget_image_embeddings(img_file_paths))
        named = dict(zip(digests, img_file_paths, strict=True))
        return await self._amany("image", digests, inner._aget_image_embeddings, named)  # type: ignore[arg-type]


def _digest(image: Any) -> str | None:
    """Return the SHA-256 of an image file; None if it cannot be read as one."""
    if isinstance(image, io.BytesIO):
        return f"sha256:{hashlib.sha256(image.getbuffer()).hexdigest()}"
    try:
        with Path(image).open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except (OSError, TypeError, ValueError):
        return None


def _fresh(image: Any) -> Any:
    """Return an image that nobody has read from, since a question to the model reads it again."""
    if not isinstance(image, io.BytesIO):
        return image
    copy = io.BytesIO(image.getbuffer())
    copy.seek(image.tell())
    return copy


def _until_failure(results: list[Any]) -> Iterator[list[Vector]]:
    """Yield the vectors of each batch; raise the first exception in its place.

    What came before is stored.
    """
    for result in results:
        if isinstance(result, BaseException):
            raise result
        yield result
