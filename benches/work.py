"""The work of all contestants: numbered English texts and the vector that belongs to each number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches.english import texts

Vectors = NDArray[Any]

_BLOCK = 10_000


@dataclass(frozen=True)
class Setup:
    """How much of what is stored.

    Attributes:
        rows: texts, each with one vector.
        dim: numbers in a vector.
        dtype: their NumPy dtype.
    """

    rows: int
    dim: int = 384
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.rows:,} × {self.dim} {self.dtype}"

    @property
    def slug(self) -> str:
        return f"{self.rows}-{self.dim}-{self.dtype}"

    @property
    def vector_bytes(self) -> int:
        return self.rows * self.dim * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Work:
    """What :func:`prepare` wrote for one setup, read where it lies.

    Attributes:
        directory: where.
        setup: what for.
    """

    directory: Path
    setup: Setup

    def dataset(self, order: str = "corpus") -> Any:
        """The Hugging Face data set of the texts, in ``"corpus"`` or ``"shuffled"`` order."""
        from datasets import load_from_disk

        return load_from_disk(str(self._texts / order))

    def texts(self, order: str = "corpus") -> list[str]:
        found: list[str] = self.dataset(order)["text"][:]
        return found

    def permutation(self) -> NDArray[np.int64]:
        """The numbers of the texts of the shuffled data set, in its order."""
        return _permutation(self.setup.rows)

    def vectors(self) -> Vectors:
        """The vector of each number (rows, dim), mapped."""
        return np.load(self._vectors, mmap_mode="r")

    def messages(self) -> Path:
        """A directory with the texts for other programs: ``bytes``, and ``offsets`` as 64-bit integers."""
        return self._texts / "messages"

    @property
    def _texts(self) -> Path:
        return self.directory / f"texts-{self.setup.rows}"

    @property
    def _vectors(self) -> Path:
        return self.directory / f"vectors-{self.setup.slug}.npy"


def prepare(work: Work) -> None:
    """Write texts and vectors, unless they are there."""
    if not work._texts.exists():
        _write_texts(work)
    if not work._vectors.exists():
        setup = work.setup
        out = np.lib.format.open_memmap(work._vectors, "w+", setup.dtype, (setup.rows, setup.dim))
        for start in range(0, setup.rows, _BLOCK):
            block = np.random.default_rng(start).standard_normal((_BLOCK, setup.dim), np.float32)
            out[start : start + _BLOCK] = block[: setup.rows - start]


def _write_texts(work: Work) -> None:
    from datasets import Dataset

    found = texts(work.setup.rows)
    orders = {"corpus": range(len(found)), "shuffled": _permutation(len(found)).tolist()}
    for name, numbers in orders.items():
        columns = {
            "id": [str(number) for number in numbers],
            "title": [" ".join(found[number].split()[1:4]) for number in numbers],
            "text": [found[number] for number in numbers],
        }
        Dataset.from_dict(columns).save_to_disk(str(work._texts / name))
    messages = [text.encode() for text in found]
    work.messages().mkdir()
    (work.messages() / "bytes").write_bytes(b"".join(messages))
    ends = np.cumsum([0, *map(len, messages)], dtype=np.int64)
    (work.messages() / "offsets").write_bytes(ends.astype("<i8").tobytes())


def _permutation(rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(rows)
