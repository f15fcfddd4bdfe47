"""Many rows: opening, appending and looking up, on rows of 16 bytes, so that keys are most of the work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from benches import checks, memory
from benches.cases.base import Case, Measured, Place, timed
from benches.work import Setup

DIM = 4
_BLOCK = 1_000_000
_APPENDED = 8_192
_LOOKED_UP = 1_000_000

DEJAVEC = "dejavec"
NO_SNAPSHOT = "dejavec, no snapshot"
REPAIRED = "dejavec, one row repaired"
KILLED = "dejavec, writer killed"
MTEB = "mteb NumpyCache"
_MOST_OF_MTEB = 1_000_000


class Large(Case):
    """A cache of numbered keys: the key of row i is made of i, its vector is (i, i + 1, i + 2, i + 3)."""

    texts: ClassVar[bool] = False

    def setups(self, small: bool) -> Sequence[Setup]:
        sizes = (10_000,) if small else (100_000, 1_000_000, 10_000_000)
        return [Setup(rows, DIM) for rows in sizes]

    def contestants(self) -> Sequence[str]:
        return (DEJAVEC,)

    def takes_part(self, setup: Setup) -> list[str]:
        return [name for name in self.contestants() if name != MTEB or setup.rows <= _MOST_OF_MTEB]

    def prepare(self, place: Place) -> None:
        path = directory(place)
        if path.exists():
            return
        if place.contestant == MTEB:
            backend = _mteb(path)
            for start in range(0, place.setup.rows, _BLOCK):
                stop = min(start + _BLOCK, place.setup.rows)
                backend.add([{"text": str(i)} for i in range(start, stop)], vectors(start, stop))
            backend.save()
            return
        if place.contestant == KILLED:
            filled = f"_ = large.fill({str(path)!r}, {place.setup.rows})"
            script = f"import os; from benches.cases import large; {filled}; os.kill(os.getpid(), 9)"
            died = subprocess.run([sys.executable, "-c", script], check=False)
            checks.equal("status of a killed writer", died.returncode, -9)
            return
        fill(path, place.setup.rows).close()
        if place.contestant == REPAIRED:
            repair_one(path)
        if place.contestant == NO_SNAPSHOT:
            for snapshot in path.glob("index-*.idx"):
                snapshot.unlink()


class Open(Large):
    """Open a cache and read the vector of the row in its middle.

    Also of one that has no snapshot, of one of which a row was repaired, and of one whose writer was
    killed before it synced anything.
    """

    name = "open"
    title = "Open, and read one vector"
    item = "call"

    def contestants(self) -> Sequence[str]:
        return (DEJAVEC, NO_SNAPSHOT, REPAIRED, KILLED, MTEB)

    def measure(self, place: Place) -> Measured:
        row = place.setup.rows // 2  # What no snapshot covers is searched from the last row on.
        memory.reset_peak()
        before = memory.anonymous()
        if place.contestant == MTEB:
            seconds, vector = timed(lambda: _mteb(directory(place)).get_vector({"text": str(row)}))
        else:
            seconds, vector = timed(lambda: _open(directory(place), "r").get(keys(row, row + 1))[1][0])
        anonymous = memory.anonymous() - before
        checks.same(vector[None], vectors(row, row + 1))
        return Measured(seconds, 1, {"anonymous": anonymous})


class Append(Large):
    """Append one synced group of 8,192 rows to what is there."""

    name = "append"
    title = "Append 8,192 rows to a large cache"
    item = "row"

    def measure(self, place: Place) -> Measured:
        with _open(directory(place)) as cache:
            # Each round appends other keys. The cache is open, as in a run that encodes chunk after chunk,
            # and its keys were looked up, as they are before a model is asked for vectors.
            first = place.setup.rows + len(cache) + _BLOCK
            cache.append(keys(first, first + 1), vectors(first, first + 1), _output())
            new, rows = keys(first + 1, first + 1 + _APPENDED), vectors(first + 1, first + 1 + _APPENDED)
            checks.equal("keys that are there", int((cache.lookup(new) >= 0).sum()), 0)
            seconds, appended = timed(lambda: cache.append(new, rows, _output()))
            checks.equal("rows appended", appended, _APPENDED)
            found, held = cache.get(new)
            checks.equal("rows found", int(found.sum()), _APPENDED)
            checks.same(held, rows)
        return Measured(seconds, _APPENDED)


class LookUp(Large):
    """Find the rows of a million random keys, in one batch."""

    name = "lookup"
    title = "Look a million random keys up in one batch"
    item = "key"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else (*super().setups(small), Setup(100_000_000, DIM))

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        rng = np.random.default_rng(2)
        with _open(directory(place), "r") as cache:
            cache.lookup(_keys_of(rng.integers(0, rows, min(rows, _LOOKED_UP))))
            wanted = rng.integers(0, rows, min(rows, _LOOKED_UP))
            asked = _keys_of(wanted)
            seconds, found = timed(lambda: cache.lookup(asked))
        checks.equal("rows found in their place", int((found == wanted).sum()), len(wanted))
        return Measured(seconds, len(wanted))


def directory(place: Place) -> Path:
    """Where the cache of numbered keys lies."""
    kinds = {MTEB: "mteb", NO_SNAPSHOT: "bare", REPAIRED: "repaired", KILLED: "killed"}
    kind = kinds.get(place.contestant, "dejavec")
    return place.directory / f"numbered-{kind}-{place.setup.slug}"


def fill(path: str | Path, rows: int) -> Any:
    """Make a cache of numbered keys; it is open, and nothing of it synced."""
    cache = _open(Path(path))
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        cache.append(keys(start, stop), vectors(start, stop), _output())
    return cache


def repair_one(path: Path) -> None:
    """Damage the first row and have the cache repaired."""
    from dejavec import _core

    with (path / "vectors.npy").open("r+b") as file:
        file.seek(128)
        file.write(b"\xee")
    checks.equal("damaged rows", _core.repair(str(path), lock_timeout=60.0)["damaged"], [0])


def keys(start: int, stop: int) -> NDArray[np.uint8]:
    """The keys of the rows from ``start`` to ``stop`` (n, 32)."""
    return _keys_of(np.arange(start, stop))


def vectors(start: int, stop: int) -> NDArray[np.float32]:
    """Their vectors (n, 4)."""
    return (np.arange(start, stop)[:, None] + np.arange(DIM)).astype(np.float32)


def _keys_of(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Thirty-two bytes of each number, spread as a digest's are (splitmix64)."""
    words: Any = numbers.astype(np.uint64)[:, None] * np.uint64(4) + np.arange(1, 5, dtype=np.uint64)
    words *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return (words ^ (words >> np.uint64(31))).view(np.uint8)


def _open(path: Path, mode: Literal["a", "r"] = "a") -> Any:
    from dejavec.storage.identity import describe
    from dejavec.storage.keyed_cache import KeyedCache

    synced_last: Any = {} if mode == "r" or path.exists() else {"durability": "close"}
    return KeyedCache(path, identity=describe("numbered@1", None), mode=mode, **synced_last)


def _output() -> Any:
    from dejavec.vectors.output import Output

    return Output("numpy", "float32")


def _mteb(path: Path) -> Any:
    from mteb.models.cache_wrappers.cache_backends import NumpyCache

    backend = NumpyCache(path)
    backend.load()
    return backend
