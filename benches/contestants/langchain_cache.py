"""LangChain's cache of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.contestants.base import Reader
from benches.model import NAME, NumberedModel
from benches.work import Vectors


class LangChain(Reader):
    """``CacheBackedEmbeddings`` over ``LocalFileStore``: a file of JSON for each text."""

    name = "LangChain"
    why = 'key_encoder="sha256", as it recommends over its default; groups of 8,192; queries cached too'
    store = "langchain"
    packages = ("langchain-classic", "langchain-core")

    def open(self) -> None:
        from langchain_classic.embeddings import CacheBackedEmbeddings
        from langchain_classic.storage import LocalFileStore
        from langchain_core.embeddings import Embeddings

        class Model(Embeddings):
            """The model as LangChain asks it."""

            model: Any = None

            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                vectors: list[list[float]] = self.model(texts).tolist()
                return vectors

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        self._model = Model()
        self._cache = CacheBackedEmbeddings.from_bytes_store(
            self._model,
            LocalFileStore(str(self.path)),
            namespace=NAME.partition("@")[0].replace("/", "-"),
            batch_size=8_192,
            query_embedding_cache=True,
            key_encoder="sha256",
        )

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:
        self._model.model = model
        return np.array(self._cache.embed_documents(inputs), self.setup.dtype)

    def get(self, texts: list[str]) -> Vectors:
        return np.array(self._cache.embed_documents(texts), self.setup.dtype)

    def get_one(self, text: str) -> Any:
        return np.array(self._cache.embed_documents([text])[0], self.setup.dtype)

    def close(self) -> None:
        """Nothing is open."""
