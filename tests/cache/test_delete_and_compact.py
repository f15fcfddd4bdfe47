"""Deleted texts are missing for everyone, and compaction takes their bytes out of every file."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from dejavec import EmbeddingCache
from dejavec.errors import ReadOnlyCacheError
from dejavec.fill.vector_store import Seen
from dejavec.keys.items import text_keys
from dejavec.search.index_file import IndexFile
from dejavec.storage.find import caches_below
from dejavec.storage.keyed_cache import KeyedCache

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
            assert 1 not in one.search(vectors_of(["two"]), 4).rows
            assert 1 not in one.build_index("Flat").search(vectors_of(["two"]), 4).rows


def test_nothing_is_deleted_where_nothing_can_be(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "none") as cache:
        assert cache.delete(["one"]) == 0
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))
    with EmbeddingCache(tmp_path / "c", mode="r") as cache, pytest.raises(ReadOnlyCacheError):
        cache.delete(["one"])


def contents(directory: Path) -> dict[str, bytes]:
    """The bytes of every file."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("container", ["npy", "faiss-l2", "ragged", "sparse"])
def test_after_delete_and_compact_nothing_of_a_text_is_in_any_file(tmp_path: Path, container: Any) -> None:
    texts = [f"{number}: {np.random.default_rng(number).bytes(16).hex()}" for number in range(300)]
    secret, replaced = texts[123], texts[200]
    with EmbeddingCache(tmp_path / "c", container=container, keep_texts=True) as cache:
        first = rows_of(texts, container)
        cache.put(texts, first)
        cache.put([replaced], rows_of([replaced], container, 1))
        if container in ("npy", "faiss-l2"):
            cache.build_index("Flat")
        (tmp_path / "c" / "texts.npy.tmp-0123456789abcdef").write_bytes(secret.encode())
        (tmp_path / "c" / "search-0123456789ab.tmp").write_bytes(first_bytes(first, 123))
        parts = {"its vector": (first_bytes(first, 123), 8), "an old vector": (first_bytes(first, 200), 8)}
        parts |= {
            "its text": (secret.encode(), 16),
            "its key": (hashlib.sha256(secret.encode()).digest(), 32),
        }
        before = b"".join(contents(tmp_path / "c").values())
        assert all(part in before for part, _ in parts.values())
        cache.delete([secret])
        freed = cache.compact()
        assert freed > 0
        for name, data in contents(tmp_path / "c").items():
            for what, (part, length) in parts.items():
                for start in range(len(part) - length + 1):
                    assert part[start : start + length] not in data, f"{what} is in {name}"
        assert len(cache) == 299
        assert replaced in cache
        assert cache.stats()["reclaimable_bytes"] == 0
        assert sorted(filter(None, cache.texts().to_pylist())) == sorted(set(texts) - {secret})


def rows_of(texts: list[str], container: str, version: int = 0) -> Any:
    """Vectors of random numbers in the form of a container, the same for the same text and version."""
    vectors = vectors_of(texts, version)
    if container == "ragged":
        return [np.stack([vector, vector + 1]) for vector in vectors]
    return scipy.sparse.csr_array(vectors) if container == "sparse" else vectors


def first_bytes(rows: Any, position: int) -> bytes:
    """The bytes of a row's numbers."""
    row = rows[[position]].data if scipy.sparse.issparse(rows) else np.ascontiguousarray(rows[position])
    return bytes(row.tobytes())


def test_arrays_that_were_returned_before_a_compaction_stay_as_they_are(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(2000)]
    with EmbeddingCache(tmp_path / "c") as cache, EmbeddingCache(tmp_path / "c") as reader:
        cache.put(texts, vectors_of(texts))
        reader.refresh()
        whole, (_, mapped) = reader.vectors, reader.get(texts)
        cache.delete(texts[:1000])
        cache.compact()
        assert np.array_equal(whole, vectors_of(texts))
        assert np.array_equal(mapped, vectors_of(texts))
        assert reader.get(texts)[0].tolist() == [False] * 1000 + [True] * 1000
        assert len(reader.vectors) == 1000


