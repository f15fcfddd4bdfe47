"""Every result that is timed is compared with the vectors that belong to its texts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16_384


class CheckError(Exception):
    """A contestant returned something else than was stored."""


def same(found: Any, expected: Any, numbers: NDArray[np.int64] | None = None) -> None:
    """Check that row i of ``found`` is, bit for bit, row ``numbers[i]`` of ``expected``, or row i."""
    rows = len(expected) if numbers is None else len(numbers)
    if found.shape != (rows, expected.shape[1]) or found.dtype != expected.dtype:
        raise CheckError(
            f"expected {(rows, expected.shape[1])} {expected.dtype}, found {found.shape} {found.dtype}"
        )
    for start in range(0, rows, _BLOCK):
        stop = min(start + _BLOCK, rows)
        wanted = expected[start:stop] if numbers is None else expected[numbers[start:stop]]
        if found[start:stop].tobytes() != wanted.tobytes():
            raise CheckError(f"rows {start} to {stop} hold other vectors than were stored")


def equal(what: str, found: object, expected: object) -> None:
    """Check a count or the like."""
    if found != expected:
        raise CheckError(f"expected {what} {expected}, found {found}")
