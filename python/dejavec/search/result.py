"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The nearest vectors of n queries, k for each, the nearest first.

    Where there are fewer than k vectors, the remaining row numbers and positions are -1, the texts None, and
    the distances infinitely far.

    Attributes:
        distances: float32 (n, k). With ``"cosine"`` and ``"ip"`` more is nearer, with ``"l2"`` (squared) and
            ``"hamming"`` (bits) less is.
        rows: row numbers in ``EmbeddingCache.vectors`` (n, k). A row number is no position in a list of
            texts.
        texts: the texts of the rows, n lists of k; None for a text that is neither given nor kept. None if
            no texts were asked for.
        positions: positions in the corpus that was given (n, k), -1 for a row of another text. None if no
            corpus was given.
    """

    distances: NDArray[np.float32]
    rows: NDArray[np.int64]
    texts: list[list[str | None]] | None = None
    positions: NDArray[np.int64] | None = None
