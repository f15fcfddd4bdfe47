"""One subject for each adapter: the framework's own object around the toy model, plain and cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel
from toys import model

from dejavec.langchain import CachedEmbeddings


class Subject(Protocol):
    """A framework's object in the conformance suite. ``scale`` is a setting that changes vectors."""

    def plain(self, scale: float = 1.0) -> Any:
        """Return the framework's own object."""

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        """Return it with a cache."""

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of documents, as the framework returns them."""

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of queries."""


class LangChainToy(Embeddings, BaseModel):
    scale: float = 1.0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return model(texts, "document", self.scale)

    def embed_query(self, text: str) -> list[float]:
        return model([text], "query", self.scale)[0]


class LangChain:
    def plain(self, scale: float = 1.0) -> Any:
        return LangChainToy(scale=scale)

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return CachedEmbeddings(self.plain(scale), path, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return embedder.embed_documents(texts)

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return [embedder.embed_query(text) for text in texts]


SUBJECTS: list[Subject] = [LangChain()]
