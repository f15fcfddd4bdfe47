"""The model's part of one encode call: chunks in, dense vectors out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.mteb.loaders import Items, Positions, UncacheableError
from dejavec.mteb.model_identity import Kind
from dejavec.values import Output, Rows

NOT_DENSE = "the model's output is no dense 2-D array"

_TORCH_NUMBERS = re.compile(r"torch\.(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)")


class ModelCall:
    """Asks the model for the vectors of some of a call's items.

    Args:
        model: returns the model, which may have to be built for it.
        kind: how much is known of the model's ``encode``.
        items: all items of the call.
        arguments: the caller's arguments besides the loader.
        chunk_rows: how many items are asked for at a time.
        refusal: says why vectors cannot be stored, None if they can.

    Attributes:
        encoded: whether the model was asked for anything.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        kind: Kind,
        items: Items,
        *,
        arguments: dict[str, Any],
        chunk_rows: int,
        refusal: Callable[[Any], str | None],
    ) -> None:
        self._model = model
        self._items = items
        self._kind = kind
        self._refusal = refusal
        self._arguments = arguments
        self._chunk_rows = chunk_rows
        self._lengths: NDArray[np.int64] | None = None
        self.encoded = False

    def order(self, misses: Positions) -> Positions:
        """Sort as sentence-transformers sorts a call: its batches are the same if that is cut into chunks."""
        if self._kind == "other" or not self._items.text_only or len(misses) <= self._chunk_rows:
            return misses
        self._lengths = np.zeros(len(self._items), np.int64)
        self._lengths[misses] = self._items.text_lengths(misses)
        return misses[np.argsort(-self._lengths[misses])]

    def encode(self, positions: Positions) -> Any:
        """Return the vectors (k, dim) of the items at these positions, as the model made them.

        Raises:
            UncacheableError: they cannot be stored.
        """
        self.encoded = True
        if self._items.is_whole(positions):
            vectors = self._model().encode(self._items.inputs, **self._arguments)
            reason = self._refusal(vectors)
            if reason is not None:
                raise UncacheableError(reason, vectors=vectors)
            return vectors
        places = None
        if self._lengths is not None:
            # The model sorts the chunk again, and may move texts of equal length into another batch. Where it
            # moves each one is known, so each is put where it will be moved from.
            places = np.argsort(-self._lengths[positions])
            given = np.empty_like(positions)
            given[places] = positions
            positions = given
        vectors = self._model().encode(self._items.loader(positions), **self._arguments)
        reason = self._refusal(vectors)
        if reason is not None:
            raise UncacheableError(reason)
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


def not_dense(vectors: object) -> str | None:
    """Say why vectors are not stored if they are no plain array or dense tensor (n, dim) of numbers."""
    return None if is_dense(vectors) else NOT_DENSE


def whole_batches(chunk_rows: int, batch_sizes: tuple[Any, ...]) -> int:
    """Return the largest multiple of the first batch size given, up to ``chunk_rows``, at least one batch."""
    for size in batch_sizes:
        if isinstance(size, int) and size > 0:
            return max(size, chunk_rows // size * size)
    return chunk_rows


def quantised(rows: Rows, output: Output, kind: Kind, precision: str) -> Any:
    """Return float rows as sentence-transformers, and mteb's wrapper of it, return them at ``precision``."""
    import sentence_transformers

    vectors = sentence_transformers.quantize_embeddings(rows, precision=precision)
    if output.library == "numpy":
        return vectors
    import torch

    tensor = torch.as_tensor(vectors)
    return tensor.float() if kind == "sentence-transformers" else tensor
