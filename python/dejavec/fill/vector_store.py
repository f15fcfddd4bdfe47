"""The store that :func:`dejavec.fill.fill` needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dejavec._core import Numbering
from dejavec.fill.in_flight import InFlight
from dejavec.keys.items import Keys
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows


@dataclass(frozen=True)
class Seen:
    """The rows that a look-up saw.

    Attributes:
        rows: the row number of each of n items, -1 for none (n,).
        numbering: what the numbers belong to: the store's ``numbering`` from before the look-up.
    """

    rows: NDArray[np.int64]
    numbering: Numbering | None

    def at(self, positions: NDArray[Any]) -> Seen:
        """Return those of some items, at their positions (k,)."""
        return Seen(self.rows[positions], self.numbering)


Positions = NDArray[np.intp]
"""Positions among the items of one call, shape (k,)."""


class VectorStore(Protocol):
    """Where :func:`fill` finds and stores vectors: a ``KeyedCache``, or an object with the same methods."""

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
        """The array kind of the stored vectors; None before the first vector."""

    @property
    def row_bytes(self) -> int:
        """How many bytes a row adds on disk, with its key; the mean of ragged rows; 0 before the first."""

    @property
    def numbering(self) -> Numbering | None:
        """What row numbers belong to; None before the first vector, and where they never change."""

    def refresh(self) -> int:
        """Read the commits of other processes; return the number of rows."""

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each key's row number or -1, and for misses the position of the first equal key."""

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row number or -1."""

    def gather(
        self, keys: Keys, rows: NDArray[np.int64], *, as_returned: bool = False
    ) -> tuple[Rows, list[int]]:
        """Return the vectors at row numbers, and the positions of damaged rows.

        They have the stored dtype. With ``as_returned``, they may have the dtype that the model returned.
        """

    def append(
        self,
        keys: Keys,
        rows: Rows,
        output: Output,
        seen: Seen | None,
        texts: list[str] | None = None,
    ) -> int | None:
        """Store rows for different keys, and return how many; None if rows have other numbers than ``seen``.

        ``seen`` are the keys' rows before, ``texts`` the texts that are kept beside the rows.
        """

    @property
    def in_flight(self) -> InFlight:
        """The items that callers of this process are encoding for this cache."""
