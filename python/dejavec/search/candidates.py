"""The rows that a search compares: the newest row of each key, or some of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import VectorsError
from dejavec.keys.items import text_keys
from dejavec.storage.keyed_cache import KeyedCache


def candidates(cache: KeyedCache, among: object) -> NDArray[np.int64]:
    """Return the row numbers to compare, ascending.

    Args:
        cache: the cache.
        among: texts, row numbers, or a flag for each row; None for all. Texts that are not stored, and rows
            that were replaced, are left out.

    Raises:
        VectorsError: there is no such row.
        ItemError: ``among`` holds neither texts nor row numbers.
    """
    if among is None:
        return np.flatnonzero(cache.is_newest())
    numbers = row_numbers(among)
    if numbers is None:
        # Before the newest rows are read, since a look-up reads the commits of others.
        rows = cache.lookup(text_keys(among))
        newest = cache.is_newest()
        rows = rows[(rows >= 0) & (rows < len(newest))]
    else:
        newest = cache.is_newest()
        rows = _checked(numbers, len(newest), cache)
    wanted = np.zeros(len(newest), np.bool_)
    wanted[rows] = True
    return np.flatnonzero(wanted & newest)


def row_numbers(among: Any) -> NDArray[Any] | None:
    """Return row numbers or flags as an array; None if these are texts.

    Example:
        >>> row_numbers([3, 5]), row_numbers(["a"]), row_numbers(np.array([True]))
        (array([3, 5]), None, array([ True]))
    """
    if isinstance(among, list | tuple):
        if not all(isinstance(entry, int | np.integer | np.bool_) for entry in among):
            return None
        return np.array(among) if among else np.empty(0, np.int64)
    numbers = np.asarray(among) if hasattr(among, "dtype") and hasattr(among, "__array__") else None
    if isinstance(among, range):
        numbers = np.asarray(among, np.int64)
    return numbers if numbers is not None and numbers.dtype.kind in "biu" else None


def _checked(numbers: NDArray[Any], count: int, cache: KeyedCache) -> NDArray[np.int64]:
    """Return row numbers, from these or from flags."""
    remedy = "give row numbers or texts"
    if numbers.ndim != 1:
        raise VectorsError("among=", expected="shape (rows,)", found=f"shape {numbers.shape}", remedy=remedy)
    if numbers.dtype == np.bool_:
        if len(numbers) != count:
            raise VectorsError(
                "among=",
                expected=f"{count:,} flags, one for each row",
                found=f"{len(numbers):,}",
                remedy=remedy,
            )
        return np.flatnonzero(numbers)
    outside = (numbers < 0) | (numbers >= count)
    if outside.any():
        raise VectorsError(
            "among=",
            expected=f"row numbers below {count:,}, the rows of {cache.path}",
            found=f"{numbers[outside][0]:,}",
            remedy="leave it out, or refresh() the cache first",
        )
    return numbers.astype(np.int64)
