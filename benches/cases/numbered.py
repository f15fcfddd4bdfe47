"""A cache of numbered texts and random vectors, for cases that need no real texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benches.cases.base import Place
from benches.work import Setup, Vectors

_BLOCK = 10_000


def directory(place: Place) -> Path:
    """Where the cache lies."""
    return place.directory / f"numbered-{place.setup.slug}"


def fill(place: Place) -> None:
    """Write the cache, unless it is there."""
    from dejavec import EmbeddingCache

    if not directory(place).exists():
        with EmbeddingCache(directory(place), model="numbered@1", durability="close") as cache:
            for first, block in vectors(place.setup):
                cache.put([str(number) for number in range(first, first + len(block))], block)


def vectors(setup: Setup) -> Iterator[tuple[int, Vectors]]:
    """Yield the first number and the vectors (10,000, dim) of each block."""
    for first in range(0, setup.rows, _BLOCK):
        block = np.random.default_rng(first).standard_normal((_BLOCK, setup.dim), np.float32)
        yield first, block[: setup.rows - first]
