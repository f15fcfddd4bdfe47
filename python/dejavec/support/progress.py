"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(shown: bool | None, total: int, unit: str = "item") -> Iterator[Callable[[int], object]]:
    """Show a bar, and yield a function that advances it by a number of items.

    Args:
        shown: whether to show the bar; None: on a terminal.
        total: how many items there are; with 0 there is no bar.
        unit: the name of an item.
    """
    if total == 0 or shown is False:
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="dejavec", unit=unit, disable=None if shown is None else False) as bar:
        yield bar.update
