"""Byte ranges to read: near ones are merged, but only as long as few bytes more are read than wanted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_MORE = 1.25
"""The most bytes that are read besides the wanted ones, as a multiple of these."""

_FREE = 64 << 10
"""Bytes that cost less than a request, however few are wanted."""

Bounds = NDArray[np.int64]
"""Starts or ends of ranges (n,)."""


def merged(starts: Bounds, ends: Bounds, most: int) -> tuple[Bounds, Bounds, NDArray[np.intp]]:
    """Merge ranges, the nearest ones first.

    Args:
        starts: where each begins, ascending. None is empty, and none begins before the end of the one before.
        ends: where each ends.
        most: the most bytes of a merged range; a longer range stays alone.

    Returns:
        Starts and ends of the merged ranges, and the number of the merged range of each range (n,).

    Example:
        >>> merged(np.array([0, 12, 90_000]), np.array([10, 22, 90_010]), 1 << 20)
        (array([    0, 90000]), array([   22, 90010]), array([0, 0, 1]))
    """
    gaps = starts[1:] - ends[:-1]
    order = np.argsort(gaps, kind="stable")
    joins = np.zeros(len(gaps), np.bool_)
    joins[order[np.cumsum(gaps[order]) <= max(int((ends - starts).sum() * MOST_MORE), _FREE)]] = True
    firsts, begin = [0], int(starts[0])
    for at, (start, end, joined) in enumerate(
        zip(starts[1:].tolist(), ends[1:].tolist(), joins.tolist(), strict=True), 1
    ):
        if not joined or end - begin > most:
            firsts.append(at)
            begin = start
    first = np.array(firsts, np.intp)
    behind = np.append(first[1:], len(starts))
    return starts[first], ends[behind - 1], np.repeat(np.arange(len(first)), behind - first)
