"""A merge stores what the caches hold, and a copy is the same cache: nothing is lost but by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import scipy.sparse
from comparing import bits_equal, flip_bit

from dejavec import EmbeddingCache
from dejavec.errors import (
    CorruptCacheError,
    DejavecError,
    ForeignDirectoryError,
    IdentityMismatchError,
    ReadOnlyCacheError,
    VectorsError,
)
from dejavec.keys.items import text_keys
from dejavec.transfer import pieces

CONTAINERS: tuple[Any, ...] = ("npy", "faiss-l2", "faiss-ip", "ragged", "sparse")
TEXTS = [f"text {number}" for number in range(90)]


def vectors(container: str, texts: list[str], shift: float = 0) -> Any:
    """Vectors of a kind that a container holds, each of which only its text has."""
    numbers = [int(text.split()[1]) + shift for text in texts]
    if container == "ragged":
        return [np.full((int(number) % 4, 3), number, np.float32) for number in numbers]
    dense = np.array([[number, 1, number % 3] for number in numbers], np.float32)
    return scipy.sparse.csr_array(dense) if container == "sparse" else dense


def values(vectors: Any) -> Any:
    return [item.tolist() for item in (vectors.toarray() if scipy.sparse.issparse(vectors) else vectors)]


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["one piece", "many"], autouse=True)
def piece_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many":
        monkeypatch.setattr(pieces, "_BYTES", 500)


@pytest.mark.parametrize("on_conflict", ["first", "last"])
def test_a_merge_has_the_vectors_of_all_and_counts_what_differs(
    tmp_path: Path, container: Any, on_conflict: Any
) -> None:
    def cache(name: str) -> EmbeddingCache:
        return EmbeddingCache(tmp_path / name, model="m@1", container=container, keep_texts=True)

    with cache("ours") as ours, cache("second") as second, cache("third") as third:
        ours.put(TEXTS[:40], vectors(container, TEXTS[:40]))
        second.put(TEXTS[30:60], vectors(container, TEXTS[30:60]))
        second.put(TEXTS[33:36], vectors(container, TEXTS[33:36], 8))
        third.put(TEXTS[50:], vectors(container, TEXTS[50:]))
        outcome = ours.merge(second, third, on_conflict=on_conflict)
        assert (outcome.added, outcome.equal, outcome.damaged) == (50, 7 + 10, 0)
        assert outcome.replaced == (3 if on_conflict == "last" else 0)
        assert outcome.conflict_texts == TEXTS[33:36]
        assert np.array_equal(outcome.conflicts, text_keys(TEXTS[33:36]))
        found, merged = ours.get(TEXTS)
        assert found.all()
        right = values(vectors(container, TEXTS))
        if on_conflict == "last":
            right[33:36] = values(vectors(container, TEXTS[33:36], 8))
        assert values(merged) == right
        kept = ours.texts().to_pylist()
        assert sorted(set(kept)) == sorted(TEXTS)
        again = ours.merge(second, third, on_conflict="first")
        assert (again.added, again.replaced) == (0, 0)
    with EmbeddingCache(tmp_path / "ours", mode="r") as ours:
        assert ours.verify()["problems"] == ours.verify()["damaged"] == []


def test_a_merge_into_an_empty_cache_has_the_kind_of_the_other(tmp_path: Path, container: Any) -> None:
    with EmbeddingCache(tmp_path / "a", container=container) as source:
        source.put(TEXTS, vectors(container, TEXTS))
        with EmbeddingCache(tmp_path / "b") as target:
            assert target.merge(source).added == 90
            assert values(target.get(TEXTS)[1]) == values(source.get(TEXTS)[1])
            assert target.container == (container if container in ("ragged", "sparse") else "npy")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dense_containers_are_merged_into_each_other(tmp_path: Path, dtype: Any) -> None:
    made = vectors("npy", TEXTS).astype(dtype)
    with (
        EmbeddingCache(tmp_path / "npy") as plain,
        EmbeddingCache(tmp_path / "faiss", container="faiss-ip") as flat,
        EmbeddingCache(tmp_path / "new") as new,
    ):
        plain.put(TEXTS[:60], made[:60])
        flat.put(TEXTS[30:], made[30:])
        assert plain.merge(flat).equal == flat.merge(plain).equal - 30 == 30
        new.merge(flat)
        new.put(["other 1"], made[:1])
        for cache in (plain, flat, new):
            assert bits_equal(cache.get(TEXTS)[1], made)


def test_only_caches_of_one_identity_and_form_are_merged(tmp_path: Path) -> None:
    with (
        EmbeddingCache(tmp_path / "a", model="m@1", role="query") as ours,
        EmbeddingCache(tmp_path / "b", model="m@2") as other,
        EmbeddingCache(tmp_path / "c", model="m@1", role="query") as double,
    ):
        ours.put(["a"], np.ones((1, 3), np.float32))
        other.put(["b"], np.ones((1, 3), np.float32))
        double.put(["b"], np.ones((1, 3), np.float64))
        message = (
            r'b: expected vectors of model m@1 and role "query", as .*a has, found model m@2 and no role; '
        )
        with pytest.raises(IdentityMismatchError, match=message):
            ours.merge(double, other)
        message = "expected dense vectors of 3 numbers, float32, as .*a has, found dense .* float64; "
        with pytest.raises(VectorsError, match=message):
            ours.merge(double)
        with pytest.raises(ValueError, match="expected on_conflict to be one of"):
            ours.merge(double, on_conflict="newest")  # type: ignore[arg-type]
        assert len(ours) == 1
    with (
        EmbeddingCache(tmp_path / "a", mode="r") as ours,
        EmbeddingCache(tmp_path / "d", model="m@1", role="query") as more,
    ):
        more.put(["z"], np.ones((1, 3), np.float32))
        with pytest.raises(ReadOnlyCacheError):
            ours.merge(more)


def test_damaged_rows_are_neither_merged_nor_kept_from_being_replaced(tmp_path: Path) -> None:
    ours, other = EmbeddingCache(tmp_path / "a"), EmbeddingCache(tmp_path / "b")
    ours.put(TEXTS[:20], vectors("npy", TEXTS[:20]))
    other.put(TEXTS[:20], vectors("npy", TEXTS[:20]))
    other.put(TEXTS[20:22], vectors("npy", TEXTS[20:22]))
    flip_bit(tmp_path / "a" / "vectors.npy", 128 + 5 * 12)
    flip_bit(tmp_path / "b" / "vectors.npy", 128 + 20 * 12)
    outcome = ours.merge(other)
    assert (outcome.added, outcome.equal, outcome.replaced, outcome.damaged) == (1, 19, 1, 1)
    found, merged = ours.get(TEXTS[:22])
    assert found.tolist() == [True] * 20 + [False, True]
    assert values(merged[:20]) == values(vectors("npy", TEXTS[:20]))


def test_texts_do_not_come_to_a_cache_that_keeps_none(tmp_path: Path) -> None:
    with (
        EmbeddingCache(tmp_path / "a", keep_texts=True) as with_texts,
        EmbeddingCache(tmp_path / "b") as without,
        EmbeddingCache(tmp_path / "c", keep_texts=True) as new,
    ):
        with_texts.put(TEXTS[:3], vectors("npy", TEXTS[:3]))
        without.put(TEXTS[:1], vectors("npy", TEXTS[:1]))
        assert without.merge(with_texts).conflict_texts == []
        assert without.texts().to_pylist() == [None] * 3
        new.merge(without)
        assert new.texts().to_pylist() == [None] * 3
        new.merge(with_texts)
        assert new.texts().to_pylist() == TEXTS[:3]
        without.put(TEXTS[1:2], vectors("npy", TEXTS[5:6]))
        assert with_texts.merge(without).conflict_texts == [None]


@pytest.mark.parametrize("named", [{}, {"model": "m@1", "confirm": 4}], ids=["no model", "a model"])
def test_after_a_merge_of_what_two_functions_made_each_is_asked(
    tmp_path: Path, named: dict[str, Any]
) -> None:
    def right(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float32)

    def wrong(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 2] for text in texts], np.float32)

    with EmbeddingCache(tmp_path / "a", **named) as ours, EmbeddingCache(tmp_path / "b", **named) as other:
        ours.encode(TEXTS[:20], right)
        other.encode(TEXTS[20:40], wrong)
        ours.merge(other)
    with EmbeddingCache(tmp_path / "a", **named) as ours:
        ours.encode(TEXTS[:20], right)
        with pytest.raises(IdentityMismatchError):
            ours.encode(TEXTS[20:40], right)
    with EmbeddingCache(tmp_path / "c", **named) as one, EmbeddingCache(tmp_path / "d", **named) as two:
        one.encode(TEXTS[:20], right)
        two.merge(one)
        assert not (two._store.proofs.is_mixed())
        two.merge(one)
        assert not (two._store.proofs.is_mixed())


# Copies


def test_a_copy_is_the_same_cache_without_what_was_replaced(tmp_path: Path, container: Any) -> None:
    with EmbeddingCache(tmp_path / "a", model="m@1", container=container, keep_texts=True) as source:
        source.put(TEXTS, vectors(container, TEXTS, 4))
        source.put(TEXTS[10:], vectors(container, TEXTS[10:]))
        assert source.copy_to(tmp_path / "b" / "c") == 90
        assert source.copy_to(str(tmp_path / "no texts"), texts=False) == 90
        with EmbeddingCache(tmp_path / "b" / "c", model="m@1") as copy:
            assert (copy.container, copy.dtype, copy.identity) == (container, source.dtype, source.identity)
            assert type(copy.get(TEXTS)[1]) is type(source.get(TEXTS)[1])
            assert values(copy.get(TEXTS)[1]) == values(source.get(TEXTS)[1])
            assert sorted(copy.texts().to_pylist()) == sorted(TEXTS)
            assert copy.stats()["rows"] == 90
            assert copy.verify()["problems"] == copy.verify()["damaged"] == []
    assert not list((tmp_path / "no texts").glob("texts*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "no texts"]


def test_a_copy_in_another_container_is_read_by_faiss(tmp_path: Path) -> None:
    half = vectors("npy", TEXTS).astype(np.float16)
    with EmbeddingCache(tmp_path / "a", model="m@1") as source:
        source.put(TEXTS, half)
        source.copy_to(tmp_path / "b", container="faiss-ip")
    index = faiss.read_index(str(tmp_path / "b" / "vectors.faiss"))
    assert np.array_equal(index.reconstruct_n(0, 90), half)
    with EmbeddingCache(tmp_path / "b", model="m@1") as copy:
        copy.copy_to(tmp_path / "c", container="npy")
    with EmbeddingCache(tmp_path / "c", model="m@1") as back:
        assert (back.dtype, back.container) == (np.dtype(np.float16), "npy")
        back.put(["other 1"], half[:1])
        assert bits_equal(back.get(TEXTS)[1], half)


def test_rounding_is_named_in_the_call_and_in_the_identity(tmp_path: Path, container: Any) -> None:
    with EmbeddingCache(tmp_path / "a", model="m@1", container=container) as source:
        source.put(TEXTS, vectors(container, TEXTS))
        source.copy_to(tmp_path / "b", dtype="float16")
        with pytest.raises(IdentityMismatchError, match='no store_dtype, found store_dtype "float16"'):
            EmbeddingCache(tmp_path / "b", model="m@1")
        with EmbeddingCache(tmp_path / "b", model="m@1", store_dtype="float16") as copy:
            assert values(copy.get(TEXTS)[1]) == values(source.get(TEXTS)[1])  # Halves hold these.
            assert copy.put(["text 91"], vectors(container, ["text 91"])) == 1
            with pytest.raises(VectorsError, match="expected vectors that were not rounded"):
                copy.copy_to(tmp_path / "c", dtype="float32")
            assert copy.copy_to(tmp_path / "c") == 91


def test_doubles_become_singles_if_that_is_said(tmp_path: Path) -> None:
    doubles = np.random.default_rng(0).standard_normal((90, 3))
    with EmbeddingCache(tmp_path / "a") as source:
        source.put(TEXTS, doubles)
        source.copy_to(tmp_path / "b", dtype="float32", container="faiss-l2")
        with pytest.raises(VectorsError, match="expected vectors that float32 holds exactly"):
            source.copy_to(tmp_path / "c", container="faiss-l2")
    with EmbeddingCache(tmp_path / "b") as copy:
        assert bits_equal(copy.get(TEXTS)[1], doubles.astype(np.float32))
    assert not (tmp_path / "c").exists()


def test_a_function_that_was_proven_is_not_asked_again_by_a_copy(tmp_path: Path) -> None:
    asked: list[int] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        return vectors("npy", texts)

    with EmbeddingCache(tmp_path / "a") as source:
        source.encode(TEXTS, embed)
        source.copy_to(tmp_path / "b")
    asked.clear()
    with EmbeddingCache(tmp_path / "b") as copy:
        copy.encode(TEXTS, embed)
    with EmbeddingCache(tmp_path / "a") as source:
        source.encode(TEXTS, embed)
    assert len(set(asked)) <= 1  # As often as the first cache asks.


@pytest.mark.parametrize("what", ["a cache", "a file", "itself", "no vectors", "damage", "another kind"])
def test_what_cannot_be_copied_leaves_nothing_behind(tmp_path: Path, what: str) -> None:
    with EmbeddingCache(tmp_path / "a") as source:
        if what != "no vectors":
            source.put(TEXTS, vectors("npy", TEXTS))
        path = tmp_path / ("a" if what == "itself" else "b")
        if what == "a cache":
            EmbeddingCache(path).put(["x"], [[1.0]])
        if what == "a file":
            path.write_text("mine")
        if what == "damage":
            flip_bit(tmp_path / "a" / "vectors.npy", 128 + 3 * 12)
        options: dict[str, Any] = {"container": "ragged"} if what == "another kind" else {}
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises((ForeignDirectoryError, VectorsError, CorruptCacheError)) as raised:
            source.copy_to(path, **options)
        assert isinstance(raised.value, DejavecError)
        assert "\n" not in str(raised.value)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_that_is_killed_is_not_there(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "a") as source:
        source.put(TEXTS, vectors("npy", TEXTS))
    script = """
import os, sys
from dejavec import EmbeddingCache
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.transfer import pieces
pieces._BYTES = 500
append, calls = KeyedCache.append, []
def dies(*arguments):
    calls.append(append(*arguments))
    if len(calls) == 3:
        os.kill(os.getpid(), 9)
    return calls[-1]
KeyedCache.append = dies
EmbeddingCache(sys.argv[1]).copy_to(sys.argv[2])
"""
    arguments = [sys.executable, "-c", script, str(tmp_path / "a"), str(tmp_path / "b")]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert not (tmp_path / "b").exists()
    with EmbeddingCache(tmp_path / "a") as source:
        assert source.copy_to(tmp_path / "b") == 90
