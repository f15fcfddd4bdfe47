"""Writers and readers of one cache, killed at random moments.

``python tests/reliability/kills.py KILLS [SEED]``.

Each life of a cache has one writer or four, and two readers. Whoever is killed is replaced by another one.
Writers tell over a pipe what they begin and what was acknowledged. After each kill of a writer, what it had
acknowledged must be there, bit for bit; the group it was writing must be there whole or not at all. Writers
also delete some of their texts, and compact the cache: what was deleted must be gone. Readers check every
vector that they see, and that what they saw once never goes back, nor vanishes if nobody deletes it.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dejavec import EmbeddingCache, _core
from dejavec.errors import CacheNotFoundError
from dejavec.keys.items import text_keys

DIM = 8
READERS = 2
KILLS_A_LIFE = 25
LONGEST_WAIT = 0.03
"""Seconds until somebody is killed, at most; a life with large groups waits ten times as long."""

CONTAINERS = ("npy", "ragged", "sparse", "npy")
"""Of one life after the other."""

Versions = NDArray[np.int64]


class RowsWithElements:
    """A ragged or sparse cache, which is called as an ``EmbeddingCache`` is.

    The row of a text repeats its vector: once, twice or three times.
    """

    def __init__(self, life: Life, mode: Any) -> None:
        self._path = str(life.path)
        self._is_sparse = life.container == "sparse"
        self._keeps_texts = life.keeps_texts
        settings: Any = {"durability": life.durability, "lock_timeout": 60.0, "allow_network": False}
        if mode == "r":
            self._store = _core.Store.open(self._path, mode="r", **settings)
        else:
            self._store = _core.Store.create(
                self._path,
                dim=1 << 20 if self._is_sparse else DIM,
                dtype="<u4",
                identity="{}",
                output="{}",
                container=life.container,
                shared=False,
                **settings,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def put(self, texts: list[str], vectors: NDArray[np.uint32]) -> None:
        rows, indices, indptr = self._rows(texts, vectors)
        kept = texts if self._keeps_texts else None
        self._store.put(text_keys(texts), [rows], indices=indices, indptr=indptr, texts=kept)

    def encode(self, texts: list[str], encode: Callable[[list[str]], NDArray[np.uint32]]) -> None:
        seen = self._look_up(texts)
        missing = np.flatnonzero(seen < 0)
        if not len(missing):
            return
        texts = [texts[position] for position in missing]
        rows, indices, indptr = self._rows(texts, encode(texts))
        kept, seen = texts if self._keeps_texts else None, seen[missing]
        self._store.append(text_keys(texts), [rows], seen, indices=indices, indptr=indptr, texts=kept)

    def get(self, texts: list[str]) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
        """Which texts are stored, and their vectors; every element of every row is checked."""
        rows = self._look_up(texts)
        indptr = np.zeros(len(texts) + 1, np.int64)
        self._store.lengths(rows, indptr[1:])
        np.cumsum(indptr, out=indptr)
        found = rows >= 0
        data = np.empty(indptr[-1] if self._is_sparse else (indptr[-1], DIM), np.uint32)
        indices = np.empty(indptr[-1], np.int32) if self._is_sparse else None
        failed = self._store.gather(text_keys(texts), rows, data, verify=True, indices=indices, indptr=indptr)
        if failed:
            now = self._look_up(texts)
            assert (now[failed] != rows[failed]).all(), f"rows that were found cannot be read: {failed}"
            return self.get(texts)
        vectors = np.zeros((len(texts), DIM), np.uint32)
        each = DIM if self._is_sparse else 1
        vectors[found] = data.reshape(-1, DIM)[indptr[:-1][found] // each]
        stored = [text for text, is_found in zip(texts, found, strict=True) if is_found]
        expected = self._rows(stored, vectors[found])
        assert np.array_equal(np.unique(indptr), expected[2]), "wrong lengths"
        assert np.array_equal(data, expected[0]), "wrong elements"
        assert indices is None or np.array_equal(indices, expected[1]), "wrong indices"
        return found, vectors

    def delete(self, texts: list[str]) -> None:
        self._store.delete(text_keys(texts))

    def compact(self) -> None:
        self._store.compact()

    def refresh(self) -> None:
        self._store.refresh()

    def verify(self) -> dict[str, Any]:
        return _core.verify(self._path)

    def close(self) -> None:
        self._store.close()

    def _look_up(self, texts: list[str]) -> NDArray[np.int64]:
        rows = np.empty(len(texts), np.int64)
        self._store.lookup(text_keys(texts), rows)
        return rows

    def _rows(self, texts: list[str], vectors: NDArray[np.uint32]) -> tuple[Any, Any, Any]:
        """Numbers, indices and offsets of the rows of texts."""
        numbers = np.array([int(text.partition(":")[2]) for text in texts], np.int64)
        repeats = 1 + numbers % 3
        data = np.repeat(vectors, repeats, axis=0)
        each = DIM if self._is_sparse else 1
        indptr = np.concatenate([[0], np.cumsum(repeats * each)])
        if not self._is_sparse:
            return data, None, indptr
        indices = np.repeat(numbers - indptr[:-1], repeats * each) + np.arange(indptr[-1])
        return data.reshape(-1), indices.astype(np.int32), indptr


@dataclass(frozen=True)
class Life:
    """One cache and what is done to it.

    Attributes:
        path: its directory.
        texts: the texts of each writer, which only it stores, and those which all store (the last).
        largest: texts in a group, at most.
        durability: as of ``EmbeddingCache``.
        container: the files of the rows.
        keeps_texts: whether the texts are kept.
    """

    path: Path
    texts: list[list[str]]
    largest: int
    durability: Any
    container: Any
    keeps_texts: bool

    @property
    def deletable(self) -> int:
        """The first of a writer's own texts that it may delete."""
        return len(self.texts[0]) * 3 // 4

    def open(self, mode: Any = "a") -> EmbeddingCache | RowsWithElements:
        if self.container != "npy":
            return RowsWithElements(self, mode)
        return EmbeddingCache(
            self.path,
            model="kills@1",
            mode=mode,
            durability=self.durability,
            on_write_error="raise",
            keep_texts=self.keeps_texts and mode == "a",
        )

    def vectors(self, owner: int, numbers: NDArray[Any], versions: Any) -> NDArray[np.uint32]:
        """What each version of a text's vector is: (n, dim); the first number is the version."""
        columns = np.arange(DIM, dtype=np.uint64)
        mixed = (owner * 7919 + numbers[:, None]) * np.uint64(2654435761) + columns * np.uint64(97)
        versions = np.broadcast_to(np.asarray(versions, np.uint64), numbers.shape)
        vectors = (mixed * (versions[:, None] + np.uint64(40503)) >> np.uint64(7)).astype(np.uint32)
        vectors[:, 0] = versions
        return vectors

    def read(self, cache: EmbeddingCache | RowsWithElements, owner: int, numbers: NDArray[Any]) -> Versions:
        """The versions held of texts, 0 for none; every vector is checked."""
        found, vectors = cache.get([self.texts[owner][number] for number in numbers])
        if not found.any():
            return np.zeros(len(numbers), np.int64)
        versions = np.where(found, vectors[:, 0], 0).astype(np.int64)
        wrong = found & (vectors != self.vectors(owner, numbers, vectors[:, 0])).any(axis=1)
        assert not wrong.any(), f"wrong vectors of {owner}: {numbers[wrong]}"
        return versions


