"""Search finds what FAISS finds among the same vectors, exactly or with the recall of the same index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from comparing import flip_bit
from threadpoolctl import threadpool_limits

import dejavec
from dejavec import EmbeddingCache, FaissCache, _core
from dejavec.search.flat import flat_index

DIM = 8
QUERIES = np.random.default_rng(7).standard_normal((30, DIM)).astype(np.float32)
"""More than 20, from which on FAISS multiplies matrices."""

METRICS: tuple[Any, ...] = ("cosine", "ip", "l2")

FILES = [("npy", np.float32), ("npy", np.float16), ("faiss-l2", np.float32), ("faiss-ip", np.float32)]


def run(script: str, *arguments: object) -> str:
    """Run a script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of k-means wait for each other longer than they work on a handful of vectors."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        yield
    faiss.omp_set_num_threads(threads)


def random(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = random(50, dim, 1)
    return centres[generator.integers(0, 50, count)] + random(count, dim, seed) / 3


def names(start: int, end: int) -> list[str]:
    return [f"text {number}" for number in range(start, end)]


def expected(
    vectors: np.ndarray, live: np.ndarray, metric: str, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a flat index of the live rows alone finds, by their row numbers."""
    flat = faiss.IndexFlatL2(DIM) if metric == "l2" else faiss.IndexFlatIP(DIM)
    index = faiss.IndexIDMap(flat)
    index.add_with_ids(np.ascontiguousarray(vectors[live], np.float32), np.flatnonzero(live))
    return index.search(queries, k)


def check(cache: EmbeddingCache, live: np.ndarray) -> None:
    """Search with both metrics and compare with a flat index over what ``np.load`` or FAISS reads."""
    cache.sync()
    if cache.container == "npy":
        vectors = np.load(cache.path / "vectors.npy")
    else:
        index = faiss.read_index(str(cache.path / "vectors.faiss"))
        vectors = index.reconstruct_n(0, index.ntotal)
    assert len(vectors) == len(live)
    for metric in ("l2", "ip"):
        found = cache.search(QUERIES, 5, metric=metric)
        right_distances, right_rows = expected(vectors, live, metric, QUERIES, 5)
        assert np.array_equal(found.rows, right_rows)
        np.testing.assert_allclose(found.distances, right_distances, rtol=1e-4, atol=1e-4)
    default = "ip" if cache.container == "faiss-ip" else "l2"
    assert np.array_equal(cache.search(QUERIES, 5).rows, expected(vectors, live, default, QUERIES, 5)[1])


@pytest.fixture(params=FILES, ids=lambda file: f"{file[0]}-{np.dtype(file[1]).name}")
def file(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A container, and the dtype of the vectors in it."""
    return request.param


@pytest.mark.parametrize("count", [300, 70_000], ids=["delta alone", "snapshot and delta"])
def test_search_finds_what_a_flat_index_of_the_newest_rows_finds(
    file: tuple[Any, Any], count: int, tmp_path: Path
) -> None:
    container, dtype = file
    with EmbeddingCache(tmp_path, container=container, durability="close") as cache:
        cache.put(names(0, 200), random(200).astype(dtype))
        cache.put(names(50, 80), random(30, seed=1).astype(dtype))
        cache.put([*names(200, count), "text 0"], random(count - 199, seed=2).astype(dtype))
        cache.sync()
        cache.put(names(100, 110), random(10, seed=3).astype(dtype))
    with EmbeddingCache(tmp_path) as cache:
        assert (cache.stats()["snapshot_rows"] > 0) == (count > 300)
        live = np.ones(cache.stats()["rows"], np.bool_)
        live[[0, *range(50, 80), *range(100, 110)]] = False
        check(cache, live)


def test_rows_given_up_by_a_repair_are_never_found(file: tuple[Any, Any], tmp_path: Path) -> None:
    container, dtype = file
    with EmbeddingCache(tmp_path, container=container) as cache:
        cache.put(names(0, 50), random(50).astype(dtype))
        cache.put(["text 9"], random(1, seed=1).astype(dtype))
        name = "vectors.npy" if container == "npy" else "vectors.faiss"
        start, row_bytes = (128 if container == "npy" else 45), DIM * np.dtype(dtype).itemsize
    for row in (20, 50):
        flip_bit(tmp_path / name, start + row * row_bytes + 1)
    _core.repair(str(tmp_path), lock_timeout=10.0)
    with EmbeddingCache(tmp_path) as cache:
        live = np.ones(51, np.bool_)
        live[[9, 20, 50]] = False
        check(cache, live)


def test_equal_vectors_are_all_found(file: tuple[Any, Any], tmp_path: Path) -> None:
    vectors = random(10).astype(file[1])
    with EmbeddingCache(tmp_path, container=file[0]) as cache:
        cache.put(names(0, 20), np.concatenate([vectors, vectors]))
        found = cache.search(vectors[:3], 2, metric="l2")
        assert np.sort(found.rows).tolist() == [[0, 10], [1, 11], [2, 12]]
        assert not found.distances.any()


def test_where_there_are_fewer_rows_than_asked_for_the_rest_is_minus_one(
    file: tuple[Any, Any], tmp_path: Path
) -> None:
    with EmbeddingCache(tmp_path, container=file[0]) as cache:
        for rows in (0, 3):
            if rows:
                cache.put(names(0, 3), random(3).astype(file[1]))
            for metric in METRICS:
                found = cache.search(QUERIES[:2], 7, metric=metric)
                assert found.distances.shape == found.rows.shape == (2, 7)
                assert np.sort(found.rows).tolist() == [[-1] * (7 - rows) + list(range(rows))] * 2
                assert np.array_equal(np.isinf(found.distances), found.rows < 0)
        assert cache.search(np.empty((0, DIM), np.float32), 2).rows.shape == (0, 2)


def test_queries_come_in_every_form_that_vectors_do(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 20), random(20))
        right = cache.search(QUERIES, 3).rows
        for queries in (
            QUERIES.tolist(),
            np.asfortranarray(QUERIES),
            QUERIES.astype(np.float64),
            torch.from_numpy(QUERIES).requires_grad_(),
        ):
            assert np.array_equal(cache.search(queries, 3).rows, right)
        half = torch.from_numpy(QUERIES).to(torch.bfloat16)
        assert np.array_equal(cache.search(half, 3).rows, cache.search(half.float(), 3).rows)


@pytest.mark.parametrize(
    ("queries", "k", "metric", "message"),
    [
        (QUERIES[0], 1, None, r"the queries: expected shape \(rows, dim\), found shape \(8,\)"),
        (QUERIES[:, :5], 1, None, "the queries: expected dimension 8, found 5"),
        ([["a"]], 1, None, "the queries: expected numbers"),
        ([[1.0], [1.0, 2.0]], 1, None, "the queries: expected rows of one length"),
        (QUERIES, 0, None, "expected k of at least 1, found 0"),
        (QUERIES, 1, "dot", r"expected metric to be one of \('cosine', 'ip', 'l2', 'hamming'\), found 'dot'"),
        (QUERIES, 1, "hamming", r".*: expected packed bits \(uint8 or int8\), .* found vectors of float32; "),
        (QUERIES * np.nan, 1, None, "the queries: expected finite numbers, found .* at position 0"),
        (QUERIES.astype(np.float64) * 1e300, 1, None, "the queries: expected finite numbers"),
    ],
)
def test_a_bad_query_is_refused_in_one_sentence(
    queries: Any, k: int, metric: Any, message: str, tmp_path: Path
) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 20), random(20))
        with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
            cache.search(queries, k, metric=metric)


