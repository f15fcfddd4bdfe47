"""How long ``aencode`` keeps the event loop waiting, with a cache of many rows.

Run as ``python benches/loop_latency.py [rows]``. A task sleeps for a millisecond again and again, and notes
how late it wakes. On a machine with other work this says little, so the processor time of the call's own
thread while the loop was late is shown too: the call cannot have held the interpreter for longer.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tempfile
import threading
import time

import numpy as np

from dejavec import EmbeddingCache

DIM = 16


async def embed(texts: list[str]) -> np.ndarray:
    return np.zeros((len(texts), DIM), np.float32)


class Watcher:
    """Notes how late a task wakes."""

    def __init__(self) -> None:
        self.late: list[tuple[float, float]] = []
        self._ends = False

    async def run(self) -> None:
        while not self._ends:
            began, before = time.perf_counter(), _threads_seconds()
            await asyncio.sleep(0.001)
            late = time.perf_counter() - began - 0.001
            after = _threads_seconds()
            own = sum(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
            self.late.append((late, min(late, own)))

    def stop(self) -> None:
        self._ends = True

    def report(self, what: str, seconds: float) -> None:
        latest = max(late for late, _ in self.late)
        held = max(own for _, own in self.late)
        print(
            f"{what:24} {seconds * 1e3:8.1f} ms, latest {latest * 1e3:6.1f} ms, "
            f"held at most {held * 1e3:6.1f} ms"
        )


def _threads_seconds() -> dict[int, float]:
    """The processor time of each thread of a call."""
    found = {}
    for thread in threading.enumerate():
        if thread.name == "dejavec" and thread.ident is not None:
            found[thread.ident] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found


async def main(rows: int) -> None:
    texts = [f"text number {number} of those that are as long as a short sentence" for number in range(rows)]
    calls = {
        "one text": texts[:1],
        "10,000 texts": texts[:10_000],
        "all texts": texts,
        "all texts, as a tuple": tuple(texts),
        "a third, in no order": texts[::-3],
        "10,000 missing": [f"new {number}" for number in range(10_000)],
    }
    gc.freeze()  # The collector would walk through these texts, whoever made it run.
    with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, model="m@1") as cache:
        cache.put(texts, np.ones((rows, DIM), np.float32))
        idle = Watcher()
        task = asyncio.create_task(idle.run())
        await asyncio.sleep(0.5)
        idle.stop()
        await task
        idle.report("nothing", 0.5)
        for name, some in calls.items():
            watcher = Watcher()
            task = asyncio.create_task(watcher.run())
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await cache.aencode(some, embed, batch_size=1_000)
            seconds = time.perf_counter() - began
            await asyncio.sleep(0.01)
            watcher.stop()
            await task
            watcher.report(name, seconds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
