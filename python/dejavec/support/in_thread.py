"""Blocking work that an event loop waits for, and coroutines that such work waits for."""

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
    """Run ``work`` in a thread of its own, and return what it returns.

    Not in the loop's executor, whose threads may all wait for a coroutine that needs one of them.

    Args:
        work: gets what :func:`wait_for` wants. If the caller is cancelled, so is the coroutine it waits for.
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
            error = RuntimeError(f"the function raised {error!r}")  # No future takes it.
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
    """Return what a coroutine returns that runs in the loop of the caller, waiting in the thread of the call.

    Raises:
        asyncio.CancelledError: the call was cancelled.
        Exception: whatever the coroutine raises.
    """

    async def awaited() -> T:
        return await coroutine

    calling.waited_for = asyncio.run_coroutine_threadsafe(awaited(), calling.loop)
    if calling.is_cancelled:
        calling.waited_for.cancel()
    try:
        result: T = calling.waited_for.result()
    except concurrent.futures.CancelledError:
        # Callers in other threads who wait for the same texts are not cancelled by that.
        raise asyncio.CancelledError from None
    return result
