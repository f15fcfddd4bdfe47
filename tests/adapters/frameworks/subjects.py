"""One subject for each adapter: the framework's own object around the toy model, plain and cached."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openai
from chromadb.api.types import EmbeddingFunction, SparseEmbeddingFunction, SparseVector
from conformance import Subject
from embedding_server import EmbeddingServer, running
from fastembed import SparseEmbedding
from fastembed.text.text_embedding_base import TextEmbeddingBase
from haystack import Document
from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder
from lancedb.embeddings import TextEmbeddingFunction, get_registry
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import BaseModel
from toys import DIM, model

from dejavec.chroma import CachedEmbeddingFunction, CachedSparseEmbeddingFunction
from dejavec.fastembed import (
    CachedLateInteractionTextEmbedding,
    CachedSparseTextEmbedding,
    CachedTextEmbedding,
)
from dejavec.haystack import CachedDocumentEmbedder, CachedTextEmbedder
from dejavec.lancedb import cache_embeddings
from dejavec.langchain import CachedEmbeddings
from dejavec.llama_index import CachedEmbedding
from dejavec.openai import cached_openai


class LangChainToy(Embeddings, BaseModel):
    scale: float = 1.0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return model(texts, "document", self.scale)

    def embed_query(self, text: str) -> list[float]:
        return model([text], "query", self.scale)[0]


class LangChain(Subject):
    page = "LangChain", "frameworks/langchain.md"

    def plain(self, scale: float = 1.0) -> Any:
        return LangChainToy(scale=scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedEmbeddings(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.embed_documents(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder.embed_query(text) for text in texts]


class ChromaToy(EmbeddingFunction[Any]):
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, input: Any) -> Any:
        return [np.array(row, np.float32) for row in model(input, "document", self.scale)]

    def embed_query(self, input: Any) -> Any:
        return [np.array(row, np.float32) for row in model(input, "query", self.scale)]

    @staticmethod
    def name() -> str:
        return "toy"

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Any:
        return ChromaToy(**config)


class Chroma(Subject):
    page = "Chroma", "frameworks/chroma.md"

    def plain(self, scale: float = 1.0) -> Any:
        return ChromaToy(scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedEmbeddingFunction(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.embed_query(texts)


class ChromaSparseToy(SparseEmbeddingFunction[Any]):
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, input: Any) -> Any:
        return [sparse(row) for row in model(input, "document", self.scale)]

    def embed_query(self, input: Any) -> Any:
        return [sparse(row) for row in model(input, "query", self.scale)]

    @staticmethod
    def name() -> str:
        return "sparse-toy"

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Any:
        return ChromaSparseToy(**config)


def sparse(row: list[float]) -> SparseVector:
    columns = np.cumsum([1 + int(1e5 * number) for number in row])
    return SparseVector(columns.tolist(), row)


class ChromaSparse(Subject):
    page = "Chroma", "frameworks/chroma.md"

    def plain(self, scale: float = 1.0) -> Any:
        return ChromaSparseToy(scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedSparseEmbeddingFunction(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return [[vector.indices, vector.values] for vector in embedder(texts)]

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [[vector.indices, vector.values] for vector in embedder.embed_query(texts)]


class FastEmbedToy(TextEmbeddingBase):
    """FastEmbed's own models come from a hub: this has their interface."""

    def __init__(self, scale: float = 1.0, batches: Any = None) -> None:
        super().__init__("toy")
        self.scale = scale

    def made(self, texts: str | Iterable[str], role: str, batch_size: int) -> Iterable[Any]:
        coming = iter([texts] if isinstance(texts, str) else texts)
        while batch := list(itertools.islice(coming, batch_size)):
            for row in model(batch, role, self.scale):
                yield self.form(row)

    def form(self, row: list[float]) -> Any:
        return np.array(row, np.float32)

    def embed(
        self, documents: Any, batch_size: int = 256, parallel: int | None = None, **keywords: Any
    ) -> Iterable[Any]:
        yield from self.made(documents, keywords.get("task", "document"), batch_size)

    def passage_embed(self, texts: Any, **keywords: Any) -> Iterable[Any]:
        yield from self.made(texts, "passage", 256)

    def query_embed(self, query: Any, **keywords: Any) -> Iterable[Any]:
        yield from self.made(query, "query", 256)


class FastEmbedLateToy(FastEmbedToy):
    def form(self, row: list[float]) -> Any:
        tokens = 1 + int(10 * row[0])
        return np.outer(np.arange(1, tokens + 1), row).astype(np.float32)


class FastEmbedSparseToy(FastEmbedToy):
    def form(self, row: list[float]) -> Any:
        columns = np.argsort(row)[: 1 + int(3 * row[0])]  # Not ascending, as those of BM25.
        return SparseEmbedding(values=np.array(row, np.float32)[columns], indices=columns)


