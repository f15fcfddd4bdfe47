"""LanceDB: tables that embed through the cache, and open without it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunction, TextEmbeddingFunction, get_registry
from lancedb.pydantic import LanceModel, Vector
from subjects import LanceDBToy
from toys import DIM, given, model, same

from dejavec.lancedb import cache_embeddings


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    yield
    get_registry().register("toy")(LanceDBToy)


def schema_of(function: Any) -> Any:
    class Texts(LanceModel):
        text: str = function.SourceField()
        vector: Vector(DIM) = function.VectorField()  # type: ignore[valid-type]

    return Texts


def test_a_table_embeds_through_the_cache_and_opens_without_it(tmp_path: Path) -> None:
    given()
    function = cache_embeddings("toy", tmp_path / "cache").create(scale=2.0)
    database = lancedb.connect(tmp_path / "database")
    table = database.create_table("texts", schema=schema_of(function))
    table.add([{"text": "once"}, {"text": "again"}])
    table.add([{"text": "once"}])
    assert len(table.search("again").limit(1).to_list()) == 1
    table.search("again").limit(1).to_list()
    assert sorted(given()) == ["again", "again", "once"]

    get_registry().register("toy")(LanceDBToy)
    again = lancedb.connect(tmp_path / "database").open_table("texts")
    again.add([{"text": "new"}])
    assert given() == ["new"]
    rows = {row["text"]: row["vector"] for row in again.to_arrow().to_pylist()}
    expected = np.array(model(["once", "again", "new"], "document", 2.0), np.float32)
    assert np.array_equal([rows["once"], rows["again"], rows["new"]], expected)


@pytest.mark.parametrize(
    "texts", ["once", ["once", "again"], pa.array(["once"]), pa.chunked_array([["once"]]), np.array(["once"])]
)
def test_texts_come_in_every_form_of_lancedb(tmp_path: Path, texts: Any) -> None:
    cached = cache_embeddings("toy", tmp_path).create()
    expected = LanceDBToy.create().compute_source_embeddings(texts)
    for _ in range(2):
        assert same(cached.compute_source_embeddings(texts), expected)


def test_texts_without_a_vector_are_not_cached(tmp_path: Path) -> None:
    class Refusing(LanceDBToy):
        def generate_embeddings(self, texts: Any, *args: Any, **keywords: Any) -> Any:
            return [None if text == "bad" else np.ones(2, np.float32) for text in texts]

    get_registry().register("refusing")(Refusing)
    cached = cache_embeddings("refusing", tmp_path).create()
    for _ in range(2):
        assert same(cached.compute_source_embeddings(["once", "bad"]), [np.ones(2, np.float32), None])


def test_a_query_is_embedded_as_a_source_where_the_original_does_so(tmp_path: Path) -> None:
    class OneRole(TextEmbeddingFunction):
        def ndims(self) -> int:
            return DIM

        def generate_embeddings(self, texts: Any, *args: Any, **keywords: Any) -> Any:
            return [np.array(row, np.float32) for row in model(list(texts), "document")]

    get_registry().register("one-role")(OneRole)
    cached = cache_embeddings("one-role", tmp_path).create()
    for _ in range(2):
        assert same(
            cached.compute_query_embeddings("once"), OneRole.create().compute_query_embeddings("once")
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["query"]


def test_a_function_is_the_originals_own_in_all_else(tmp_path: Path) -> None:
    cached = cache_embeddings("toy", tmp_path).create(scale=2.0)
    cached = cache_embeddings("toy", tmp_path).create(scale=2.0)
    assert isinstance(cached, LanceDBToy)
    assert cached.ndims() == DIM
    assert cached.safe_model_dump() == {"scale": 2.0}
    assert type(cached).__mro__[1] is LanceDBToy
    assert pickle.loads(pickle.dumps(cached)).safe_model_dump() == {"scale": 2.0}


def test_a_function_that_embeds_no_texts_is_refused(tmp_path: Path) -> None:
    class Images(EmbeddingFunction):
        def ndims(self) -> int:
            return DIM

        def compute_query_embeddings(self, *args: Any, **keywords: Any) -> Any:
            return []

        def compute_source_embeddings(self, *args: Any, **keywords: Any) -> Any:
            return []

    get_registry().register("images")(Images)
    with pytest.raises(TypeError, match="embeds texts"):
        cache_embeddings("images", tmp_path)
    with pytest.raises(KeyError):
        cache_embeddings("nobody", tmp_path)
