"""Work on items while a thread makes the next one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, and let a thread make the next one meanwhile.

    Args:
        items: they are made by one thread at a time, in their order.

    Example:
        >>> list(one_ahead(iter([1, 2, 3])))
        [1, 2, 3]
    """
    end = object()
    with ThreadPoolExecutor(1, "dejavec") as thread:
        following = thread.submit(next, items, end)
        while (item := following.result()) is not end:
            following = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