def cosines(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The cosine of each query with each vector, in double precision; 0 for a vector of zeros."""
    one, other = queries.astype(np.float64), vectors.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    return np.divide(one @ other.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


@pytest.mark.parametrize("count", [1, len(QUERIES), 1_100], ids=["one query", "some", "more than at a time"])
@pytest.mark.parametrize(
    ("container", "dtype"), [*FILES, ("npy", np.float64), ("npy", np.int8), ("npy", np.uint8)]
)
def test_the_cosine_is_that_of_the_newest_vectors_whatever_their_length(
    container: Any, dtype: Any, count: int, tmp_path: Path
) -> None:
    vectors = (np.abs(random(500)) * np.geomspace(1, 30, 500)[:, None]).astype(dtype)
    vectors[7] = 0
    queries = random(count, seed=8)
    with EmbeddingCache(tmp_path, container=container) as cache:
        cache.put(names(0, 500), vectors)
        cache.put(["text 3"], vectors[:1] + np.ones(1, dtype))
        found = cache.search(queries, 5, metric="cosine")
        right = cosines(np.array(cache.vectors), queries)
        right[:, 3] = -np.inf
    nearest = np.sort(right, axis=1)[:, :-6:-1]
    np.testing.assert_allclose(found.distances, nearest, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(right, found.rows, 1), nearest, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.float16])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_vectors_of_every_dtype_are_searched_as_float32(tmp_path: Path, dtype: Any, metric: Any) -> None:
    vectors = (random(40) * 30).astype(dtype)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 40), vectors)
        cache.put(["text 3"], vectors[:1] + np.ones(1, dtype))
        live = np.ones(41, np.bool_)
        live[3] = False
        right = expected(np.array(cache.vectors), live, metric, QUERIES, 3)
        for found in (
            cache.search(QUERIES, 3, metric=metric),
            cache.build_index("Flat", metric=metric).search(QUERIES, 3),
        ):
            assert np.array_equal(found.rows, right[1])
            np.testing.assert_allclose(found.distances, right[0], rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_packed_bits_are_found_by_the_number_of_different_ones(tmp_path: Path, dtype: Any) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (300, 64), np.uint8)
    packed = np.packbits(bits, axis=1)
    stored = packed if dtype == np.uint8 else (packed.astype(np.int16) - 128).astype(np.int8)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 300), stored)
        cache.put(["text 5"], stored[:1])
        right = (bits[:20, None] != bits).sum(axis=2)
        right[:, 5] = 99
        for found in (
            cache.search(stored[:20], 4, metric="hamming"),
            cache.build_index("BFlat", metric="hamming").search(stored[:20], 4),
            cache.build_index("BFlat", metric="hamming").search(stored[:20], 4),  # read from its file
        ):
            assert found.distances.tolist() == np.sort(np.c_[right, right[:, 0]], axis=1)[:, :4].tolist()
            assert 5 not in found.rows
        with pytest.raises(dejavec.errors.VectorsError, match="the queries: expected packed bits of"):
            cache.search(bits[:1, :8].astype(np.float32), 1, metric="hamming")


def test_an_index_of_binary_lists_is_trained_and_extended(tmp_path: Path) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (600, 8), np.uint8)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 500), packed[:500])
        cache.build_index("BIVF4", metric="hamming")
        cache.put(names(500, 600), packed[500:])
        built = cache.build_index("BIVF4", metric="hamming")
        built.index.index.nprobe = 4
        assert built.search(packed[550:560], 1).rows[:, 0].tolist() == list(range(550, 560))
        assert len(index_files(tmp_path)) == 1


def test_a_built_index_finds_by_the_cosine_and_gives_texts(tmp_path: Path) -> None:
    vectors = random(200) * np.geomspace(1, 50, 200, dtype=np.float32)[:, None]
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 200), vectors)
        exact = cache.search(QUERIES * 7, 3, metric="cosine", texts=names(0, 200)[::-1])
        built = cache.build_index("Flat", metric="cosine").search(QUERIES, 3, texts=names(0, 200)[::-1])
        assert np.array_equal(exact.rows, built.rows)
        assert exact.texts == built.texts
        assert np.array_equal(np.asarray(exact.positions), np.asarray(built.positions))
        np.testing.assert_allclose(exact.distances, built.distances, atol=1e-5)
        more = cache.build_index("Flat", metric="cosine").search(QUERIES, 300)
        assert (more.rows[:, 200:] == -1).all()
        assert np.isneginf(more.distances[:, 200:]).all()


def test_an_index_of_a_cache_that_was_replaced_says_so(cache: EmbeddingCache, tmp_path: Path) -> None:
    cache.sync()
    built = cache.build_index("Flat")
    with EmbeddingCache(tmp_path / "other") as other:
        other.put(names(0, 500), random(500, seed=4))
    shutil.rmtree(cache.path)
    shutil.move(tmp_path / "other", cache.path)
    cache.refresh()
    with pytest.raises(dejavec.errors.VectorsError, match="another one in its place"):
        built.search(QUERIES, 1)


def test_items_are_found_by_their_keys(tmp_path: Path) -> None:
    cache = FaissCache(tmp_path, metric="ip")
    assert cache.search_items(QUERIES[:1], 2)[1].tolist() == [["", ""]]
    cache.add(["a", {"text": "b"}], np.eye(2, DIM, dtype=np.float32))
    cache.add("a", np.eye(3, DIM, dtype=np.float32)[2])
    distances, keys = cache.search_items(np.eye(3, DIM, dtype=np.float32)[1:], 3)
    by_row = {row: key for key, row in cache.hash_to_index.items()}
    assert keys[:, 0].tolist() == [by_row[1], by_row[2]]
    assert keys[:, 2].tolist() == ["", ""]
    assert distances[:, 0].tolist() == [1, 1]


def test_vectors_that_lie_below_are_named_and_not_searched_for_in_vain(tmp_path: Path) -> None:
    FaissCache(tmp_path / "query").add("a", QUERIES[0])
    above = FaissCache(tmp_path)
    for look in (
        lambda: above.index,
        lambda: above.search(QUERIES, 1),
        lambda: above.search_items(QUERIES, 1),
        lambda: above.build_index("Flat"),
    ):
        with pytest.raises(dejavec.errors.CacheNotFoundError, match="query below it"):
            look()


# The index over the file


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_index_is_the_file_without_a_copy(metric: Any, tmp_path: Path) -> None:
    cache = FaissCache(tmp_path, metric=metric)
    assert cache.index is None
    cache.add(names(0, 100), random(100))
    index = cache.index
    cache.save()
    saved = faiss.read_index(str(tmp_path / "vectors.faiss"))
    assert type(index) is type(saved)  # type: ignore[comparison-overlap]
    assert (index.ntotal, index.d, index.metric_type) == (saved.ntotal, saved.d, saved.metric_type)
    for ours, theirs in zip(index.search(QUERIES, 4), saved.search(QUERIES, 4), strict=True):
        assert np.array_equal(ours, theirs)
    assert faiss.serialize_index(index).tobytes() == (tmp_path / "vectors.faiss").read_bytes()
    assert not index.codes.is_owned
    cache.add("more", random(1, seed=5)[0])
    assert (index.ntotal, cache.index.ntotal) == (100, 101)


def test_an_index_outlives_its_cache_its_files_and_a_fork(tmp_path: Path) -> None:
    run(
        """
        import gc, os, shutil, sys
        import faiss, numpy as np
        from dejavec import FaissCache
        faiss.omp_set_num_threads(1)  # FAISS's threads, like all threads, are not there in a forked child.
        vectors = np.random.default_rng(0).standard_normal((5_000, 64)).astype(np.float32)
        right = np.arange(0, 5_000, 50)
        cache = FaissCache(sys.argv[1])
        cache.add([str(number) for number in range(5_000)], vectors)
        index = cache.index
        cache.add("more", vectors[0] + 1)
        cache.close()
        child = os.fork()
        if child == 0:
            found = index.search(vectors[right], 1)[1][:, 0].tolist() == right.tolist()
            found &= cache.load().search(vectors[:1] + 1, 1).rows.tolist() == [[5_000]]
            os._exit(0 if found else 1)
        assert os.waitpid(child, 0)[1] == 0
        del cache
        shutil.rmtree(sys.argv[1])
        gc.collect()
        # What was mapped would be mapped by these, had it been given back.
        others = [np.zeros((5_000, 64), np.float32) for _ in range(4)]
        assert index.search(vectors[right], 1)[1][:, 0].tolist() == right.tolist()
        """,
        tmp_path / "cache",
    )


def test_an_index_keeps_the_memory_of_its_vectors() -> None:
    vectors = random(10)
    references = sys.getrefcount(vectors)
    index = flat_index(vectors, "l2")
    assert sys.getrefcount(vectors) > references
    del index
    assert sys.getrefcount(vectors) == references


# Built indexes


def recall(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, right, strict=True)]))


@pytest.mark.parametrize("container", ["npy", "faiss-ip"])
@pytest.mark.parametrize("factory", ["IVF32,Flat", "HNSW16", "PQ8x4", "IVF32,PQ8x4", "PCA16,IVF32,SQ8"])
def test_a_built_index_has_the_recall_of_one_made_by_hand(
    factory: str, container: Any, tmp_path: Path
) -> None:
    vectors, queries = clustered(5_000, 32), clustered(100, 32, 9)
    number = faiss.METRIC_INNER_PRODUCT if container == "faiss-ip" else faiss.METRIC_L2
    by_hand = faiss.index_factory(32, factory, number)
    stored = np.r_[500:5_000, 0:500]  # in the order of the rows, on which training depends
    by_hand.train(vectors[stored])
    by_hand.add(vectors[stored])
    flat = faiss.IndexFlat(32, number)
    flat.add(vectors)
    right = flat.search(queries, 10)[1]
    with EmbeddingCache(tmp_path, container=container, durability="close") as cache:
        # Rows that a later one replaced are neither trained on nor found.
        cache.put(names(0, 5_000), np.concatenate([random(500, 32) * 100, vectors[500:]]))
        cache.put(names(0, 500), vectors[:500])
        index = cache.build_index(factory)
        rows = index.search(queries, 10).rows
        assert len(index) == 5_000
        assert rows.min() >= 500
        of_text = np.where(rows >= 5_000, rows - 5_000, rows)
        assert recall(of_text, right) >= recall(stored[by_hand.search(queries, 10)[1]], right) - 0.03


def index_files(directory: Path) -> dict[str, int]:
    """The saved indexes and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("search-*")}


