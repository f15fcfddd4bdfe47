"""The spot check: the model encodes some hits again, and their vectors are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dejavec.errors import SpotCheckError
from dejavec.mteb.items import Positions
from dejavec.vectors.arrays import Rows, to_rows


def draw(hits: Positions, count: int) -> Positions:
    """Return at most ``count`` random hits, sorted."""
    return np.sort(np.random.default_rng().choice(hits, min(count, len(hits)), replace=False))


def compare(
    held: Rows,
    vectors: Any,
    tolerance: float,
    *,
    name: Callable[[int], str],
    path: Path,
) -> None:
    """Compare cached vectors with new ones of the same items.

    Args:
        held: the cached vectors (n, dim).
        vectors: the model's result for the same n items.
        tolerance: how far a number may be off, as a part of the largest number in its cached vector.
        name: how messages name the item at a position.
        path: the directory of the cache.

    Raises:
        SpotCheckError: a vector is farther off, or has another dimension.
        VectorsError: the model returned no (n, dim) array.
    """
    found, _ = to_rows(vectors, len(held), f"the vectors of {len(held)} items that are encoded again")
    remedy = "use another cache_path, or a larger spot_check_tolerance if the model is as it was"
    if found.shape != held.shape:
        raise SpotCheckError(
            path,
            expected=f"dimension {held.shape[1]}",
            found=f"dimension {found.shape[1]}",
            remedy=remedy,
        )
    wide = held.astype(np.float64)
    scale = np.maximum(np.abs(wide).max(axis=1), np.finfo(np.float64).tiny)
    differences = np.abs(found.astype(np.float64) - wide).max(axis=1) / scale
    differences[np.isnan(differences)] = np.inf
    worst = int(differences.argmax())
    if differences[worst] > tolerance:
        off = int((differences > tolerance).sum())
        raise SpotCheckError(
            path,
            expected=f"vectors that the model makes again within {tolerance:g}",
            found=f"{off} of {len(held)} farther off, the worst of {name(worst)} by {differences[worst]:.3g}",
            remedy=remedy,
        )