@pytest.mark.parametrize("container", ["npy", "ragged", "sparse"])
def test_row_numbers_from_before_a_compaction_read_the_right_rows_and_no_deleted_one(
    tmp_path: Path, container: Any
) -> None:
    texts = [f"text {number}" for number in range(100)]
    keys = text_keys(texts)
    with EmbeddingCache(tmp_path / "c", container=container) as writer, KeyedCache(tmp_path / "c") as cache:
        writer.put(texts, rows_of(texts, container))
        cache.refresh()
        rows = cache.lookup(keys)
        expected = cache.get(keys)[1]
        for end, is_compacted in ((10, False), (20, True)):
            writer.delete(texts[end - 10 : end])
            if is_compacted:
                writer.compact()
            cache.refresh()
            vectors, damaged = cache.gather(keys, rows)
            assert damaged == list(range(end))
            for position in range(end, 100):
                assert np.array_equal(vectors[position], expected[position])


def test_an_index_that_was_built_of_old_rows_is_not_saved_after_a_compaction(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))
        cache.put(["one"], vectors_of(["one"], 1))
        index = cache.build_index("Flat")
        names = {path.name for path in (tmp_path / "c").glob("search-*")}
        old = IndexFile(tmp_path / "c", "0" * 12, 5, 1, 0)
        cache.compact()
        assert not list((tmp_path / "c").glob("search-*"))
        old.write(index.index)
        assert not list((tmp_path / "c").glob("search-*"))
        again = cache.build_index("Flat")
        assert again.search(vectors_of(["one"], 1), 1).rows.tolist() == [[3]]
        saved = {path.name for path in (tmp_path / "c").glob("search-*")}
        assert len(saved) == 1
        assert saved.isdisjoint(names)


def test_threads_that_share_a_cache_find_every_text_while_it_is_compacted(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(300)]
    with EmbeddingCache(tmp_path / "c") as shared, EmbeddingCache(tmp_path / "c") as other:
        other.put(texts, vectors_of(texts))
        shared.refresh()

        def read(seed: int) -> None:
            choose = np.random.default_rng(seed)
            for _ in range(150):
                chosen = [texts[at] for at in choose.choice(300, choose.integers(1, 50))]
                found, vectors = shared.get(chosen)
                assert found.all()
                assert (vectors[:, 1:] == vectors_of(chosen)[:, 1:]).all()

        with ThreadPoolExecutor(4) as pool:
            reading = [pool.submit(read, seed) for seed in range(4)]
            version = 0
            while not all(future.done() for future in reading):
                version += 1
                changed = vectors_of(texts)
                changed[:, 0] = version
                other.put(texts[version % 7 :: 7], changed[version % 7 :: 7])
                other.compact()
            for future in reading:
                future.result()


def work(path: Path, number: int, rounds: int) -> None:
    """Read, write, delete and compact: its own texts, and ones that all processes store."""
    shared = [f"shared {at}" for at in range(100)]
    own = [f"{number}: {at}" for at in range(60)]
    with EmbeddingCache(path, durability="close" if number % 2 else "commit") as cache:
        for version in range(rounds):
            assert np.array_equal(cache.encode(shared, vectors_of), vectors_of(shared))
            cache.put(own, vectors_of(own, version))
            found, vectors = cache.get(own)
            assert found.all()
            assert np.array_equal(vectors, vectors_of(own, version))
            cache.delete(own[:20])
            assert cache.get(own)[0].tolist() == [False] * 20 + [True] * 40
            for text in (own[3], own[30]):
                assert (text in cache) == (text == own[30])
            if version % 3 == number % 3:
                cache.compact()


def test_eight_processes_read_and_write_while_others_compact(tmp_path: Path) -> None:
    rounds = 12
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(tmp_path / "c", number, rounds)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.compact()
        report = cache.verify()
        assert report["rows"] == report["keys"] == 100 + 8 * 40
        assert report["damaged"] == report["problems"] == []
        for number in range(8):
            own = [f"{number}: {at}" for at in range(20, 60)]
            assert np.array_equal(cache.get(own)[1], vectors_of(own, rounds - 1))


