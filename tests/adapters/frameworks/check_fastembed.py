"""FastEmbed: generators that stay lazy, roles, batches, and sparse vectors of other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastembed import SparseEmbedding
from subjects import FastEmbedSparseToy, FastEmbedToy
from toys import GIVEN, given, same

from dejavec.fastembed import CachedSparseTextEmbedding, CachedTextEmbedding


def test_nothing_is_read_or_embedded_before_it_is_needed(tmp_path: Path) -> None:
    read: list[str] = []

    def texts() -> Iterator[str]:
        for number in range(100):
            read.append(f"text {number}")
            yield read[-1]

    given()
    vectors = CachedTextEmbedding(FastEmbedToy(), tmp_path).embed(texts(), batch_size=8)
    assert read == given() == []
    first = next(iter(vectors))
    assert same(first, next(iter(FastEmbedToy().embed(["text 0"]))))
    assert len(read) == 8


def test_the_original_gets_its_own_batches(tmp_path: Path) -> None:
    given()
    texts = [f"text {number}" for number in range(100)]
    list(CachedTextEmbedding(FastEmbedToy(), tmp_path).embed(texts, batch_size=40))
    sizes = []
    while not GIVEN.empty():
        sizes.append(len(GIVEN.get()))
    assert sizes == [40, 40, 20]


@pytest.mark.parametrize("method", ["embed", "passage_embed", "query_embed"])
def test_each_method_has_vectors_of_its_own(tmp_path: Path, method: str) -> None:
    plain, cached = FastEmbedToy(), CachedTextEmbedding(FastEmbedToy(), tmp_path)
    for name in ("embed", "passage_embed", "query_embed"):
        list(getattr(cached, name)(["once"]))
    for texts in (["once", "again"], "once"):
        expected = list(getattr(plain, method)(texts))
        given()
        assert same(list(getattr(cached, method)(texts)), expected)
        assert given() in (["again"], [])


def test_parameters_of_a_call_are_part_of_the_identity(tmp_path: Path) -> None:
    plain, cached = FastEmbedToy(), CachedTextEmbedding(FastEmbedToy(), tmp_path)
    list(cached.embed(["once"]))
    with pytest.warns(match="these vectors go to"):
        found = list(cached.embed(["once"], task="cluster"))
    assert same(found, list(plain.embed(["once"], task="cluster")))
    assert same(list(cached.embed(["once"], parallel=2)), list(plain.embed(["once"])))
    assert same(list(cached.embed(["once"], task=object)), list(plain.embed(["once"], task=object)))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_sparse_vectors_of_any_index_dtype_come_back(tmp_path: Path, dtype: Any) -> None:
    class Sparse(FastEmbedSparseToy):
        def form(self, row: list[float]) -> Any:
            return SparseEmbedding(values=np.array([0.0, 0.5], np.float32), indices=np.array([7, 3], dtype))

    cached = CachedSparseTextEmbedding(Sparse(), tmp_path)
    for _ in range(2):
        (found,) = cached.embed(["once"])
        assert same(found.indices, np.array([7, 3], dtype))
        assert same(found.values, np.array([0.0, 0.5], np.float32))


def test_it_is_the_original_in_all_else(tmp_path: Path) -> None:
    cached = CachedTextEmbedding(FastEmbedToy(), tmp_path)
    assert cached.model_name == "toy"
