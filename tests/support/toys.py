"""A model of ten lines, which every framework's toy calls, and the list of what it was given."""

from __future__ import annotations

import hashlib
from queue import SimpleQueue

import numpy as np

DIM = 4
GIVEN: SimpleQueue[list[str]] = SimpleQueue()
"""What the model was given since :func:`given` was called last. No look walks through a queue."""

FAILING = "?"
"""A text that the model refuses. It is the shortest, so that encoders that sort by length do it last."""


class RefusedError(Exception):
    """What the model raises for :data:`FAILING`."""


def vector(text: str, role: str, scale: float) -> list[float]:
    """Numbers that float32 does not hold."""
    digest = hashlib.sha256(f"{role} {text}".encode()).digest()
    return [scale * number / 255 for number in digest[:DIM]]


def model(texts: list[str], role: str, scale: float = 1.0) -> list[list[float]]:
    """Return the vectors of texts, and note that they were asked for."""
    GIVEN.put(list(texts))
    if FAILING in texts:
        raise RefusedError(FAILING)
    return [vector(text, role, scale) for text in texts]


def given() -> list[str]:
    """Return all texts that the model was given since the last call of this function."""
    texts: list[str] = []
    while not GIVEN.empty():
        texts += GIVEN.get()
    return texts


def same(cached: object, uncached: object) -> bool:
    """Whether two results of one kind have equal numbers, to the bit, in the same types."""
    if isinstance(uncached, np.ndarray):
        return (
            isinstance(cached, np.ndarray)
            and (cached.dtype, cached.shape) == (uncached.dtype, uncached.shape)
            and cached.tobytes() == uncached.tobytes()
        )
    if isinstance(uncached, list | tuple):
        return (
            type(cached) is type(uncached)
            and len(cached) == len(uncached)
            and all(map(same, cached, uncached))
        )
    return type(cached) is type(uncached) and cached == uncached
