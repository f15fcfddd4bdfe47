"""Run blocking work in a thread for an event loop, and run coroutines of that work in the loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """The event loop of a call, and the coroutine that its thread waits for."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waited_for: concurrent.futures.Future[Any] | None = None
        self.is_cancelled = False
        self.is_running = False

    def ended(self, _: object) -> None:
        """Note that the coroutine ended."""
        self.is_running = False

    def cancel(self) -> bool:
        """Cancel the coroutine; return whether there was one. If not, the work may take long to notice."""
        self.is_cancelled, was_running = True, self.is_running
        if self.waited_for is not None:
            self.waited_for.cancel()  # Calls `ended`.
        return was_running


async def call_in_thread(work: Callable[[Loop], T]) -> T:
    """Run ``work`` in a new thread, and return its result.

    The loop's executor is not used: all of its threads may wait for a coroutine that needs one of them.

    Args:
        work: gets an argument for :func:`wait_for`. If the caller is cancelled, so is the coroutine, and the
            work keeps what it has before the caller goes on.
    """
    calling = Loop()
    done: asyncio.Future[T] = calling.loop.create_future()
    ended = asyncio.Event()

    def settle(result: Any, error: BaseException | None) -> None:
        ended.set()
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
        if calling.cancel():
            await ended.wait()
        raise


def start(calling: Loop, coroutine: Awaitable[T]) -> concurrent.futures.Future[T]:
    """Start a coroutine in the loop of the caller. One of a call runs at a time."""

    async def awaited() -> T:
        return await coroutine

    calling.is_running = True  # Before it may run, and see the caller cancelled.
    started: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(awaited(), calling.loop)
    calling.waited_for = started
    if calling.is_cancelled:
        started.cancel()
    started.add_done_callback(calling.ended)
    return started


def wait_for(calling: Loop, coroutine: Awaitable[T]) -> T:
    """Run a coroutine in the loop of the caller, and wait for its result in the thread of the call.

    Raises:
        asyncio.CancelledError: the call was cancelled.
        Exception: the exception of the coroutine.
    """
    return result_of(start(calling, coroutine))


def result_of(started: concurrent.futures.Future[T]) -> T:
    """Wait for the result of a coroutine in the thread of the call: see :func:`wait_for`."""
    try:
        result: T = started.result()
    except concurrent.futures.CancelledError:
        # `CancelledError` does not reach callers in other threads that wait for the same texts.
        raise asyncio.CancelledError from None
    return result
