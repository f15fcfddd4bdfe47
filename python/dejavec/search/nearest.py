"""The nearest rows so far, while rows are compared block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dejavec.search.metric import import_faiss


class Nearest:
    """The k nearest of the candidates that each of n queries has been compared with.

    Args:
        count: n.
        k: how many to keep for each query.
        more_is_nearer: whether larger numbers are nearer.

    Example:
        >>> nearest = Nearest(1, 2, more_is_nearer=True)
        >>> nearest.compare(np.array([[0.5, 0.9]], np.float32), 0)
        >>> nearest.compare(np.array([[0.7]], np.float32), 2)
        >>> nearest.found()
        (array([[0.9, 0.7]], dtype=float32), array([[1, 2]]))
    """

    def __init__(self, count: int, k: int, *, more_is_nearer: bool) -> None:
        faiss = import_faiss()
        self.k = k
        self._farthest = np.float32(-np.inf if more_is_nearer else np.inf)
        self._distances = np.empty((count, k), np.float32)
        self._positions = np.empty((count, k), np.int64)
        self._pointer = faiss.swig_ptr
        # The root of the heap is the farthest of the nearest.
        self._heap = faiss.float_minheap_array_t() if more_is_nearer else faiss.float_maxheap_array_t()
        self._heap.nh, self._heap.k = count, k
        self._heap.val, self._heap.ids = self._pointer(self._distances), self._pointer(self._positions)
        self._heap.heapify()

    def compare(self, distances: NDArray[np.float32], first: int) -> None:
        """Take distances (n, m) of the m candidates from position ``first`` on."""
        self._heap.addn(distances.shape[1], self._pointer(np.ascontiguousarray(distances)), first)

    def merge(self, distances: NDArray[np.float32], positions: NDArray[np.int64]) -> None:
        """Take distances and positions (n, m) of the nearest of some candidates, -1 for none."""
        numbers = np.where(positions < 0, self._farthest, distances).astype(np.float32, copy=False)
        width = positions.shape[1]
        self._heap.addn_with_ids(width, self._pointer(numbers), self._pointer(positions), width)

    def found(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return distances and positions (n, k), the nearest first; -1 where there were fewer than k."""
        self._heap.reorder()
        self._distances[self._positions < 0] = self._farthest
        return self._distances, self._positions
