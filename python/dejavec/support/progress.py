"""Bars that show how far long work has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(shown: bool | None, total: int, unit: str = "item") -> Iterator[Callable[[int], object]]:
    """Show a bar, and yield what moves it on by a number of items.

    Args:
        shown: always, never, or (None) on a terminal.
        total: how many items there are; for none there is no bar.
        unit: what an item is called.
    """
    if total == 0 or shown is False:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="dejavec", unit=unit, disable=None if shown is None else False) as bar:
        yield bar.update
