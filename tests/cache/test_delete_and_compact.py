"""Deleted texts are missing for everyone, and compaction takes their bytes out of every file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dejavec import EmbeddingCache
from dejavec.errors import ReadOnlyCacheError

TEXTS = ["one", "two", "three", "four"]


def vectors_of(texts: list[str], version: int = 0) -> np.ndarray[Any, Any]:
    """Vectors (n, 8) of random numbers: others for another text or version."""
    return np.stack(
        [np.random.default_rng([version, *text.encode()]).random(8, np.float32) for text in texts]
    )


def test_a_deleted_text_is_missing_for_every_object_and_process(tmp_path: Path) -> None:
    with (
        EmbeddingCache(tmp_path / "c", keep_texts=True) as cache,
        EmbeddingCache(tmp_path / "c") as other,
    ):
        cache.put(TEXTS, vectors_of(TEXTS))
        cache.put(["two"], vectors_of(["two"], 1))
        with EmbeddingCache(tmp_path / "c", mode="r") as reader:
            assert "two" in other
            assert "two" in reader
            assert other.delete(["two", "two", "never seen"]) == 1
            for one in (cache, other, reader):
                assert "two" not in one
                assert len(one) == 3
                assert one.get(["two"])[0].tolist() == [False]
                assert one.get(TEXTS)[0].tolist() == [True, False, True, True]
                assert one.texts().to_pylist() == ["one", None, "three", "four", None]
        code = f"from dejavec import EmbeddingCache; print('two' in EmbeddingCache({str(tmp_path / 'c')!r}))"
        assert (
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"False\n"
        )
        assert other.delete(["two"]) == 0


def test_a_deleted_text_is_encoded_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def embed(texts: list[str]) -> np.ndarray[Any, Any]:
        calls.extend(texts)
        return vectors_of(texts)

    with EmbeddingCache(tmp_path / "c", model="toy@1") as cache:
        cache.encode(TEXTS, embed)
        cache.delete(["one", "three"])
        calls.clear()
        assert np.array_equal(cache.encode(TEXTS, embed), vectors_of(TEXTS))
        assert sorted(calls) == ["one", "three"]
        assert cache.stats()["rows"] == 6
        assert len(cache) == 4


def test_a_search_finds_no_deleted_vector(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "c") as cache, EmbeddingCache(tmp_path / "c") as other:
        cache.put(TEXTS, vectors_of(TEXTS))
        cache.build_index("Flat")
        cache.delete(["two"])
        other.refresh()
        for one in (cache, other):
            assert 1 not in one.search(vectors_of(["two"]), 4)[1]
            assert 1 not in one.build_index("Flat").search(vectors_of(["two"]), 4)[1]


def test_nothing_is_deleted_where_nothing_can_be(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "none") as cache:
        assert cache.delete(["one"]) == 0
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))
    with EmbeddingCache(tmp_path / "c", mode="r") as cache, pytest.raises(ReadOnlyCacheError):
        cache.delete(["one"])