class FastEmbed(Subject):
    page = "FastEmbed", "frameworks/fastembed.md"
    toy: type[FastEmbedToy] = FastEmbedToy
    wrapper: Any = CachedTextEmbedding

    def plain(self, scale: float = 1.0) -> Any:
        return self.toy(scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return self.wrapper(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return list(embedder.embed(texts, batch_size=32))

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return list(embedder.query_embed(texts))


class FastEmbedLateInteraction(FastEmbed):
    toy = FastEmbedLateToy
    wrapper = CachedLateInteractionTextEmbedding


class FastEmbedSparse(FastEmbed):
    toy = FastEmbedSparseToy
    wrapper = CachedSparseTextEmbedding

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return [[one.indices, one.values] for one in super().documents(embedder, texts)]

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [[one.indices, one.values] for one in super().queries(embedder, texts)]


class LanceDBToy(TextEmbeddingFunction):
    scale: float = 1.0

    def ndims(self) -> int:
        return DIM

    def generate_embeddings(self, texts: Any, *args: Any, **keywords: Any) -> Any:
        return [np.array(row, np.float32) for row in model(list(texts), "document", self.scale)]

    def compute_query_embeddings(self, query: Any, *args: Any, **keywords: Any) -> Any:
        return [np.array(row, np.float32) for row in model([query], "query", self.scale)]


get_registry().register("toy")(LanceDBToy)


class LanceDB(Subject):
    page = "LanceDB", "frameworks/lancedb.md"

    def plain(self, scale: float = 1.0) -> Any:
        return LanceDBToy.create(scale=scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return cache_embeddings("toy", path, **settings).create(scale=scale)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.compute_source_embeddings(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder.compute_query_embeddings(text)[0] for text in texts]


class Haystack(Subject):
    """Both embedders: the one for documents and the one for texts."""

    page = "Haystack", "frameworks/haystack.md"

    def plain(self, scale: float = 1.0) -> Any:
        document, query = (
            functools.partial(vector_of, role=role, scale=scale) for role in ("document", "query")
        )
        name = f"toy of scale {scale}"
        return (
            MockDocumentEmbedder(embedding_fn=document, model=name),
            MockTextEmbedder(embedding_fn=query, model=name),
        )

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        document, query = self.plain(scale)
        return CachedDocumentEmbedder(document, path, **settings), CachedTextEmbedder(query, path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        documents = [Document(content=text) for text in texts]
        return [document.embedding for document in embedder[0].run(documents)["documents"]]

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder[1].run(text)["embedding"] for text in texts]


def vector_of(text: str, role: str, scale: float) -> list[float]:
    return model([text], role, scale)[0]


class LlamaIndexToy(BaseEmbedding):
    scale: float = 1.0

    def _get_text_embedding(self, text: str) -> list[float]:
        return model([text], "document", self.scale)[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return model(texts, "document", self.scale)

    def _get_query_embedding(self, query: str) -> list[float]:
        return model([query], "query", self.scale)[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return model(texts, "document", self.scale)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        await asyncio.sleep(0)
        return model([query], "query", self.scale)[0]


class LlamaIndex(Subject):
    page = "LlamaIndex", "frameworks/llama-index.md"

    def plain(self, scale: float = 1.0) -> Any:
        return LlamaIndexToy(scale=scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedEmbedding(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.get_text_embedding_batch(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder.get_query_embedding(text) for text in texts]


class OpenAIClient(Subject):
    """A client, and the arguments of its calls: a server of OpenAI's protocol has no roles of its own."""

    page = "OpenAI's clients", "frameworks/openai.md"
    refusal = openai.BadRequestError
    answers_in_parts = False
    pickles = False

    @functools.cached_property
    def server(self) -> EmbeddingServer:
        return running()

    def plain(self, scale: float = 1.0) -> Any:
        return openai.OpenAI(api_key="k", base_url=self.server.url, max_retries=0), {"scale": scale}

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        client, body = self.plain(scale)
        return cached_openai(client, path, **settings), body

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return self.create(embedder, texts, "document")

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return self.create(embedder, texts, "query")

    def create(self, embedder: Any, texts: list[str], role: str) -> Any:
        client, body = embedder
        body = {**body, "input_type": role}
        answer = client.embeddings.create(model="small", input=texts, extra_body=body)
        return [part.embedding for part in answer.data]


SUBJECTS: list[Subject] = [
    Chroma(),
    ChromaSparse(),
    FastEmbed(),
    FastEmbedLateInteraction(),
    FastEmbedSparse(),
    Haystack(),
    LanceDB(),
    LangChain(),
    LlamaIndex(),
    OpenAIClient(),
]
