"""The model's part of one encode call: chunks in, dense vectors out."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.loaders import Items, Positions, UncacheableError
from dejavec.model_identity import Kind

NOT_DENSE = "the model's output is no dense 2-D array"

_TORCH_NUMBERS = re.compile(r"torch\.(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)")


class ModelCall:
    """Asks the model for the vectors of some of a call's items.

    Args:
        model: the model.
        kind: how much is known of the model's ``encode``.
        items: all items of the call.
        arguments: the caller's arguments besides the loader.
        chunk_rows: how many items are asked for at a time.
    """

    def __init__(
        self, model: Any, kind: Kind, items: Items, *, arguments: dict[str, Any], chunk_rows: int
    ) -> None:
        self._model = model
        self._items = items
        self._kind = kind
        self._arguments = arguments
        self._chunk_rows = chunk_rows
        self._lengths: NDArray[np.int64] | None = None

    def order(self, misses: Positions) -> Positions:
        """Sort as sentence-transformers sorts a call: its batches are the same if that is cut into chunks."""
        if self._kind == "other" or len(misses) <= self._chunk_rows:
            return misses
        self._lengths = np.zeros(len(self._items), np.int64)
        self._lengths[misses] = self._items.text_lengths(misses)
        return misses[np.argsort(-self._lengths[misses])]

    def encode(self, positions: Positions) -> Any:
        """Return the vectors (k, dim) of the items at these positions, as the model made them.

        Raises:
            UncacheableError: they are no dense 2-D array.
        """
        if self._items.is_whole(positions):
            vectors = self._model.encode(self._items.inputs, **self._arguments)
            if not is_dense(vectors):
                raise UncacheableError(NOT_DENSE, vectors=vectors)
            return vectors
        places = None
        if self._lengths is not None:
            # The model sorts the chunk again, and may move texts of equal length into another batch. Where it
            # moves each one is known, so each is put where it will be moved from.
            places = np.argsort(-self._lengths[positions])
            given = np.empty_like(positions)
            given[places] = positions
            positions = given
        vectors = self._model.encode(self._items.loader(positions), **self._arguments)
        if not is_dense(vectors):
            raise UncacheableError(NOT_DENSE)
        return vectors if places is None or len(vectors) != len(places) else vectors[places]


def is_dense(vectors: object) -> bool:
    """Tell whether these are a plain array or dense tensor (n, dim) of numbers that can be stored.

    Example:
        >>> is_dense(np.zeros((2, 3))), is_dense(np.zeros((2, 3, 4))), is_dense([[1.0]])
        (True, False, False)
    """
    torch = sys.modules.get("torch")
    if type(vectors) is np.ndarray:
        number = vectors.dtype.kind in "fiub" and vectors.dtype.itemsize <= np.dtype(np.float64).itemsize
    elif torch is not None and isinstance(vectors, torch.Tensor):
        number = vectors.layout is torch.strided and bool(_TORCH_NUMBERS.fullmatch(str(vectors.dtype)))
    else:
        return False
    return number and vectors.ndim == 2 and vectors.shape[1] > 0