@dataclass
class Process:
    """A child, and what it told."""

    pid: int
    pipe: int
    owner: int | None
    told: bytearray = field(default_factory=bytearray)
    alive: bool = True


def write(life: Life, owner: int, version: int, tell: int, choose: random.Random) -> None:
    """Store groups for ever: the writer's own texts in new versions, and texts that all writers store."""
    own, shared = life.texts[owner], life.texts[-1]
    cache = life.open()
    while True:
        version += 1
        count = choose.randint(1, life.largest)
        kind = choose.random()
        if kind < 0.45:
            first = choose.randint(0, len(own) - count)
            os.write(tell, f"own {first} {count} {version}\n".encode())
            numbers = np.arange(first, first + count, dtype=np.uint64)
            cache.put(own[first : first + count], life.vectors(owner, numbers, version))
        elif kind < 0.52:
            # The first ones are never deleted, so that readers may expect them.
            count = min(count, len(own) - life.deletable)
            first = choose.randint(life.deletable, len(own) - count)
            os.write(tell, f"delete {first} {count} 0\n".encode())
            cache.delete(own[first : first + count])
        elif kind < 0.57:
            os.write(tell, b"compact 0 0 0\n")
            cache.compact()
        else:
            first = choose.randint(0, len(shared) - count)
            os.write(tell, f"shared {first} {count} 1\n".encode())
            places = {text: first + number for number, text in enumerate(shared[first : first + count])}
            cache.encode(
                list(places),
                lambda texts, places=places: life.vectors(  # type: ignore[misc]
                    len(life.texts) - 1, np.array([places[text] for text in texts], np.uint64), 1
                ),
            )
        os.write(tell, b"done\n")
        if choose.random() < 0.05:
            cache.close()
            cache = life.open()


