"""The caches of frameworks, and this one in their place: all return lists of Python floats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benches.contestants.base import Contestant
from benches.contestants.dictionary import Dictionary
from benches.contestants.langchain_cache import LangChain
from benches.model import NAME, NumberedModel
from benches.work import Setup


class LangChainLists(LangChain):
    """``CacheBackedEmbeddings`` as LangChain's vector stores call it."""

    name = "LangChain, lists"

    def warm_up(self) -> None:
        import langchain_classic.embeddings
        import langchain_classic.storage  # noqa: F401

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:
        self._model.model = model
        return self._cache.embed_documents(inputs)


class ForLangChain(Contestant):
    """``CachedEmbeddings`` around the same embeddings."""

    name = "dejavec for LangChain"
    why = "lists of floats are stored as float64, which holds them exactly"
    store = "dejavec-langchain"
    packages = ("dejavec", "langchain-core")

    def warm_up(self) -> None:
        import dejavec.langchain  # noqa: F401

    def open(self) -> None:
        """Nothing: the first call opens the cache."""

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:
        from langchain_core.embeddings import Embeddings

        from dejavec.langchain import CachedEmbeddings

        class Model(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                vectors: list[list[float]] = model(texts).tolist()
                return vectors

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        self._cached = CachedEmbeddings(Model(), self.path, model=NAME)
        return self._cached.embed_documents(inputs)

    def close(self) -> None:
        self._cached.close()


class _LlamaIndex(Contestant):
    """An ingestion pipeline with an embedding model. Its nodes are made before the clock starts."""

    input_form = "nodes"

    def warm_up(self) -> None:
        import llama_index.core.ingestion  # noqa: F401

    def inputs(self, dataset: Any) -> Any:
        from llama_index.core.schema import TextNode

        return [TextNode(text=text, id_=str(at)) for at, text in enumerate(dataset["text"][:])]

    def embedding(self, model: NumberedModel) -> Any:
        from llama_index.core.base.embeddings.base import BaseEmbedding
        from llama_index.core.bridge.pydantic import PrivateAttr

        class Model(BaseEmbedding):
            _model: Any = PrivateAttr()

            def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
                vectors: list[list[float]] = self._model(texts).tolist()
                return vectors

            def _get_text_embedding(self, text: str) -> list[float]:
                return self._get_text_embeddings([text])[0]

            _get_query_embedding = _get_text_embedding

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_text_embedding(query)

        made = Model(model_name=NAME, embed_batch_size=2_048)
        made._model = model
        return made


class IngestionCache(_LlamaIndex):
    """LlamaIndex's own: one entry of JSON for all nodes of a call."""

    name = "LlamaIndex IngestionCache"
    why = "over SimpleKVStore, which it loads from one JSON file; one new text makes all of them new"
    store = "llama-index"
    packages = ("llama-index-core",)

    def open(self) -> None:
        from llama_index.core.ingestion import IngestionCache

        is_filled = self._file.exists()
        self._cache = IngestionCache.from_persist_path(str(self._file)) if is_filled else IngestionCache()

    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        from llama_index.core.ingestion import IngestionPipeline

        pipeline = IngestionPipeline(transformations=[self.embedding(model)], cache=self._cache)
        return [node.embedding for node in pipeline.run(nodes=inputs)]

    def close(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._cache.persist(str(self._file))

    @property
    def _file(self) -> Path:
        return self.path / "cache.json"


class ForLlamaIndex(_LlamaIndex):
    """``CachedEmbedding`` around the same model."""

    name = "dejavec for LlamaIndex"
    why = "lists of floats are stored as float64; the pipeline's own cache is off"
    store = "dejavec-llama-index"
    packages = ("dejavec", "llama-index-core")

    def open(self) -> None:
        """Nothing: the first call opens the cache."""

    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        from llama_index.core.ingestion import IngestionPipeline

        from dejavec.llama_index import CachedEmbedding

        self._cached = CachedEmbedding(self.embedding(model), self.path, model=NAME)
        pipeline = IngestionPipeline(transformations=[self._cached], disable_cache=True)
        return [node.embedding for node in pipeline.run(nodes=inputs)]

    def close(self) -> None:
        self._cached.close()


class ListDictionary(Dictionary):
    """Text to list in a dict; the lists were made before the clock starts."""

    name = "dict of lists"
    why = "no disk: the same list objects again, made before the clock starts"

    def __init__(self, path: Path, setup: Setup) -> None:
        super().__init__(path, setup)
        self._lists: dict[str, list[float]] = {}

    def warm_up(self) -> None:
        super().warm_up()
        texts = json.loads((self.path / "texts.json").read_text())
        self._lists = dict(zip(texts, self._vectors.tolist(), strict=True))

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:  # noqa: ARG002 - all is held
        return [self._lists[text] for text in inputs]
