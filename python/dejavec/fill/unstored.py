"""The vectors of one call that are returned but not stored, and the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec.fill.vector_store import Positions
from dejavec.support.warn import warn
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows, blank, joined, merged

_NAMED = 5


def listed(name: Callable[[int], str], positions: Positions | list[int]) -> str:
    """Return the names of the first few items, and the number of others.

    Example:
        >>> listed("item {}".format, [3, 1, 4, 1, 5, 9, 2])
        'item 3, item 1, item 4, item 1, item 5 and 2 more'
    """
    names = [name(int(position)) for position in positions[:_NAMED]]
    more = len(positions) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


class Unstored:
    """Vectors that are kept in memory until the call returns.

    Args:
        count: how many items the call has.
        name: how messages name the item at a position.

    Attributes:
        nonfinite: positions of the items whose vectors hold NaN or infinity.
        inexact: positions of the items with lists that the stored dtype would round.
        failed: positions of items that the model did not make, and why.
    """

    def __init__(self, count: int, name: Callable[[int], str]) -> None:
        self.nonfinite: list[int] = []
        self.inexact: list[int] = []
        self.failed: list[tuple[Positions, Exception]] = []
        self._name = name
        self._blocks: list[Rows] = []
        # For each item, the position of its vector among all vectors in memory; -1 for none.
        self._slot = np.full(count, -1, np.int64)

    def blank(self, count: int, dim: int) -> Rows:
        """Return rows for vectors that are not stored, in the form of those in memory; float32 by default."""
        first = self._blocks[0] if self._blocks else None
        return blank(count, first, dim, np.float32 if first is None else first.dtype)

    def add(self, positions: Positions, rows: Rows) -> Rows:
        """Copy the vectors of k items into memory, and return the copies."""
        start = sum(len(block) for block in self._blocks)
        self._slot[positions] = np.arange(start, start + len(positions))
        # The model may reuse its output buffer for the next chunk.
        rows = rows.copy()
        self._blocks.append(rows)
        return rows

    def put_into(self, vectors: Rows, source: Positions) -> tuple[Rows, NDArray[np.bool_]]:
        """Put the vectors in memory into the vectors of a call.

        Args:
            vectors: the m vectors.
            source: position of the item that this call encoded for each vector, -1 for none (m,).

        Returns:
            The m vectors, of a dtype that holds both, and which of them came from memory (m,).
        """
        if not self._blocks:
            return vectors, np.zeros(len(vectors), np.bool_)
        slot = np.where(source < 0, -1, self._slot[source])
        found = slot >= 0
        return merged(vectors, found, joined(self._blocks)[slot[found]]), found

    def nonfinite_parts(self, positions: list[int]) -> dict[str, str]:
        """Return the parts of a message about vectors with NaN or infinity."""
        return {
            "expected": "finite vectors",
            "found": f"NaN or infinity in those of {listed(self._name, positions)}",
            "remedy": "they are not stored",
        }

    def warn(self, path: Path, output: Output) -> None:
        """Warn of vectors that are not stored: not made, not finite, or rounded if they were stored.

        Args:
            path: the directory of the cache.
            output: the array kind of the cache.
        """
        if self.failed:
            error = self.failed[0][1]
            items = listed(self._name, np.sort(np.concatenate([positions for positions, _ in self.failed])))
            warn(
                path,
                expected="a vector for each item",
                found=f"{type(error).__name__}: {error}, and so none for {items}",
                remedy="these are NaN and not stored: ask for them again",
            )
        if self.nonfinite:
            warn(path, **self.nonfinite_parts(self.nonfinite))
        if self.inexact:
            warn(
                path,
                expected=f"lists that {output.dtype} holds exactly",
                found=f"others for {listed(self._name, self.inexact)}",
                remedy='they are returned, not stored: pass dtype="float32" to store them rounded, or use '
                "another directory",
            )