def read(life: Life, choose: random.Random) -> None:
    """Read while there is a parent, and check that nothing is wrong, vanishes or goes back."""
    cache = None
    parent = os.getppid()
    while cache is None:
        try:
            cache = life.open("r")
        except CacheNotFoundError:
            continue
    seen = [np.zeros(len(texts), np.int64) for texts in life.texts]
    while os.getppid() == parent:
        owner = choose.randrange(len(life.texts))
        count = choose.randint(1, life.largest)
        first = choose.randint(0, len(life.texts[owner]) - count)
        versions = life.read(cache, owner, np.arange(first, first + count, dtype=np.uint64))
        part = seen[owner][first : first + count]
        is_own = owner < len(life.texts) - 1
        may_be_gone = is_own & (np.arange(first, first + count) >= life.deletable) & (versions == 0)
        assert ((versions >= part) | may_be_gone).all(), f"{owner} went back: {part} to {versions}"
        part[:] = np.maximum(part, versions)
        if choose.random() < 0.5:
            cache.refresh()
        if choose.random() < 0.02:
            cache.close()
            cache = life.open("r")


class Run:
    """One life: its processes, and what they acknowledged."""

    def __init__(self, life: Life, writers: int, choose: random.Random) -> None:
        self.life = life
        self.choose = choose
        self.acknowledged = [np.zeros(len(texts), np.int64) for texts in life.texts]
        self.version = [0] * writers
        self.groups = 0
        self.processes = [self._start(owner) for owner in [*range(writers), *[None] * READERS]]

    def kill_one(self, wait: float) -> None:
        """Kill somebody at a random moment, check what it left behind, and put another in its place."""
        place = self.choose.randrange(len(self.processes))
        process = self.processes[place]
        self._listen(self.choose.uniform(0, wait))
        self._kill(process)
        if process.owner is not None:
            self._check(process.owner, process.told)
        self.processes[place] = self._start(process.owner)

    def kill_all(self) -> None:
        """Kill who is left."""
        for process in self.processes:
            if process.alive:
                self._kill(process)

    def end(self) -> None:
        """Kill all, check everything, then check that opening the cache for writing changes nothing."""
        self.kill_all()
        for process in self.processes:
            if process.owner is not None:
                self._check(process.owner, process.told)
        if not (self.life.path / "meta.json").exists():
            return
        for mode in ("r", "a", "a"):
            with self.life.open(mode) as cache:
                report = cache.verify()
                assert report["damaged"] == report["problems"] == report["damaged_texts"] == [], report
                texts = report["rows"] - report["dead"] if self.life.keeps_texts else 0
                assert report["texts"] == texts, report
                for owner in range(len(self.version)):
                    self._check(owner, b"", cache)
                if mode == "a":
                    cache.put(["after:0"], np.zeros((1, DIM), np.uint32))

    def _start(self, owner: int | None) -> Process:
        seed = self.choose.random()
        listen, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if owner is None:
                    read(self.life, random.Random(seed))
                else:
                    write(self.life, owner, self.version[owner], tell, random.Random(seed))
            except BaseException:
                os.write(tell, f"error {traceback.format_exc()!r}\n".encode())
            finally:
                os._exit(1)
        os.close(tell)
        return Process(pid, listen, owner)

    def _listen(self, seconds: float) -> None:
        """Empty the pipes until the time has come."""
        end = time.monotonic() + seconds
        pipes = {process.pipe: process for process in self.processes}
        while (left := end - time.monotonic()) > 0:
            for pipe in select.select(list(pipes), [], [], left)[0]:
                told = os.read(pipe, 1 << 16)
                pipes[pipe].told += told
                if not told:
                    del pipes[pipe]

    def _kill(self, process: Process) -> None:
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        process.alive = False
        while told := os.read(process.pipe, 1 << 16):
            process.told += told
        os.close(process.pipe)
        assert b"error" not in process.told, process.told.decode()

    def _check(
        self, owner: int, told: bytes | bytearray, opened: EmbeddingCache | RowsWithElements | None = None
    ) -> None:
        """Compare the cache with what a killed writer told."""
        shared = len(self.life.texts) - 1
        begun: tuple[int, slice, int] | None = None
        for line in told.decode().splitlines():
            if line == "done":
                assert begun is not None
                self.acknowledged[begun[0]][begun[1]] = begun[2]
                begun = None
                self.groups += 1
            else:
                kind, first, count, version = line.split()
                is_own = kind in ("own", "delete")
                where = slice(int(first), int(first) + int(count))
                begun = (owner if is_own else shared, where, int(version))
                if kind == "own":
                    self.version[owner] = int(version)
        try:
            cache = opened or self.life.open("r")
        except CacheNotFoundError:
            assert not any(versions.any() for versions in self.acknowledged), "the cache is gone"
            return
        for whose in (owner, shared):
            expected = self.acknowledged[whose]
            held = self.life.read(cache, whose, np.arange(len(expected), dtype=np.uint64))
            if whose == shared:
                assert (held >= expected).all(), f"lost: {np.flatnonzero(held < expected)}"
                continue
            if begun is not None and begun[0] == owner:
                part = held[begun[1]]
                if begun[2] == 0:
                    # Of a deletion that was cut short, each text is gone or as it was.
                    expected[begun[1]] = np.where(part == 0, 0, expected[begun[1]])
                elif (part == begun[2]).all():
                    expected[begun[1]] = begun[2]
            assert (held == expected).all(), f"expected versions {expected} of {owner}, found {held}"
        if opened is None:
            cache.close()


