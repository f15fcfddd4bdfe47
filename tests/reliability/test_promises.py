"""Cached equals uncached, bit for bit, whatever was called before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from toy_model import ToyModel

from dejavec import EmbeddingCache, Plan
from dejavec.storage import handle

pytestmark = pytest.mark.usefixtures("container")

TEXTS = ["", "a", "b", "\0", "a\0", "\udc80", "grüße", "long " * 300, "c", "d", "e", "f"]
DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, "bfloat16", "float16", "float32"]

texts = st.lists(st.sampled_from(TEXTS), max_size=10)
steps = st.one_of(
    st.tuples(st.sampled_from(["encode", "get", "put", "renew", "elsewhere"]), texts),
    st.tuples(st.sampled_from(["reopen", "refresh", "sync"]), st.just([])),
)


@settings(deadline=None, max_examples=80)
@given(
    sequence=st.lists(steps, max_size=8),
    dtype=st.sampled_from(DTYPES),
    dim=st.sampled_from([1, 3, 8]),
    chunk_rows=st.sampled_from([1, 3, 100]),
    durability=st.sampled_from(["close", "close", "commit"]),
)
def test_any_sequence_of_calls_equals_the_uncached_result(
    *,
    sequence: list[tuple[str, list[str]]],
    dtype: Any,
    dim: int,
    chunk_rows: int,
    durability: Any,
) -> None:
    assume(handle.DEFAULT_CONTAINER == "npy" or dtype is not np.float64)
    with tempfile.TemporaryDirectory() as directory:
        options = {"model": "toy@1", "chunk_rows": chunk_rows, "durability": durability}
        follow(sequence, Path(directory) / "cache", options, ToyModel(dim, dtype))


def follow(sequence: list[tuple[str, list[str]]], path: Path, options: dict[str, Any], model: Any) -> None:
    """Make a sequence of calls on a cache, and compare each with a set of the texts that it must hold."""

    def equal(vectors: Any) -> bool:
        # An empty call knows the width only if the cache has seen an array, which may have been an empty one.
        return bits_equal(vectors, expected) if held or items else vectors.shape in ((0, 0), expected.shape)

    cache = EmbeddingCache(path, **options)
    held: set[str] = set()
    for name, items in sequence:
        expected = model.vectors(items)
        missing = [text for text in dict.fromkeys(items) if text not in held]
        model.calls.clear()
        if name == "encode":
            plan = cache.plan(items)
            assert (plan.misses, plan.hits) == (len(missing), sum(text in held for text in items))
            assert plan.items == plan.hits + plan.misses + plan.duplicates
            assert equal(cache.encode(items, model))
            assert model.encoded == missing
            held.update(items)
        elif name == "renew":
            with EmbeddingCache(path, refresh=True, **options) as renewing:
                assert equal(renewing.encode(items, model))
            assert model.encoded == list(dict.fromkeys(items))
            held.update(items)
            cache.refresh()
        elif name == "elsewhere":
            with EmbeddingCache(path, **options) as other:
                other.encode(items, model)
            held.update(items)
            cache.refresh()
        elif name == "put":
            assert cache.put(items, expected) == len(missing)
            held.update(items)
        elif name == "get":
            found, vectors = cache.get(items)
            assert found.tolist() == [text in held for text in items]
            if held:
                assert bits_equal(vectors[found], expected[found])
                assert not vectors[~found].any()
        elif name == "reopen":
            cache.close()
            cache = EmbeddingCache(path, **options)
        else:
            getattr(cache, name)()
        assert len(cache) == len(held)
        assert all((text in cache) == (text in held) for text in TEXTS)
    assert cache.verify()["damaged"] == []
    cache.close()


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, marks=[pytest.mark.npy_only] * (dtype is np.float64)) for dtype in DTYPES],
)
def test_the_second_run_equals_the_first_and_asks_no_model(tmp_path: Path, dtype: Any) -> None:
    model = ToyModel(16, dtype)
    texts = [f"text {number % 700}" for number in range(1_000)]
    uncached = model.vectors(texts)
    with EmbeddingCache(tmp_path / "cache", model="toy@1", chunk_rows=128) as cache:
        assert bits_equal(cache.encode(texts, model), uncached)
    assert len(model.encoded) == 700
    with EmbeddingCache(tmp_path / "cache", model="toy@1", miss="raise") as cache:
        assert bits_equal(cache.encode(texts, None), uncached)  # type: ignore[arg-type]
        assert cache.plan(texts) == Plan(items=1_000, hits=1_000, misses=0, duplicates=0, bytes=0)


def test_every_bit_pattern_of_a_float_comes_back(tmp_path: Path) -> None:
    bits = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    finite = bits[np.isfinite(bits).all(axis=1)]
    texts = [str(number) for number in range(len(finite))]
    with EmbeddingCache(tmp_path / "cache") as cache:
        cache.put(texts, finite)
        assert bits_equal(cache.get(texts)[1], finite)


def test_texts_that_differ_in_one_character_never_share_a_vector(tmp_path: Path, model: Any) -> None:
    texts = ["a", "a ", " a", "A", "a\0", "\0a", "á", "a\u0301", "", "\ufeffa", "a\n", "a\r\n"]
    with EmbeddingCache(tmp_path / "cache") as cache:
        for text in texts:
            assert bits_equal(cache.encode([text], model), model.vectors([text]))
        assert len(cache) == len(texts)
