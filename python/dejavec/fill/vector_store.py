"""Where vectors are found and stored, as :func:`dejavec.fill.fill` asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dejavec.fill.in_flight import InFlight
from dejavec.keys.items import Keys
from dejavec.vectors.arrays import Output, Rows

Positions = NDArray[np.intp]
"""Positions in the items of one call, shape (k,)."""


class VectorStore(Protocol):
    """Where :func:`fill` finds vectors and stores new ones: ``KeyedCache``, or what stands in for it."""

    @property
    def path(self) -> Path:
        """The directory."""

    @property
    def dim(self) -> int | None:
        """Numbers in a vector; None before the first vector."""

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The stored dtype; None before the first vector."""

    @property
    def output(self) -> Output | None:
        """The kind of array that the model returned; None before the first vector."""

    def refresh(self) -> int:
        """Learn what others have stored."""

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each key's row or -1, and the position of the first equal key of a miss."""

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row or -1."""

    def gather(
        self, keys: Keys, rows: NDArray[np.int64], *, as_returned: bool = False
    ) -> tuple[Rows, list[int]]:
        """Return the vectors (n, dim) of rows, and the positions of those that are damaged.

        They are of the stored dtype, or may be of that which the model returned if ``as_returned``.
        """

    def append(self, keys: Keys, rows: Rows, output: Output, seen: NDArray[np.int64] | None) -> int:
        """Store rows for different keys, whose rows were ``seen`` before; return how many."""

    @property
    def in_flight(self) -> InFlight:
        """What callers of this process are encoding for this cache just now."""
