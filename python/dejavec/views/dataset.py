"""A data set of the vectors of a corpus, for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import MissingVectorsError
from dejavec.keys.items import Keys

VectorsOf = Callable[[Keys], tuple[NDArray[np.bool_], Any]]
"""Returns which keys have a vector (n,), and the n vectors in the array kind of the model."""


class VectorDataset:
    """The vectors of n texts by position: a map-style data set for ``torch.utils.data.DataLoader``.

    It holds the keys of the texts. Vectors are read when they are asked for, a batch at a time, with their
    checksums. It pickles, so workers may be forked or spawned.

    Args:
        vectors_of: reads vectors; it pickles if the data set has to.
        keys: the keys of the texts (n, 32).
        stored: which of them are cached (n,).

    Raises:
        MissingVectorsError: a text is not cached.
    """

    def __init__(self, vectors_of: VectorsOf, keys: Keys, stored: NDArray[np.bool_]) -> None:
        self._vectors_of = vectors_of
        self._keys = keys
        self._refuse_missing(stored, np.arange(len(keys)))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, position: int) -> Any:
        """Return the vector (dim,) of one text, or the vectors (tokens, dim) of its tokens."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Return the vectors of several texts. ``DataLoader`` calls it for a batch.

        Raises:
            MissingVectorsError: a vector is damaged, or no longer there.
        """
        numbers = np.asarray(positions, np.intp)
        found, vectors = self._vectors_of(np.ascontiguousarray(self._keys[numbers]))
        self._refuse_missing(found, numbers)
        return list(vectors)

    def _refuse_missing(self, found: NDArray[np.bool_], positions: NDArray[np.intp]) -> None:
        if not found.all():
            missing = np.flatnonzero(~found)
            raise MissingVectorsError(
                "the texts of a data set",
                expected="texts that are cached",
                found=f"{len(missing)} that are not, the first at position {positions[missing[0]]}",
                remedy="encode them first",
            )
