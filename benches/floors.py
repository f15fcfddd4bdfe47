"""What the machine needs for the same bytes, without any cache: nobody can be faster."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benches import checks
from benches.work import Vectors, Work

SHA256_ALL = "floor: SHA-256, all cores"
SHA256_ONE = "floor: SHA-256, one core"
TAKE = "floor: np.take"
WRITE = "floor: write + fsync"
COPY = "floor: copy + fsync"
MAP = "floor: map an .npy"
LISTS = "floor: make the lists"

WHY = {
    SHA256_ALL: "a plain loop in Rust (crate sha2), one message at a time, the messages split over all cores",
    SHA256_ONE: "the same loop on one core",
    TAKE: "np.take of the rows into a fresh array",
    COPY: "shutil.copytree of the directory of the cache, then one fsync of each file",
    WRITE: "one sequential write of vectors and key records, then one fsync",
    MAP: 'np.load(mmap_mode="r") of all vectors, and the maximum of each document in it',
    LISTS: "of a float64 array in memory, as this project makes them: one object for each number",
}

_PROGRAM = Path(__file__).parents[1] / "target" / "release" / "examples" / "sha256_floor"
_PIECE = 1 << 20


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """Run on so many of the cores that this process may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def sha256(work: Work, cores: int) -> float:
    """Seconds of a plain loop over the texts; see ``sha256_floor.rs``."""
    if not _PROGRAM.exists():
        raise FileNotFoundError(f"{_PROGRAM} is missing: cargo build --release --example sha256_floor")
    with pinned(cores):
        command = [str(_PROGRAM), str(work.messages()), str(cores)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    checks.equal("XOR of all digests", printed[1], _xor_of_digests(work))
    return int(printed[0]) / 1e9


def take(work: Work) -> tuple[float, Vectors]:
    """Seconds of ``np.take`` in the order of the shuffled texts, and what it took."""
    vectors, rows = work.vectors(), work.permutation()
    _touch(vectors)
    start = time.perf_counter()
    taken = np.take(vectors, rows, axis=0)
    return time.perf_counter() - start, taken


def write(vectors: Vectors, record_bytes: int, path: Path) -> float:
    """Seconds to write vectors and ``record_bytes`` more, and to sync them once."""
    _touch(vectors)
    payload = [memoryview(vectors.data).cast("B"), memoryview(bytes(record_bytes))]
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for part in payload:
            for offset in range(0, len(part), _PIECE):
                file.write(part[offset : offset + _PIECE])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    checks.equal("bytes", path.stat().st_size, sum(map(len, payload)))
    path.unlink()
    return seconds


def copy(directory: Path, new: Path) -> float:
    """Seconds to copy the files of a directory, and to sync them."""
    start = time.perf_counter()
    shutil.copytree(directory, new)
    for path in new.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def _touch(array: Vectors) -> None:
    """Read every page once: what is mapped for the first time is nobody's result."""
    np.frombuffer(memoryview(array.data).cast("B"), np.uint8)[::4096].sum()


def _xor_of_digests(work: Work) -> str:
    from dejavec.keys.items import text_keys

    return bytes(np.bitwise_xor.reduce(text_keys(work.dataset()["text"]), axis=0)).hex()
