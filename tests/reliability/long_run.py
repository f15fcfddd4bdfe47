"""A cache of ten million rows, written in pieces by two processes.

``python tests/reliability/long_run.py [ROWS]``.

Each writer stores every second piece, opens the cache anew at random, and stores some pieces again, which
must add nothing. Then one process verifies every row, and another reads all of them back in random order and
compares. Each tells the most memory that it held: of its own, looked at after each piece, and with the pages
of mapped files, which are the system's to take back.
"""

from __future__ import annotations

import multiprocessing
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dejavec import EmbeddingCache

DIM = 16
PIECE = 20_000
REOPEN = 0.2
AGAIN = 0.05
OWN_BYTES_A_ROW = 64
"""Most memory of its own that a process may take for each row of the cache, beyond what it began with."""


def texts(piece: int) -> list[str]:
    return [f"text {number}" for number in range(piece * PIECE, (piece + 1) * PIECE)]


def vectors(piece: int) -> np.ndarray:
    """The vectors of a piece (PIECE, DIM), each number another."""
    numbers = np.arange(piece * PIECE * DIM, (piece + 1) * PIECE * DIM, dtype=np.uint64)
    return (numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.float32).reshape(PIECE, DIM)


def open_cache(path: Path, mode: str) -> EmbeddingCache:
    return EmbeddingCache(path, model="long@1", mode=mode, on_write_error="raise")  # type: ignore[arg-type]


def _status_bytes(name: str) -> int:
    (kibibytes,) = re.findall(rf"^{name}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kibibytes) * 1024


def own_bytes() -> int:
    """Memory of this process now, without the pages of files."""
    return _status_bytes("RssAnon")


def peak_bytes() -> int:
    """The most memory that this process ever held, pages of files included."""
    return _status_bytes("VmHWM")


def write(path: Path, pieces: list[int], note: Callable[[], None]) -> None:
    choose = random.Random(pieces[0])
    cache = open_cache(path, "a")
    for at, piece in enumerate(pieces):
        assert cache.put(texts(piece), vectors(piece)) == PIECE
        if choose.random() < AGAIN:
            again = pieces[choose.randint(0, at)]
            assert cache.put(texts(again), vectors(again)) == 0
        if choose.random() < REOPEN:
            cache.close()
            cache = open_cache(path, "a")
        note()
    cache.close()


def verify(path: Path, pieces: list[int], note: Callable[[], None]) -> None:
    with open_cache(path, "r") as cache:
        report = cache.verify()
        note()
    assert report["rows"] == report["keys"] == len(pieces) * PIECE, report
    assert report["damaged"] == report["problems"] == [], report


def read(path: Path, pieces: list[int], note: Callable[[], None]) -> None:
    order = list(pieces)
    random.Random(1).shuffle(order)
    with open_cache(path, "r") as cache:
        for piece in order:
            found, held = cache.get(texts(piece))
            assert found.all()
            assert held.tobytes() == vectors(piece).tobytes()
            note()


def measured(work: Callable[..., None], path: Path, pieces: list[int], total: int) -> None:
    """Do the work, and tell how long it took and how much memory; it must not take more than it may."""
    first, start = own_bytes(), time.perf_counter()
    most = first

    def note() -> None:
        nonlocal most
        most = max(most, own_bytes())

    work(path, pieces, note)
    seconds = time.perf_counter() - start
    print(
        f"{work.__name__}: {len(pieces) * PIECE:,} rows, {seconds:.0f} s, own memory {first / 1e6:.0f} MB at "
        f"first and {most / 1e6:.0f} MB at most, peak with files {peak_bytes() / 1e6:.0f} MB",
        flush=True,
    )
    assert most - first <= OWN_BYTES_A_ROW * total + (64 << 20), f"{most - first} bytes of memory"


def run(rows: int) -> None:
    pieces = list(range(rows // PIECE))
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cache"
        for work, shares in ((write, [pieces[::2], pieces[1::2]]), (verify, [pieces]), (read, [pieces])):
            workers = [processes.Process(target=measured, args=(work, path, share, rows)) for share in shares]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0, f"{work.__name__} failed"
        size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{len(pieces) * PIECE:,} rows of {DIM} float32: written, verified and read back; {size:,} bytes")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
