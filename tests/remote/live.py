"""Try a store that nobody could try here: ``python tests/remote/live.py s3://bucket/a-new-prefix``.

It takes ten minutes over a slow line: 77 MB go there and come back. Everything that it wrote there is removed
again. Send what it prints to the developers; it has no credentials and no name of a bucket.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np

import dejavec
from dejavec import EmbeddingCache
from dejavec.remote import push as pushing
from dejavec.remote.objects import Objects
from dejavec.remote.urls import obstore, place, split
from dejavec.sharing import tidy


@contextmanager
def step(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"ok  {name:45} {time.monotonic() - began:8.2f} s", flush=True)


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"WRONG: {what}")


def try_store(url: str, rows: int) -> None:
    """Share, read and remove caches at an address."""
    pushing.SEGMENT_BYTES = 24 << 20
    texts = [f"text {number}" for number in range(rows)]
    vectors = np.random.default_rng(0).standard_normal((rows, 384)).astype(np.float32)
    objects = Objects(place(url, missing="make"))
    check(objects.top() == ([], []), "the prefix is not empty: choose a new one")
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        with EmbeddingCache(base / "mine", model="trial@1") as mine:
            mine.put(texts, vectors)
            with step(f"push of {vectors.nbytes / 1e6:.0f} MB"):
                check(mine.push(url).rows == rows, "rows were not pushed")
            with step("a second push, of nothing"):
                check(mine.push(url).rows == 0, "rows were pushed twice")
            with step("pull of everything"), EmbeddingCache(base / "yours", model="trial@1") as yours:
                pulled = yours.pull(url)
                check((pulled.rows, pulled.skipped) == (rows, []), f"rows were not pulled: {pulled}")
                check(np.array_equal(yours.get(texts)[1], vectors), "other vectors came back")
            with (
                step("1 % of the rows, by range"),
                EmbeddingCache(base / "some", model="trial@1", remote=url) as some,
            ):
                check(
                    np.array_equal(some.get(texts[::100])[1], vectors[::100]), "other vectors came by range"
                )
                check(len(some) == len(texts[::100]), "other rows came too")
            with step("a deletion"), EmbeddingCache(base / "yours", model="trial@1") as yours:
                mine.delete(texts[:10])
                check(mine.push(url).deleted == 10, "nothing was deleted there")
                check(yours.pull(url).deleted == 10, "nothing was deleted here")
            with step("small segments"):
                for at in range(3):
                    mine.put([f"more {at}"], vectors[at : at + 1])
                    mine.push(url)
                done = tidy(url, grace=timedelta(0))
                tidy(url, grace=timedelta(0))
                check(done.merged >= 3, f"they were not merged: {done}")
            with step("pull of the merged store"), EmbeddingCache(base / "last", model="trial@1") as last:
                check(last.pull(url).rows == rows - 10 + 3, "the merged store has other rows")
    with step("removal of the trial"):
        objects.remove([found.name for name in objects.top()[0] for found in objects.below(name)])
    check(objects.top()[0] == [] or split(url)[0] == "file", "something is left")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    print(f"dejavec {dejavec.__version__}, obstore {obstore().__version__}, {platform.platform()}")
    print(f"scheme {split(sys.argv[1])[0]}")
    try_store(sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 50_000)
    print("all of it works")
