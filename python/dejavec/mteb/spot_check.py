"""The spot check: the model encodes some hits again, and their vectors are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dejavec.errors import SpotCheckError
from dejavec.mteb.items import Positions
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.compare import relative_differences
from dejavec.vectors.ragged import Rows, dim_of


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
        held: the cached vectors of n items.
        vectors: the model's result for the same n items.
        tolerance: how far a number may be off, as a part of the largest number in its cached vector.
        name: how messages name the item at a position.
        path: the directory of the cache.

    Raises:
        SpotCheckError: a vector is farther off, or has another dimension.
        VectorsError: the model returned other vectors.
    """
    found, _ = to_rows(vectors, len(held), f"the vectors of {len(held)} items that are encoded again")
    remedy = "use another cache_path, or a larger spot_check_tolerance if the model is as it was"
    if dim_of(found) != dim_of(held):
        raise SpotCheckError(
            path,
            expected=f"dimension {dim_of(held)}",
            found=f"dimension {dim_of(found)}",
            remedy=remedy,
        )
    differences = relative_differences(held, found)
    worst = int(differences.argmax())
    if differences[worst] > tolerance:
        off = int((differences > tolerance).sum())
        raise SpotCheckError(
            path,
            expected=f"vectors that the model makes again within {tolerance:g}",
            found=f"{off} of {len(held)} farther off, the worst of {name(worst)} by {differences[worst]:.3g}",
            remedy=remedy,
        )
