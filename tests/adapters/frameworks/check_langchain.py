"""LangChain's standard tests, and what they leave out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from subjects import LangChainToy
from toys import given, model, same

from dejavec.errors import IdentityMismatchError
from dejavec.langchain import CachedEmbeddings


class Standard:
    """What LangChain's standard tests ask of a class."""

    @pytest.fixture(autouse=True)
    def path(self, tmp_path: Path) -> None:
        self._path = tmp_path

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return CachedEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"embeddings": DeterministicFakeEmbedding(size=6), "path": self._path}


class TestUnit(Standard, EmbeddingsUnitTests):
    pass


class TestIntegration(Standard, EmbeddingsIntegrationTests):
    pass


class Asynchronous(LangChainToy):
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return model(texts, "document", self.scale)

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.sleep(0)
        return model([text], "query", self.scale)[0]


async def test_asynchronous_calls_await_the_originals_own_and_share_its_cache(tmp_path: Path) -> None:
    original = Asynchronous()
    cached = CachedEmbeddings(original, tmp_path)
    documents, query = await cached.aembed_documents(["a", "b"]), await cached.aembed_query("a")
    assert same(documents, original.embed_documents(["a", "b"]))
    assert same(query, original.embed_query("a"))
    given()
    assert same(cached.embed_documents(["a", "b"]), documents)
    assert same(cached.embed_query("a"), query)
    assert given() == []


async def test_many_tasks_embed_a_new_text_once(tmp_path: Path) -> None:
    given()
    cached = CachedEmbeddings(Asynchronous(), tmp_path)
    found = await asyncio.gather(*(cached.aembed_documents(["a", "b"]) for _ in range(20)))
    assert all(same(one, found[0]) for one in found)
    assert sorted(given()) == ["a", "b"]


async def test_the_event_loop_runs_while_texts_are_looked_up(tmp_path: Path) -> None:
    cached = CachedEmbeddings(LangChainToy(), tmp_path)
    call = asyncio.ensure_future(cached.aembed_documents([f"text {number}" for number in range(10_000)]))
    turns = 0
    while not call.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1


def test_no_texts_go_to_the_original_as_they_are(tmp_path: Path) -> None:
    assert CachedEmbeddings(LangChainToy(), tmp_path).embed_documents([]) == []


def test_the_original_is_there_behind_it(tmp_path: Path) -> None:
    original = LangChainToy()
    cached = CachedEmbeddings(original, tmp_path)
    assert isinstance(cached, Embeddings)
    assert cached.scale == 1.0
    cached.embed_documents(["a"])
    cached.scale = 3.0
    assert original.scale == 3.0


def test_a_setting_that_is_assigned_leads_to_other_vectors(tmp_path: Path) -> None:
    cached = CachedEmbeddings(LangChainToy(), tmp_path)
    cached.embed_documents(["a"])
    cached.scale = 3.0
    with pytest.warns(match="these vectors go to"):
        assert same(cached.embed_documents(["a"]), LangChainToy(scale=3.0).embed_documents(["a"]))


def test_a_setting_that_is_changed_behind_its_back_is_noticed(tmp_path: Path) -> None:
    original = LangChainToy()
    cached = CachedEmbeddings(original, tmp_path)
    cached.embed_documents(["a"])
    original.scale = 3.0
    with pytest.raises(IdentityMismatchError):
        cached.embed_documents(["a"])


def test_secrets_and_speed_are_no_part_of_the_identity(tmp_path: Path) -> None:
    class Remote(LangChainToy):
        model: str = "small"
        api_key: str = "k"
        chunk_size: int = 8
        url: str = "https://me:k@host/v1?key=k"

    cached = CachedEmbeddings(Remote(), tmp_path)
    cached.embed_documents(["a"])
    stored = (tmp_path / "document" / "meta.json").read_text()
    assert "https://host/v1" in stored
    assert '"k"' not in stored
    assert "chunk_size" not in stored


def test_a_vector_store_of_langchain_takes_it(tmp_path: Path) -> None:
    store = InMemoryVectorStore(CachedEmbeddings(DeterministicFakeEmbedding(size=6), tmp_path))
    store.add_texts(["a", "b", "c"])
    assert [found.page_content for found in store.similarity_search("b", k=1)] == ["b"]
