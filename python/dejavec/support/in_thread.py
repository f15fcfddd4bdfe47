"""Run blocking work in a thread for an event loop, and run coroutines of that work in the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _Loop:
    """The event loop of a call, and the coroutine that its thread waits for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waited_for: concurrent.futures.Future[Any] | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        if self.waited_for is not None:
            self.waited_for.cancel()


async def call_in_thread(work: Callable[[_Loop], T]) -> T:
    """Run ``work`` in a new thread, and return its result.

    The loop's executor is not used: all of its threads may wait for a coroutine that needs one of them.

    Args:
        work: gets an argument for :func:`wait_for`. If the caller is cancelled, so is the coroutine.
    """
    calling = _Loop()
    done: asyncio.Future[T] = calling.loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work(calling)
        except BaseException as raised:
            error = raised
        if isinstance(error, StopIteration):
            error = RuntimeError(f"the function raised {error!r}")  # Futures refuse it.
        if not calling.loop.is_closed():
            calling.loop.call_soon_threadsafe(settle, result, error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="dejavec", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        calling.cancel()
        raise


def wait_for(calling: _Loop, coroutine: Awaitable[T]) -> T:
    """Run a coroutine in the loop of the caller, and wait for its result in the thread of the call.

    Raises:
        asyncio.CancelledError: the call was cancelled.
        Exception: the exception of the coroutine.
    """

    async def awaited() -> T:
        return await coroutine

    calling.waited_for = asyncio.run_coroutine_threadsafe(awaited(), calling.loop)
    if calling.is_cancelled:
        calling.waited_for.cancel()
    try:
        result: T = calling.waited_for.result()
    except concurrent.futures.CancelledError:
        # `CancelledError` does not reach callers in other threads that wait for the same texts.
        raise asyncio.CancelledError from None
    return result