def train_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The factory strings that indexes are made of from now on."""
    made: list[str] = []
    factory = faiss.index_factory

    def watched(dim: int, description: str, metric: int) -> Any:
        made.append(description)
        return factory(dim, description, metric)

    monkeypatch.setattr(faiss, "index_factory", watched)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache", durability="close") as cache:
        cache.put(names(0, 500), random(500))
        yield cache


def same_as_new(cache: EmbeddingCache, index: Any) -> bool:
    """Whether an index without loss finds what a search finds."""
    return bool(np.array_equal(index.search(QUERIES, 5).rows, cache.search(QUERIES, 5).rows))


def test_an_index_of_the_same_rows_is_taken_as_it_is(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.build_index("Flat")
    before = index_files(cache.path)
    assert len(before) == 1
    made = train_calls(monkeypatch)
    again = EmbeddingCache(cache.path, mode="r").build_index("Flat")
    assert faiss.serialize_index(again.index).tobytes() == faiss.serialize_index(first.index).tobytes()
    assert index_files(cache.path) == before
    assert made == []


def test_an_index_is_extended_by_rows_that_came(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.build_index("IVF4,Flat")
    made = train_calls(monkeypatch)
    cache.put(names(500, 600), random(100, seed=1))
    index = cache.build_index("IVF4,Flat")
    faiss.extract_index_ivf(index.index).nprobe = 4
    assert len(index) == 600
    assert same_as_new(cache, index)
    assert made == []
    assert len(index_files(cache.path)) == 1


def test_an_index_is_built_anew_when_rows_were_replaced(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.build_index("Flat")
    made = train_calls(monkeypatch)
    cache.put(names(3, 5), QUERIES[:2])
    index = cache.build_index("Flat")
    assert made == ["Flat"]
    assert len(index) == 500
    assert same_as_new(cache, index)
    assert len(index_files(cache.path)) == 1


def test_another_factory_metric_training_or_cache_has_an_index_of_its_own(
    cache: EmbeddingCache, tmp_path: Path
) -> None:
    cache.build_index("Flat")
    cache.build_index("Flat", metric="ip")
    cache.build_index("IVF4,Flat", train_rows=300)
    cache.build_index("IVF4,Flat", train_rows=400)
    assert len(index_files(cache.path)) == 4
    cache.sync()
    kept = shutil.copytree(cache.path, tmp_path / "kept")
    shutil.rmtree(cache.path)
    with EmbeddingCache(cache.path) as other:
        other.put(names(0, 500), random(500, seed=4))
        for path in kept.glob("search-*"):
            shutil.copy(path, other.path)
        assert same_as_new(other, other.build_index("Flat"))


@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_a_damaged_index_is_built_anew(cache: EmbeddingCache, damage: str) -> None:
    cache.build_index("Flat")
    (path,) = cache.path.glob("search-*.faiss")
    written = path.read_bytes()
    if damage == "bit":
        flip_bit(path, len(written) // 2)
    else:
        path.write_bytes(written[:-100] if damage == "cut" else b"")
    assert same_as_new(cache, cache.build_index("Flat"))
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    "factory", ["IVF16,PQ4x4", "IVF16,PQ4x4np", "PCA6,IVF16,PQ2x4", "OPQ4,IVF16_HNSW8,PQ4x4"]
)
def test_product_quantised_lists_find_the_same_read_again_and_beside_the_table_of_faiss(
    factory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddingCache(tmp_path / "cache", durability="close") as cache:
        cache.put(names(0, 2_000), clustered(2_000, DIM))
        built = cache.build_index(factory)
        made = train_calls(monkeypatch)
        read = cache.build_index(factory)
    assert made == []
    found = []
    for index in (built, read):
        lists: Any = faiss.downcast_index(faiss.extract_index_ivf(index.index))
        lists.nprobe = 4
        assert lists.precomputed_table.size() == 0
        found.append(index.index.search(QUERIES, 10))
    lists.use_precomputed_table = 0
    lists.precompute_table()
    assert lists.precomputed_table.size() > 0
    with_table = read.index.search(QUERIES, 10)
    for index_distances, index_rows in found:
        np.testing.assert_array_equal(index_rows, found[0][1])
        np.testing.assert_array_equal(index_distances, found[0][0])
    np.testing.assert_allclose(with_table[0], found[0][0], rtol=1e-4, atol=1e-4)


def test_a_saved_index_is_one_that_faiss_reads(cache: EmbeddingCache) -> None:
    index = cache.build_index("Flat")
    (path,) = cache.path.glob("search-*.faiss")
    read = faiss.read_index(str(path))
    assert np.array_equal(read.search(QUERIES, 3)[1], index.search(QUERIES, 3).rows)
    assert path.stat().st_mode == (cache.path / "meta.json").stat().st_mode


def test_what_a_dead_writer_left_is_written_anew(cache: EmbeddingCache) -> None:
    cache.build_index("Flat")
    (path,) = cache.path.glob("search-*.faiss")
    left = path.with_name(f"{'-'.join(path.name.split('-')[:2])}.tmp")
    left.write_bytes(bytes(100_000))
    path.unlink()
    cache.build_index("Flat")
    assert list(index_files(cache.path)) == [path.name]


def test_damaged_rows_are_left_out(cache: EmbeddingCache) -> None:
    flip_bit(cache.path / "vectors.npy", 128 + 7 * DIM * 4)
    index = cache.build_index("Flat")
    assert len(index) == 499
    assert 7 not in index.search(random(500)[7:8], 499).rows
    cache.encode(["text 7"], lambda texts: random(500)[7:8])
    assert cache.build_index("Flat").search(random(500)[7:8], 1).rows.tolist() == [[500]]


def test_where_nothing_can_be_written_the_index_is_in_memory_and_a_warning_says_so() -> None:
    with tempfile.TemporaryDirectory() as directory:
        run(
            """
            import os, sys, warnings
            from pathlib import Path
            import numpy as np
            from dejavec import DejavecWarning, EmbeddingCache
            import faiss, tqdm  # Others may not be allowed to read the packages.
            path = Path(sys.argv[1])
            vectors = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
            with EmbeddingCache(path / "cache") as cache:
                cache.put([str(number) for number in range(100)], vectors)
            for one in [path, *path.rglob("*")]:
                one.chmod(0o555 if one.is_dir() else 0o444)
            if os.geteuid() == 0:
                os.seteuid(65_534)  # Nothing is read-only for root.
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                index = EmbeddingCache(path / "cache", mode="r").build_index("Flat")
            assert index.search(vectors, 1).rows[:, 0].tolist() == list(range(100))
            (warning,) = warned
            assert warning.category is DejavecWarning
            assert "could not be written and is kept in memory only" in str(warning.message)
            assert warning.filename == "<string>", warning.filename
            if os.getuid() == 0:
                os.seteuid(0)
            for one in [path, path / "cache"]:
                one.chmod(0o755)
            assert not list((path / "cache").glob("search-*"))
            """,
            directory,
        )


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("IVFOOPS", {}, "expected a string that faiss.index_factory takes, found 'IVFOOPS'"),
        ("Flat", {"train_rows": 0}, "expected train_rows of at least 1, found 0"),
        ("Flat", {"metric": "dot"}, r"expected metric to be one of \('cosine', 'ip', .*\), found 'dot'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    cache: EmbeddingCache, factory: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        cache.build_index(factory, **options)
    assert index_files(cache.path) == {}


def test_no_vectors_make_no_index(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    with pytest.raises(
        dejavec.errors.VectorsError, match="expected vectors to build an index of, found none"
    ):
        cache.build_index("Flat")


def test_a_bar_is_shown_while_an_index_is_filled(cache: EmbeddingCache, capsys: Any) -> None:
    cache.build_index("Flat", progress=True)
    assert "500/500" in capsys.readouterr().err
    cache.build_index("Flat", progress=True)
    cache.build_index("PCA4,Flat", progress=None)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak of a part of a run")
@pytest.mark.parametrize("container", ["npy", "faiss-l2"])
def test_building_an_index_never_holds_the_matrix(container: str, tmp_path: Path) -> None:
    run(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from dejavec import EmbeddingCache
        import faiss
        faiss.omp_set_num_threads(1)

        def kib(name):
            (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if name in line)
            return int(line.split()[1])

        dim, part = 384, 13_000
        with EmbeddingCache(sys.argv[1], container=sys.argv[2], durability="close") as cache:
            for start in range(0, 10 * part, part):
                vectors = np.random.default_rng(start).standard_normal((part, dim)).astype(np.float32)
                cache.put([str(number) for number in range(start, start + part)], vectors)
        del vectors
        cache = EmbeddingCache(sys.argv[1], mode="r")
        matrix = 10 * part * dim * 4 // 1024
        Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from now on.
        before = kib("VmRSS")
        cache.build_index("IVF64,PQ48x4", train_rows=5_000)
        grown = kib("VmHWM") - before
        assert grown < matrix / 2, f"{grown} KiB for a matrix of {matrix}"
        """,
        tmp_path / "cache",
        container,
    )


