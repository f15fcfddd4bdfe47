"""Vectors from a coroutine function: several batches are awaited at a time, each committed as it returns."""

from __future__ import annotations

import asyncio
import inspect
import queue
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from dejavec.fill.chunks import Batch, Blocks, Failed
from dejavec.fill.settings import OnError
from dejavec.support.in_thread import Loop, result_of, start


def awaited(
    function: Callable[[list[str]], Awaitable[Any]],
    texts: list[str],
    loop: Loop,
    *,
    batch_size: int,
    concurrency: int,
    on_error: OnError,
) -> Blocks:
    """Return the vectors of texts in the order in which a coroutine function returns them.

    Args:
        function: returns the vectors of k texts.
        texts: the texts.
        loop: the event loop that runs it; another thread reads the blocks.
        batch_size: the most texts that the function gets at a time.
        concurrency: how many batches are awaited at a time.
        on_error: whether no more batches are started after one failed, and its exception is raised once the
            others have returned; or whether the items of a failed batch stay missing.
    """
    pool = _Pool(function, texts, batch_size, on_error)
    return Blocks(pool.blocks(loop, concurrency), commit_each=True)


class _Pool:
    """The batches of one call, and the coroutines that await them."""

    def __init__(
        self,
        function: Callable[[list[str]], Awaitable[Any]],
        texts: list[str],
        batch_size: int,
        on_error: OnError,
    ) -> None:
        self._function = function
        self._texts = texts
        self._batch_size = batch_size
        self._on_error = on_error
        self._starts = iter(range(0, len(texts), batch_size))
        self._error: Exception | None = None
        # Blocks from the loop to the thread of the call; None is the end.
        self._made: queue.SimpleQueue[Batch | Failed | None] = queue.SimpleQueue()

    def blocks(self, loop: Loop, concurrency: int) -> Iterator[Batch | Failed]:
        running = start(loop, self._run(concurrency))
        running.add_done_callback(lambda _: self._made.put(None))
        try:
            while (block := self._made.get()) is not None:
                yield block
        finally:
            running.cancel()
        result_of(running)
        if self._error is not None:
            raise self._error

    async def _run(self, concurrency: int) -> None:
        await asyncio.gather(*(self._work() for _ in range(concurrency)))

    async def _work(self) -> None:
        for at in self._starts:
            batch = self._texts[at : at + self._batch_size]
            coroutine = self._function(batch)
            if not inspect.isawaitable(coroutine):
                found = type(coroutine).__name__
                raise TypeError(f"expected a coroutine function, found one that returned {found}")
            try:
                self._made.put(Batch(await coroutine, len(batch), at))
            except Exception as error:
                if self._on_error == "skip":
                    self._made.put(Failed(error, len(batch), at))
                    continue
                self._error = self._error or error
            if self._error is not None:
                return
