"""LlamaIndex: batches, rate limiters, asynchronous calls, images, indexes and ingestion."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.schema import MetadataMode
from subjects import LlamaIndexToy
from toys import FAILING, GIVEN, RefusedError, given, model, same

from dejavec.llama_index import CachedEmbedding, CachedMultiModalEmbedding

TEXTS = [f"text {number}" for number in range(25)]


class Counting(TokenBucketRateLimiter):
    """A rate limiter that counts."""

    acquired: int = 0

    def acquire(self, num_tokens: int = 0) -> None:
        self.acquired += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:
        self.acquired += 1


def batches() -> list[int]:
    sizes = []
    while not GIVEN.empty():
        sizes.append(len(GIVEN.get()))
    return sizes


def test_the_original_gets_batches_of_its_size_and_its_limiter_counts_misses_only(tmp_path: Path) -> None:
    given()
    limiter = Counting(requests_per_minute=1)
    cached = CachedEmbedding(LlamaIndexToy(rate_limiter=limiter, embed_batch_size=10), tmp_path)
    cached.get_text_embedding_batch(TEXTS)
    assert batches() == [10, 10, 5]
    assert limiter.acquired == 3
    for _ in range(2):
        cached.get_text_embedding_batch(TEXTS)
        cached.get_text_embedding(TEXTS[0])
    assert limiter.acquired == 3
    cached.get_query_embedding("new")
    assert limiter.acquired == 4


async def test_asynchronous_calls_share_the_cache_and_the_limiter(tmp_path: Path) -> None:
    given()
    limiter = Counting(requests_per_minute=1)
    plain = LlamaIndexToy()
    cached = CachedEmbedding(LlamaIndexToy(rate_limiter=limiter, num_workers=2), tmp_path)
    found = await cached.aget_text_embedding_batch(TEXTS)
    assert batches() == [10, 10, 5]
    assert limiter.acquired == 3
    query = await cached.aget_query_embedding("ask")
    given()
    assert same(cached.get_text_embedding_batch(TEXTS), found)
    assert same(cached.get_query_embedding("ask"), query)
    assert same(await cached.aget_text_embedding(TEXTS[0]), found[0])
    assert given() == []
    assert same(found, plain.get_text_embedding_batch(TEXTS))
    assert same(query, plain.get_query_embedding("ask"))


async def test_batches_run_at_the_same_time_as_many_as_the_original_has_workers(tmp_path: Path) -> None:
    class Watching(LlamaIndexToy):
        running: int = 0
        most: int = 0

        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            self.running -= 1
            return model(texts, "document")

    original = Watching(num_workers=3, embed_batch_size=2)
    await CachedEmbedding(original, tmp_path).aget_text_embedding_batch(TEXTS)
    assert original.most == 3


async def test_batches_before_a_failure_are_kept_in_asynchronous_calls_too(tmp_path: Path) -> None:
    cached = CachedEmbedding(LlamaIndexToy(), tmp_path, confirm=0)
    with pytest.raises(RefusedError):
        await cached.aget_text_embedding_batch([*TEXTS, FAILING])
    given()
    await cached.aget_text_embedding_batch(TEXTS[:20])
    assert given() == []


def test_it_is_the_original_in_all_else(tmp_path: Path) -> None:
    original = LlamaIndexToy(model_name="toy", num_workers=3)
    cached = CachedEmbedding(original, tmp_path)
    assert cached.model_name == "toy"
    assert cached.scale == 1.0
    assert cached.to_dict() == original.to_dict()
    assert cached.to_payload() == original.to_payload()
    assert cached.callback_manager is original.callback_manager
    cached.scale = 2.0
    assert original.scale == 2.0
    assert cached.get_text_embedding_batch([]) == []
    assert cached.get_agg_embedding_from_queries(["a"]) == original.get_agg_embedding_from_queries(["a"])


def test_an_index_and_an_ingestion_pipeline_take_it(tmp_path: Path) -> None:
    given()
    documents = [Document(text=text, metadata={"kind": "toy"}) for text in ("once", "again")]
    embed_model = CachedEmbedding(LlamaIndexToy(), tmp_path)
    index = VectorStoreIndex.from_documents(documents, embed_model=embed_model)
    assert len(index.as_retriever(similarity_top_k=1).retrieve("once")) == 1
    embedded = given()
    nodes = IngestionPipeline(transformations=[embed_model]).run(documents=documents)
    assert all(node.embedding for node in nodes)
    assert sorted(embedded) == sorted(["once", *(node.get_content(MetadataMode.EMBED) for node in nodes)])
    assert given() == []


class Images(LlamaIndexToy, MultiModalEmbedding):
    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        content = (
            img_file_path.read()
            if isinstance(img_file_path, io.BytesIO)
            else Path(img_file_path).read_bytes()
        )
        return model([content.decode()], "image", self.scale)[0]

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embedding(img_file_path)


async def test_images_are_known_by_their_content(tmp_path: Path) -> None:
    given()
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    first.write_text("one image")
    second.write_text("another image")
    cached, plain = CachedMultiModalEmbedding(Images(), tmp_path / "cache"), Images()
    expected = plain.get_image_embedding_batch([str(first), str(second), str(first)])
    assert given() == ["one image", "another image", "one image"]
    assert same(cached.get_image_embedding_batch([str(first), str(second), str(first)]), expected)
    assert given() == ["one image", "another image"]

    first.rename(tmp_path / "moved.png")
    moved = str(tmp_path / "moved.png")
    assert same(cached.get_image_embedding(moved), expected[0])
    assert same(cached.get_image_embedding(io.BytesIO(b"another image")), expected[1])
    assert same(await cached.aget_image_embedding(moved), expected[0])
    assert same(await cached.aget_image_embedding_batch([moved, str(second)]), expected[:2])
    assert given() == []

    second.write_text("a third image")
    assert same(cached.get_image_embedding(str(second)), plain.get_image_embedding(str(second)))
    assert given() == ["a third image"] * 2


def test_an_image_that_is_read_once_may_be_asked_for_again(tmp_path: Path) -> None:
    for _ in range(2):
        cached = CachedMultiModalEmbedding(Images(), tmp_path)
        image = io.BytesIO(b"an image")
        assert same(cached.get_image_embedding(image), model(["an image"], "image")[0])
        assert same(cached.get_text_embedding("an image"), model(["an image"], "document")[0])
