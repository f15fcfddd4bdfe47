"""The order in which sentence-transformers encodes the items of a call, so that chunks have its batches.

Sentence-transformers sorts the items of a call by length, and computes them batch by batch. A chunk must
consist of whole batches of that order. But the model sorts the items of each chunk again, with an unstable
sort that may move items of equal length into another batch. The permutation of that sort depends only on the
lengths. So the items of a chunk are permuted first, such that the sort restores our order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.fill.chunks import Blocks, row_count
from dejavec.fill.vector_store import Positions


class LengthOrder:
    """The order of all items of one call, not only of those that are encoded.

    So items of equal length keep their order if an interrupted call is continued.

    Args:
        lengths: the length of each item (n,), as the model measures it.
        interleave: mixes long and short items, as the model does if it needs no padding: it gets positions in
            descending length, and returns them in the order of the batches. None: the model pads.
    """

    def __init__(
        self, lengths: NDArray[np.int64], interleave: Callable[[Positions], Positions] | None
    ) -> None:
        self._lengths = lengths
        self._interleaves = interleave is not None
        order = np.argsort(-lengths)
        self._order: Positions = order if interleave is None else interleave(order)

    def of(self, positions: Positions) -> Positions:
        """Return some positions in the order in which the model encodes their items."""
        chosen = np.zeros(len(self._order), np.bool_)
        chosen[positions] = True
        return self._order[chosen[self._order]]

    def encode(self, positions: Positions, encode: Callable[[Positions], Any]) -> Any:
        """Return the model's result for items in the order of :meth:`of`, computed in that order.

        Args:
            positions: the positions of the items (k,).
            encode: returns the model's vectors of the items at some positions.
        """
        places = np.argsort(-self._lengths[positions])
        given = np.empty_like(positions)
        given[places] = positions
        vectors = encode(given)
        return _taken(vectors, places) if row_count(vectors) == len(places) else vectors

    def encode_batches(
        self, positions: Positions, encode: Callable[[Positions], Any], batch_rows: int
    ) -> Any:
        """Return the same, or :class:`dejavec.fill.chunks.Blocks` if a longer call would have other batches.

        Args:
            positions: the positions of the items (k,).
            encode: returns the model's vectors of the items at some positions.
            batch_rows: how many items the model computes together.
        """
        if not self._interleaves:
            return self.encode(positions, encode)
        starts = range(0, len(positions), batch_rows)
        batches = (positions[start : start + batch_rows] for start in starts)
        return Blocks((self.encode(batch, encode) for batch in batches), commit_each=False)


def interleave_of(model: Any) -> Callable[[Positions], Positions] | None:
    """Return how a sentence-transformer mixes long and short items; None if it sorts them by length."""
    if not getattr(model, "_can_flatten_inputs", bool)():
        return None
    interleave: Callable[[Positions], Positions] = model._interleave_sorted_indices
    return interleave


def _taken(vectors: Any, places: Positions) -> Any:
    """Return the vectors at some places, in the form in which the model returned all of them."""
    if isinstance(vectors, list):
        return [vectors[place] for place in places]
    if getattr(vectors, "is_sparse", False):
        import torch

        return torch.index_select(vectors, 0, torch.as_tensor(places, device=vectors.device))
    return vectors[places]
