"""A copy of a long list in pieces, so that no step of it holds the interpreter for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

PIECE = 1 << 16
"""How many items are copied, hashed or freed in one step; other threads get a turn between two. To copy or to
free so many takes less than a millisecond; a million at once would take ten."""


class Pieces:
    """A fixed copy of a list.

    Args:
        items: the list.

    Attributes:
        pieces: the items, at most :data:`PIECE` in each tuple.

    Example:
        >>> copy = Pieces(["a", "b"])
        >>> copy[1], len(copy), list(copy)
        ('b', 2, ['a', 'b'])
    """

    def __init__(self, items: list[Any]) -> None:
        self.pieces: list[tuple[Any, ...]] = []
        for start in range(0, len(items), PIECE):
            self.pieces.append(tuple(items[start : start + PIECE]))
            _give_way()
        self._length = sum(map(len, self.pieces))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Any:
        return self.pieces[position // PIECE][position % PIECE]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.pieces)

    def __del__(self) -> None:
        while self.pieces:
            self.pieces.pop()
            _give_way()


def _give_way() -> None:
    """Let another thread have the interpreter now. Without a pause it would wait for five milliseconds."""
    time.sleep(1e-6)