# Without FAISS


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_without_faiss_all_but_search_works(metric: str, tmp_path: Path) -> None:
    run(
        """
        import sys
        import numpy as np
        import dejavec
        from dejavec import EmbeddingCache, FaissCache
        vectors = np.eye(3, dtype=np.float32)
        def use(path):
            cache = FaissCache(path, metric=sys.argv[2])
            cache.add(["a", "b"], vectors[:2])
            assert "a" in cache and cache.get_vector("b").tolist() == [0, 1, 0]
            cache.save()
            cache.close()
            with EmbeddingCache(path, mode="r") as reader:
                assert reader.get(["a"])[1].tolist() == [[1, 0, 0]]
                assert reader.verify()["problems"] == []
            return cache.load()
        use(sys.argv[1] + "/first")
        assert "faiss" not in sys.modules
        sys.modules["faiss"] = None
        cache = use(sys.argv[1] + "/second")
        with EmbeddingCache(sys.argv[1] + "/third") as plain:
            plain.put(["a"], vectors[:1])
            for call in (
                lambda: cache.index,
                lambda: cache.search(vectors, 1),
                lambda: cache.search_items(vectors, 1),
                lambda: cache.build_index("Flat"),
                lambda: plain.search(vectors, 1),
                lambda: plain.build_index("Flat"),
            ):
                try:
                    call()
                except dejavec.errors.MissingPackageError as error:
                    assert "pip install 'dejavec[faiss]'" in str(error), error
                    assert isinstance(error, ImportError)
                else:
                    raise AssertionError("nothing was raised")
        """,
        tmp_path,
        metric,
    )