def run(kills: int, seed: int) -> str:
    """Kill that many processes; tell what was done.

    Raises:
        AssertionError: something was lost or wrong.
    """
    choose = random.Random(seed)
    killed = groups = lives = 0
    kinds: Counter[str] = Counter()
    while killed < kills:
        large, writers = lives % 3 == 2, 1 if lives % 2 else 4
        count, largest = (40_000, 20_000) if large else (400, 64)
        texts = [[f"{owner}:{number}" for number in range(count)] for owner in range(writers + 1)]
        with tempfile.TemporaryDirectory() as directory:
            durability = choose.choice(["commit", "close"])
            container = CONTAINERS[lives % len(CONTAINERS)]
            # Each container with texts, and without.
            keeps_texts = lives // len(CONTAINERS) % 2 == 0
            kinds[f"{container} with texts" if keeps_texts else container] += 1
            life = Run(
                Life(Path(directory) / "cache", texts, largest, durability, container, keeps_texts),
                writers,
                choose,
            )
            try:
                for _ in range(min(KILLS_A_LIFE, kills - killed)):
                    life.kill_one(LONGEST_WAIT * (10 if large else 1))
                    killed += 1
                life.end()
            finally:
                life.kill_all()
        groups += life.groups
        lives += 1
    caches = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{killed} kills, {groups} groups acknowledged, in caches {caches}: nothing lost, nothing wrong"


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)))
