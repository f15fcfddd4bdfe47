"""Rows of every container, stores of objects on disk, and what to do to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from dejavec import EmbeddingCache
from dejavec.vectors.output import Container

CONTAINERS: tuple[Container, ...] = ("npy", "faiss-l2", "ragged", "sparse")
TEXTS = [f"text {number}" for number in range(120)]


def vectors(container: str, texts: Sequence[str], shift: float = 0) -> Any:
    """Vectors of a kind that a container holds, each of which only its text has."""
    numbers = [int(text.split()[1]) + shift for text in texts]
    if container == "ragged":
        return [np.full((int(number) % 4, 3), number, np.float32) for number in numbers]
    dense = np.array([[number, 1, number % 3] for number in numbers], np.float32).reshape(-1, 3)
    return scipy.sparse.csr_array(dense) if container == "sparse" else dense


def values(vectors: Any) -> Any:
    return [item.tolist() for item in (vectors.toarray() if scipy.sparse.issparse(vectors) else vectors)]


def cache(path: Path, container: Container = "npy", **settings: Any) -> EmbeddingCache:
    # No syncs: these tests are of stores, and the machine stays up.
    return EmbeddingCache(path, **{"model": "m@1", "container": container, "durability": "close", **settings})


def filled(
    path: Path, container: Container = "npy", texts: Sequence[str] = TEXTS, shift: float = 0, **settings: Any
) -> EmbeddingCache:
    made = cache(path, container, **settings)
    made.put(list(texts), vectors(container, texts, shift))
    return made


def stored(opened: EmbeddingCache, texts: Sequence[str] = TEXTS) -> Any:
    """The vectors of texts, None for those that are missing."""
    found, got = opened.get(list(texts))
    return [value if flag else None for flag, value in zip(found, values(got), strict=True)]


def objects_of(store: Path, part: str = "") -> list[Path]:
    """The objects below a directory, sorted."""
    return sorted(path for path in store.rglob(f"*{part}") if path.is_file())
