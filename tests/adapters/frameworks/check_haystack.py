"""Haystack: pipelines, the lifecycle of components, the text of documents, and embedders that fail softly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from embedding_server import EmbeddingServer, serving
from haystack import Document, Pipeline, component
from haystack.components.embedders import (
    MockDocumentEmbedder,
    MockTextEmbedder,
    OpenAIDocumentEmbedder,
    OpenAITextEmbedder,
)
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from toys import given, model, same

from dejavec.haystack import CachedDocumentEmbedder, CachedTextEmbedder

SETTINGS: dict[str, Any] = {"meta_fields_to_embed": ["title", "year"], "prefix": "<", "suffix": ">"}
DOCUMENTS = [
    Document(content="once", meta={"title": "A", "year": 1, "shelf": 3}),
    Document(content="once", meta={"title": "A", "year": 1, "shelf": 4}),
    Document(content="once", meta={"title": "B"}),
    Document(content="once"),
    Document(content=None, meta={"title": "C", "year": None}),
]


def embed(text: str) -> list[float]:
    return model([text], "document")[0]


def test_documents_are_the_originals_own_and_the_text_that_is_embedded_is_the_key(tmp_path: Path) -> None:
    given()
    original = MockDocumentEmbedder(embedding_fn=embed, **SETTINGS)
    expected = original.run(DOCUMENTS)["documents"]
    embedded = given()
    cached = CachedDocumentEmbedder(original, tmp_path)
    for _ in range(2):
        found = cached.run(DOCUMENTS)["documents"]
        assert found == expected
        assert all(map(same, [one.embedding for one in found], [one.embedding for one in expected]))
        assert not any(one is two for one, two in zip(found, DOCUMENTS, strict=True))
    assert given() == ["<A\n1\nonce>", "<B\nonce>", "<once>", "<C\n>"]
    assert embedded == ["<A\n1\nonce>", *embedded[:1], "<B\nonce>", "<once>", "<C\n>"]
    assert DOCUMENTS[0].embedding is None


def test_meta_adds_up_what_was_sent(tmp_path: Path) -> None:
    cached = CachedDocumentEmbedder(MockDocumentEmbedder(dimension=3), tmp_path)
    many = [Document(content=f"text {number}") for number in range(100)]
    assert cached.run(many)["meta"] == MockDocumentEmbedder(dimension=3).run(many)["meta"]
    assert cached.run(many)["meta"] == {}


def test_the_original_is_warmed_up_at_the_first_miss_only(tmp_path: Path) -> None:
    for warmed in (True, False):
        text, document = MockTextEmbedder(dimension=3), MockDocumentEmbedder(dimension=3)
        cached = [
            CachedTextEmbedder(text, tmp_path, confirm=0),
            CachedDocumentEmbedder(document, tmp_path, confirm=0),
        ]
        for one in cached:
            one.warm_up()
        assert not text._is_warmed_up
        cached[0].run("once")
        cached[1].run([Document(content="once")])
        assert [text._is_warmed_up, document._is_warmed_up] == [warmed, warmed]
        for one in cached:
            one.close()


async def test_asynchronous_runs_share_the_cache(tmp_path: Path) -> None:
    text, document = MockTextEmbedder(dimension=3), MockDocumentEmbedder(dimension=3)
    texts, documents = CachedTextEmbedder(text, tmp_path), CachedDocumentEmbedder(document, tmp_path)
    await texts.warm_up_async()
    made = await texts.run_async("once"), await documents.run_async(DOCUMENTS)
    assert made[0] == text.run("once")
    assert made[1]["documents"] == document.run(DOCUMENTS)["documents"]
    assert texts.run("once") == {"embedding": made[0]["embedding"], "meta": {}}
    assert documents.run(DOCUMENTS) == {"documents": made[1]["documents"], "meta": {}}
    await texts.close_async()
    await documents.close_async()


def test_a_pipeline_runs_and_is_saved_and_loaded(tmp_path: Path) -> None:
    store = InMemoryDocumentStore()
    embedder = CachedDocumentEmbedder(MockDocumentEmbedder(dimension=8), tmp_path)
    store.write_documents(embedder.run([Document(content="once"), Document(content="again")])["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", CachedTextEmbedder(MockTextEmbedder(dimension=8), tmp_path))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": "again"}})["retriever"]["documents"]
    assert [document.content for document in found] == ["again"]

    saved = Pipeline()
    saved.add_component("text", CachedTextEmbedder(MockTextEmbedder(dimension=8), tmp_path, confirm=0))
    saved.add_component("document", embedder)
    loaded = Pipeline.loads(saved.dumps(), allowed_modules=["dejavec"])
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.run({"text": {"text": "again"}, "document": {"documents": []}})["text"]["meta"] == {}


async def test_an_asynchronous_pipeline_runs(tmp_path: Path) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", CachedTextEmbedder(MockTextEmbedder(dimension=8), tmp_path))
    found = await pipeline.run_async({"embedder": {"text": "again"}})
    assert found["embedder"]["embedding"] == MockTextEmbedder(dimension=8).run("again")["embedding"]


@component
class WithParameters:
    """Has a parameter besides the text, and no asynchronous run."""

    @component.output_types(embedding=list[float])
    def run(self, text: str, task: str = "search") -> dict[str, Any]:
        return {"embedding": model([text], task)[0]}

    def to_dict(self) -> dict[str, Any]:
        return {"type": "WithParameters", "init_parameters": {}}


async def test_parameters_of_the_original_are_inputs_and_part_of_the_identity(tmp_path: Path) -> None:
    given()
    cached = CachedTextEmbedder(WithParameters(), tmp_path / "cache")
    pipeline = Pipeline()
    pipeline.add_component("embedder", cached)
    first = pipeline.run({"embedder": {"text": "once"}})["embedder"]["embedding"]
    with pytest.warns(match="these vectors go to"):
        other = pipeline.run({"embedder": {"text": "once", "task": "cluster"}})["embedder"]["embedding"]
    assert [first, other] == [model(["once"], task)[0] for task in ("search", "cluster")]
    given()
    assert (await cached.run_async("once"))["embedding"] == first
    assert (await cached.run_async("once", task="cluster"))["embedding"] == other
    assert given() == []


@pytest.mark.parametrize("made", [MockTextEmbedder, MockDocumentEmbedder])
def test_what_is_wrong_gets_the_originals_own_error(made: Any, tmp_path: Path) -> None:
    wrapper = CachedTextEmbedder if made is MockTextEmbedder else CachedDocumentEmbedder
    with pytest.raises(TypeError) as plain:
        made(dimension=3).run(7)
    with pytest.raises(TypeError) as cached:
        wrapper(made(dimension=3), tmp_path).run(7)
    assert str(cached.value) == str(plain.value)


def test_an_embedder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="meta_fields_to_embed"):
        CachedDocumentEmbedder(MockTextEmbedder(), tmp_path)


class TestWithAServer:
    """Haystack's embedders for OpenAI's protocol, which go on after an error of the server."""

    def embedder(self, server: EmbeddingServer, **settings: Any) -> Any:
        key = Secret.from_token("secret-key")
        settings = {"max_retries": 0, "progress_bar": False, "batch_size": 2, **settings}
        settings["meta_fields_to_embed"] = ["title"]
        return OpenAIDocumentEmbedder(key, model="small", api_base_url=server.url, **settings)

    def test_what_fails_has_no_vector_and_is_embedded_in_the_next_run(self, tmp_path: Path) -> None:
        old = [replace(document, embedding=[9.0]) for document in DOCUMENTS[2:]]
        with serving() as server:
            expected = self.embedder(server).run(DOCUMENTS[2:])["documents"]
            server.trouble = [429]
            cached = CachedDocumentEmbedder(self.embedder(server), tmp_path)
            found = cached.run(old)["documents"]
            assert [document.embedding for document in found] == [[9.0], [9.0], expected[2].embedding]
            sent = len(server.requests)
            assert cached.run(old)["documents"] == expected
            assert [request["input"] for request in server.requests[sent:]] == [["B\nonce", "once"]]

    def test_documents_of_one_id_have_their_own_vectors(self, tmp_path: Path) -> None:
        documents = [Document(id="same", content="once"), Document(id="same", content="again")]
        with serving() as server:
            cached = CachedDocumentEmbedder(self.embedder(server), tmp_path)
            found = [document.embedding for document in cached.run(documents)["documents"]]
            again = CachedDocumentEmbedder(self.embedder(server), tmp_path).run(documents)["documents"]
        assert found[0] != found[1]
        assert [document.embedding for document in again] == found
        assert [document.id for document in again] == ["same", "same"]

    async def test_keys_are_not_stored_and_addresses_are(self, tmp_path: Path) -> None:
        with serving() as server:
            key = Secret.from_env_var("OPENAI_API_KEY", strict=False)
            text = OpenAITextEmbedder(Secret.from_token("secret-key"), model="small", api_base_url=server.url)
            cached = CachedTextEmbedder(text, tmp_path, confirm=0)
            made = await cached.run_async("once")
            assert made["meta"]["usage"]["total_tokens"] == len("once")
            assert cached.run("once") == {"embedding": made["embedding"], "meta": {}}
            await cached.close_async()
            cached.close()
            stored = (tmp_path / "query" / "meta.json").read_text()
            assert "secret-key" not in stored
            assert server.url in stored
            document = OpenAIDocumentEmbedder(key, model="small")
            assert CachedDocumentEmbedder(document, tmp_path).to_dict()["init_parameters"]["path"] == str(
                tmp_path
            )
