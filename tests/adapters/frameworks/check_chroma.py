"""Chroma: collections that were made with the original, with the cache, and are opened with the other."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api.types import SparseVector
from chromadb.config import Settings
from chromadb.utils.embedding_functions import register_embedding_function
from subjects import ChromaSparseToy, ChromaToy
from toys import given, model, same

from dejavec.chroma import CachedEmbeddingFunction, CachedSparseEmbeddingFunction

register_embedding_function(ChromaToy)


def client(path: Path) -> Any:
    return chromadb.PersistentClient(str(path), settings=Settings(anonymized_telemetry=False))


def test_a_collection_of_the_original_opens_with_the_cache(tmp_path: Path) -> None:
    database = client(tmp_path / "database")
    database.create_collection("texts", embedding_function=ChromaToy()).add(ids=["1"], documents=["once"])
    cached = CachedEmbeddingFunction(ChromaToy(), tmp_path / "cache")
    collection = database.get_collection("texts", embedding_function=cached)
    collection.add(ids=["2"], documents=["again"])
    assert collection.query(query_texts=["again"], n_results=2)["ids"][0]
    given()
    collection.upsert(ids=["3"], documents=["again"])
    collection.query(query_texts=["again"], n_results=1)
    assert given() == []


def test_a_collection_of_the_cache_is_the_originals_and_opens_without_us(tmp_path: Path) -> None:
    database = client(tmp_path / "database")
    cached = CachedEmbeddingFunction(ChromaToy(2.0), tmp_path / "cache")
    database.create_collection("texts", embedding_function=cached).add(ids=["1"], documents=["once"])
    given()
    collection = database.get_collection("texts")
    collection.add(ids=["2"], documents=["again"])
    assert given() == ["again"]
    stored = collection.get(ids=["1", "2"], include=["embeddings"])["embeddings"]
    assert np.array_equal(stored, np.array(model(["once", "again"], "document", 2.0), np.float32))
    database.get_collection("texts", embedding_function=ChromaToy(2.0))


def test_it_answers_as_the_original(tmp_path: Path) -> None:
    original = ChromaToy(3.0)
    cached = CachedEmbeddingFunction(original, tmp_path)
    assert cached.name() == "toy"
    assert cached.get_config() == {"scale": 3.0}
    assert cached.build_from_config({"scale": 4.0}).scale == 4.0
    assert cached.default_space() == original.default_space()
    assert cached.supported_spaces() == original.supported_spaces()
    assert not cached.is_legacy()
    assert cached.scale == 3.0


@pytest.mark.parametrize("wrong", [[], [np.zeros(3)]], ids=["nothing", "an image"])
def test_other_input_goes_to_the_original(tmp_path: Path, wrong: Any) -> None:
    class Images(ChromaToy):
        def __call__(self, input: Any) -> Any:
            return [np.ones(2, np.float32) for _ in input]

    cached = CachedEmbeddingFunction(Images(), tmp_path)
    if wrong:
        assert same(cached(wrong), [np.ones(2, np.float32)])
    else:
        with pytest.raises(ValueError, match="non-empty"):
            cached(wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_function_without_a_name_is_cached_by_its_attributes(tmp_path: Path) -> None:
    class Legacy(chromadb.EmbeddingFunction):
        def __init__(self) -> None:
            self.scale = 5.0

        def __call__(self, input: Any) -> Any:
            return [np.array(row, np.float32) for row in model(input, "document", self.scale)]

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        cached = CachedEmbeddingFunction(Legacy(), tmp_path)
    for _ in range(2):
        assert same(cached(["once"]), Legacy()(["once"]))


def test_sparse_vectors_with_labels_are_not_cached(tmp_path: Path) -> None:
    class Labelled(ChromaSparseToy):
        def __call__(self, input: Any) -> Any:
            model(input, "document")
            return [SparseVector([1, 7], [0.5, 0.25], ["a", "b"]) for _ in input]

    cached = CachedSparseEmbeddingFunction(Labelled(), tmp_path)
    for _ in range(2):
        assert cached(["once"]) == [SparseVector([1, 7], [0.5, 0.25], ["a", "b"])]


@pytest.mark.parametrize("column", [0, 2**31 - 2, 2**31 - 1, 2**40])
def test_any_column_of_a_sparse_vector_comes_back(tmp_path: Path, column: int) -> None:
    class Wide(ChromaSparseToy):
        def __call__(self, input: Any) -> Any:
            return [SparseVector([column], [0.0]) if text else SparseVector([], []) for text in input]

    cached = CachedSparseEmbeddingFunction(Wide(), tmp_path)
    for _ in range(2):
        assert cached(["once", ""]) == [SparseVector([column], [0.0]), SparseVector([], [])]