def test_an_index_of_a_cache_that_was_compacted_says_so(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(["a", "b", "c"], np.eye(3, dtype=np.float32))
        index = cache.build_index("Flat")
        cache.delete(["a"])
        cache.compact()
        with pytest.raises(dejavec.errors.VectorsError, match="a compacted one"):
            index.search(np.eye(3, dtype=np.float32), 1)
        assert cache.search(np.eye(3, dtype=np.float32)[2:], 1).rows.tolist() == [[1]]


FULLY = ["Flat", "IVF4,Flat", "HNSW16", "RR8,IVF4,Flat", "IVF4,SQ8,RFlat", "IVF4,PQ4x4,RFlat"]
"""Indexes that find the same as a comparison with all rows, when they visit everything."""


def visiting_everything(index: Any) -> Any:
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexRefine):
        inner.k_factor = 300
        inner = faiss.downcast_index(inner.base_index)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = 400
    inverted = faiss.try_extract_index_ivf(inner)
    if inverted is not None:
        inverted.nprobe = 4
    return index


@pytest.mark.parametrize("factory", FULLY)
@pytest.mark.parametrize("metric", METRICS)
def test_a_built_index_finds_among_some_what_a_search_of_the_cache_finds(
    factory: str, metric: Any, tmp_path: Path
) -> None:
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.put(names(0, 300), random(300))
        cache.put(names(40, 60), random(20, seed=1))  # Their older rows are in no index.
        with threadpool_limits(1):
            built = cache.build_index(factory, metric=metric)
        visiting_everything(built.index)
        cache.put(names(300, 310), random(10, seed=2))  # Not in the index.
        flags = np.zeros(330, np.bool_)
        flags[100:140] = True
        for among in (names(30, 70), range(20, 320, 3), flags, np.array([], np.int64)):
            right = cache.search(QUERIES, 7, metric=metric, among=among, texts=True)
            found = built.search(QUERIES, 7, among=among, texts=True)
            assert np.array_equal(found.rows, right.rows)
            assert found.texts == right.texts
            np.testing.assert_allclose(found.distances, right.distances, rtol=1e-4, atol=1e-4)
        with pytest.raises(dejavec.errors.VectorsError, match="row numbers below 330"):
            built.search(QUERIES, 1, among=[330])


def test_a_binary_index_finds_among_some(tmp_path: Path) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (400, 8), np.uint8)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 400), packed)
        built = cache.build_index("BFlat", metric="hamming")
        for among in ([5], list(range(50, 90)), []):
            right = cache.search(packed[:9], 4, metric="hamming", among=among)
            found = built.search(packed[:9], 4, among=among)
            assert np.array_equal(found.distances, right.distances)
            assert set(found.rows.ravel()) <= {*among, -1}


@pytest.mark.parametrize(("factory", "metric"), [("LSH", None), ("BIVF4", "hamming")])
def test_an_index_in_which_faiss_does_not_select_says_so(factory: str, metric: Any, tmp_path: Path) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (400, 8), np.uint8)
    with EmbeddingCache(tmp_path) as cache:
        cache.put(names(0, 400), packed if metric else random(400))
        built = cache.build_index(factory, metric=metric)
        with pytest.raises(dejavec.errors.VectorsError, match="an index in which FAISS selects"):
            built.search(packed[:3] if metric else QUERIES, 1, among=[5])
