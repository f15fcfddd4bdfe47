"""Many processes and threads use one cache at a time, and forks happen at any moment."""

from __future__ import annotations

import fcntl
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from processes import run, vectors

from dejavec import EmbeddingCache
from dejavec.keys.items import text_keys

TEXTS = [f"text {number}" for number in range(600)]


def test_eight_processes_that_fill_one_cache_store_each_text_once_and_none_starves(tmp_path: Path) -> None:
    script = """
    texts = [f"text {number}" for number in range(2_000)]
    first = int(arguments[0]) * 200
    mine = texts[first:] + texts[:first]  # Each begins elsewhere, and all want all.
    with EmbeddingCache(path, model="toy@1", chunk_rows=50, on_write_error="raise", lock_timeout=60) as cache:
        for start in range(0, 2_000, 200):
            part = mine[start : start + 200]
            assert cache.encode(part, model).tobytes() == vectors(part).tobytes()
        print(sum(map(len, calls)))
    """
    with ThreadPoolExecutor(8) as pool:
        encoded = pool.map(lambda number: int(run(script, tmp_path / "cache", number)), range(8))
        assert sum(encoded) >= 2_000
    with EmbeddingCache(tmp_path / "cache", model="toy@1", miss="raise") as cache:
        texts = [f"text {number}" for number in range(2_000)]
        assert cache.encode(texts, None).tobytes() == vectors(texts).tobytes()  # type: ignore[arg-type]
        report = cache.verify()
    # A row for each text, even if several processes encoded it.
    counts = {"rows": 2_000, "keys": 2_000, "dead": 0, "replaced": 0, "texts": 0}
    assert report == {**counts, "damaged": [], "damaged_texts": [], "problems": []}


@pytest.mark.skipif(sys.platform != "linux", reason="waiters stand in a queue on Linux alone")
def test_threads_and_processes_that_wait_are_served_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = EmbeddingCache(path, model="toy@1")
    cache.put(["first"], vectors(["first"]))
    inode = (path / "LOCK").stat().st_ino
    script = """
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.put(arguments, vectors(arguments))
    """
    waiters = [f"waiter {number}" for number in range(6)]
    with (path / "LOCK").open("r+b") as lock, ThreadPoolExecutor(len(waiters)) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = []
        for number, text in enumerate(waiters):
            if number % 2:
                done.append(pool.submit(cache.put, [text], vectors([text])))
            else:
                done.append(pool.submit(run, script, path, text))  # type: ignore[arg-type]
            while places_in_the_queue(inode) <= number:
                assert not done[-1].done(), done[-1].result()
        fcntl.flock(lock, fcntl.LOCK_UN)
        for waiter in done:
            waiter.result()
    assert cache.keys().tobytes() == text_keys(["first", *waiters]).tobytes()


def places_in_the_queue(inode: int) -> int:
    """How many locks of bytes the system knows of a file."""
    locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    ours = [line for line in locks if "OFDLCK" in line and f":{inode} " in line]
    # A lock may be there twice, since the file changes while it is read. Each has a byte of its own.
    return len({line.split()[-2] for line in ours})


def test_sixteen_threads_read_and_write_one_cache(tmp_path: Path) -> None:
    expected = vectors(TEXTS)
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1", chunk_rows=20, durability="close")
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        choose = np.random.default_rng(number)
        barrier.wait()
        for _ in range(15):
            positions = choose.integers(0, len(TEXTS), 60)
            texts = [TEXTS[position] for position in positions]
            kind = number % 4
            if kind == 0:
                assert cache.encode(texts, vectors).tobytes() == expected[positions].tobytes()
            elif kind == 1:
                cache.put(texts, expected[positions])
            elif kind == 2:
                found, held = cache.get(texts)
                assert held[found].tobytes() == expected[positions][found].tobytes()
            else:
                rows = cache.refresh()
                assert len(cache.vectors) >= rows
                cache.sync()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert cache.encode(TEXTS, vectors).tobytes() == expected.tobytes()
    report = cache.verify()
    assert report["keys"] == report["rows"] == len(TEXTS)
    assert report["damaged"] == report["problems"] == []
    cache.close()


def work_in_child(cache: EmbeddingCache, number: int) -> None:
    """Read what the parent stored, and store something: the child's status tells whether it was right."""
    assert cache.encode(TEXTS[:100], vectors).tobytes() == vectors(TEXTS[:100]).tobytes()
    own = [f"child {number} text {at}" for at in range(20)]
    assert cache.encode(own, vectors).tobytes() == vectors(own).tobytes()


def work_by_path(path: Path, number: int) -> None:
    with EmbeddingCache(path, model="toy@1") as cache:
        work_in_child(cache, number)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_started_before_during_and_after_writing_read_and_write(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    context = multiprocessing.get_context(method)
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1", chunk_rows=10)

    def start(number: int) -> multiprocessing.process.BaseProcess:
        # Only a fork inherits the open cache; the others open it by its path.
        target, place = (work_in_child, cache) if method == "fork" else (work_by_path, cache.path)
        child = context.Process(target=target, args=(place, number))  # type: ignore[attr-defined]
        child.start()
        return child

    children = [start(0)]

    def model(texts: list[str]) -> np.ndarray:
        if len(children) < 3:
            children.append(start(len(children)))
        return vectors(texts)

    writer = threading.Thread(target=lambda: cache.encode(TEXTS, vectors))
    writer.start()
    assert cache.encode(TEXTS[::-1], model).tobytes() == vectors(TEXTS[::-1]).tobytes()
    writer.join()
    children.append(start(len(children)))
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    assert cache.encode(TEXTS, vectors).tobytes() == vectors(TEXTS).tobytes()
    report = cache.verify()
    assert report["keys"] == report["rows"] == len(TEXTS) + 20 * len(children)
    assert report["damaged"] == report["problems"] == []
    cache.close()


class Embedded:
    """Items whose vectors the workers of a ``DataLoader`` read, or make and store."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, position: int) -> np.ndarray:
        return self.cache.encode([TEXTS[position]], vectors)[0]


def test_the_workers_of_a_data_loader_read_and_write_through_the_forked_cache(tmp_path: Path) -> None:
    import torch  # Not for all children that import this module.

    with EmbeddingCache(tmp_path / "cache", model="toy@1", durability="close") as cache:
        cache.encode(TEXTS[:200], vectors)
        loader = torch.utils.data.DataLoader(
            Embedded(cache), batch_size=50, num_workers=2, multiprocessing_context="fork"
        )
        for _ in range(2):
            assert torch.cat(list(loader)).numpy().tobytes() == vectors(TEXTS).tobytes()
        cache.refresh()
        assert cache.verify()["rows"] == len(TEXTS)