def test_a_pruned_cache_keeps_the_newest_and_what_must_stay(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(5000)]
    with EmbeddingCache(tmp_path / "c", keep_texts=True) as cache:
        cache.put(texts, vectors_of(texts))
        assert cache.prune(drop_older_than=4000, keep=texts[:3]) == 997
        assert cache.get(texts)[0].tolist() == [True] * 3 + [False] * 997 + [True] * 4000
        assert cache.prune(max_bytes=200_000, keep=texts[:3]) > 0
        assert cache.stats()["bytes_on_disk"] <= 200_000
        assert [text in cache for text in (texts[0], texts[2], texts[-1], texts[1000])] == [
            True,
            True,
            True,
            False,
        ]
        assert cache.prune(max_bytes=200_000) == 0
        for wrong in ({}, {"max_bytes": -1}, {"drop_older_than": 1.5}, {"max_bytes": True}):
            with pytest.raises(ValueError, match="expected"):
                cache.prune(**wrong)  # type: ignore[arg-type]
    with EmbeddingCache(tmp_path / "none") as cache:
        assert (cache.compact(), cache.prune(max_bytes=1)) == (0, 0)


def test_a_compacted_cache_is_listed_and_caches_below_stay(tmp_path: Path) -> None:
    for path in (tmp_path / "c", tmp_path / "c" / "query"):
        with EmbeddingCache(path) as cache:
            cache.put(TEXTS, vectors_of(TEXTS))
    below = contents(tmp_path / "c" / "query")
    with EmbeddingCache(tmp_path / "c") as cache:
        cache.delete(["one"])
        cache.compact()
    assert caches_below(tmp_path) == [tmp_path / "c", tmp_path / "c" / "query"]
    assert contents(tmp_path / "c" / "query") == below


def overtake(cache: Path) -> None:
    """Compact so that each row gets a lower number, after the last text was replaced by another process."""
    with EmbeddingCache(cache, model="toy@1") as other:
        other.delete(TEXTS[:2])
        other.put(TEXTS[3:], vectors_of(TEXTS[3:], 7))
        other.compact()


def test_a_look_up_from_before_a_compaction_undoes_no_replacement(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "c", model="toy@1") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))
    keys = text_keys(TEXTS)
    with KeyedCache(tmp_path / "c", identity=EmbeddingCache(tmp_path / "c", mode="r").identity) as slow:
        output = slow.output
        assert output is not None
        seen = Seen(slow.lookup(keys), slow.numbering)
        overtake(tmp_path / "c")
        assert slow.append(keys, vectors_of(TEXTS, 1), output, seen) is None
        assert slow.get(keys)[0].tolist() == [False, False, True, True]
        np.testing.assert_array_equal(slow.get(keys[3:])[1], vectors_of(TEXTS[3:], 7))


def test_a_refresh_that_a_compaction_overtakes_is_stored(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "c", model="toy@1") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))

    def embed(texts: list[str]) -> np.ndarray[Any, Any]:
        overtake(tmp_path / "c")
        return vectors_of(texts, 1)

    with EmbeddingCache(tmp_path / "c", model="toy@1", refresh=True) as cache:
        encoded = cache.encode(TEXTS, embed)
        found, stored = cache.get(TEXTS)
        assert found.all()
        assert (encoded == vectors_of(TEXTS, 1)).all()
        assert np.array_equal(stored, encoded)


@pytest.mark.parametrize("on_conflict", ["first", "last"])
def test_a_merge_that_a_compaction_overtakes_compares_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_conflict: Any
) -> None:
    with EmbeddingCache(tmp_path / "c", model="toy@1") as cache:
        cache.put(TEXTS, vectors_of(TEXTS))
    append, calls = KeyedCache.append, []

    def overtaken(target: KeyedCache, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            overtake(tmp_path / "c")
        return append(target, *arguments)

    with (
        EmbeddingCache(tmp_path / "other", model="toy@1") as other,
        EmbeddingCache(tmp_path / "c", model="toy@1") as cache,
    ):
        other.put([*TEXTS, "five"], vectors_of([*TEXTS, "five"], 1))
        monkeypatch.setattr(KeyedCache, "append", overtaken)
        outcome = cache.merge(other, on_conflict=on_conflict)
        monkeypatch.undo()
        assert len(calls) == (1 if on_conflict == "first" else 2)
        kept = vectors_of(["three"]), vectors_of(["four"], 7)
        replaced = vectors_of(["three"], 1), vectors_of(["four"], 1)
        expected = np.concatenate(kept if on_conflict == "first" else replaced)
        assert (cache.get(["three", "four"])[1] == expected).all()
        assert cache.get([*TEXTS, "five"])[0].tolist() == [on_conflict == "last"] * 2 + [True] * 3
        assert (outcome.added, outcome.replaced) == ((1, 0) if on_conflict == "first" else (3, 2))
