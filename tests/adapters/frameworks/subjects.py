"""One subject for each adapter: the framework's own object around the toy model, plain and cached."""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import openai
from embedding_server import EmbeddingServer, running
from haystack import Document
from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import BaseModel
from toys import RefusedError, model

from dejavec.haystack import CachedDocumentEmbedder, CachedTextEmbedder
from dejavec.langchain import CachedEmbeddings
from dejavec.llama_index import CachedEmbedding
from dejavec.openai import cached_openai


class Subject(ABC):
    """A framework's object in the conformance suite. ``scale`` is a setting that changes vectors.

    Attributes:
        refusal: what it raises if the model refuses a text.
        answers_in_parts: whether it embeds many texts in several steps, the first of which may succeed.
        pickles: whether the framework's own object does.
    """

    refusal: type[Exception] = RefusedError
    answers_in_parts = True
    pickles = True

    @abstractmethod
    def plain(self, scale: float = 1.0) -> Any:
        """Return the framework's own object."""

    @abstractmethod
    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        """Return it with a cache."""

    @abstractmethod
    def documents(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of documents, as the framework returns them."""

    @abstractmethod
    def queries(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of queries."""


class LangChainToy(Embeddings, BaseModel):
    scale: float = 1.0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return model(texts, "document", self.scale)

    def embed_query(self, text: str) -> list[float]:
        return model([text], "query", self.scale)[0]


class LangChain(Subject):
    def plain(self, scale: float = 1.0) -> Any:
        return LangChainToy(scale=scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedEmbeddings(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.embed_documents(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder.embed_query(text) for text in texts]


class Haystack(Subject):
    """Both embedders: the one for documents and the one for texts."""

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


SUBJECTS: list[Subject] = [Haystack(), LangChain(), LlamaIndex(), OpenAIClient()]
