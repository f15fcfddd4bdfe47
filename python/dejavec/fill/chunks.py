"""How many items are encoded before they are committed, and what a model hands over on the way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec.fill.settings import FillSettings
from dejavec.vectors.arrays import to_rows

_FIRST_ROWS = 32
"""The first chunk of a function whose batches are not known: the usual batch size."""

_GROWTH = 8
"""How many times as large as the one before a chunk may be, since a small one is measured badly."""


@dataclass(frozen=True)
class Blocks:
    """What a model hands over piece by piece.

    Attributes:
        blocks: yields vectors (k, dim), or single vectors (dim,), in the order of the items.
        commit_each: whether every block (k, dim) is committed at once, or only after ``chunk_seconds``.
    """

    blocks: Iterator[Any]
    commit_each: bool


@dataclass(frozen=True)
class Batch:
    """One of :class:`Blocks`, of which it is known how many vectors it must have.

    Attributes:
        vectors: (rows, dim).
        rows: how many.
    """

    vectors: Any
    rows: int


@dataclass(frozen=True)
class FirstRows:
    """The vectors of the first items that a model was asked for; it has to be asked again for the others.

    Attributes:
        vectors: (count, dim).
        count: how many items they belong to.
    """

    vectors: Any
    count: int


def encoded(encode_fn: Callable[[list[str]], Any], texts: list[str], batch_size: int | None) -> Any:
    """Return what a function makes of texts: its vectors, or :class:`Blocks` if it makes them bit by bit.

    Args:
        encode_fn: returns vectors, or yields them.
        texts: what it is asked for.
        batch_size: how many texts it is given at a time; None for all.
    """
    if batch_size is None:
        made = encode_fn(texts)
        return Blocks(made, commit_each=True) if isinstance(made, Iterator) else made
    return Blocks(_batches(encode_fn, texts, batch_size), commit_each=False)


def refuse_quantised(encode_fn: object) -> None:
    """Refuse a method of sentence-transformers that is bound to integers whose bounds are those of a call.

    Raises:
        ValueError: it is one.
    """
    if not isinstance(encode_fn, functools.partial):
        return
    precision = encode_fn.keywords.get("precision")
    owner = getattr(encode_fn.func, "__self__", None)
    modules = {parent.__module__.partition(".")[0] for parent in type(owner).__mro__}
    if precision in ("int8", "uint8", "int4", "uint4") and "sentence_transformers" in modules:
        raise ValueError(
            f"expected vectors that depend on their text alone, found precision={precision!r}, whose bounds "
            "are taken over each call; cache the float vectors, and quantise what encode returns"
        )


def _batches(encode_fn: Callable[[list[str]], Any], texts: list[str], batch_size: int) -> Iterator[Any]:
    for start in range(0, len(texts), batch_size):
        batch = texts[start : start + batch_size]
        made = encode_fn(batch)
        if isinstance(made, Iterator):
            made = [row for block in made for row in ([block] if is_single(block) else block)]
        yield Batch(made, len(batch))


def is_single(block: object) -> bool:
    """Tell whether a model yielded one vector (dim,), not several (k, dim)."""
    try:
        return int(np.ndim(block)) == 1  # type: ignore[arg-type]
    except ValueError:
        return False  # Rows of different lengths, which the check of rows refuses.


class ChunkSizes:
    """Chooses chunks that take about ``chunk_seconds`` each: small at first, then as measured.

    Args:
        settings: of the call.
        clock: returns the time in seconds.

    Example:
        >>> now = iter([0.0, 1.0])
        >>> sizes = ChunkSizes(FillSettings(chunk_seconds=10.0, batch_rows=8), lambda: next(now))
        >>> sizes.start(), sizes.rows
        (None, 8)
        >>> sizes.end(8), sizes.rows
        (None, 64)
    """

    def __init__(self, settings: FillSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._began = 0.0
        unit = settings.batch_rows
        self.rows = min(settings.chunk_rows, unit or _FIRST_ROWS)
        """How many items the next chunk should have."""
        if settings.chunk_seconds is None:
            self.take_all()

    def start(self) -> None:
        """Note that the work for a commit begins."""
        self._began = self._clock()

    @property
    def is_over(self) -> bool:
        """Whether what was encoded since :meth:`start` should be committed."""
        seconds = self._settings.chunk_seconds
        return seconds is not None and self._clock() - self._began >= seconds

    def end(self, rows: int) -> None:
        """Note that the work on this many items is done, and choose the size of the next chunk."""
        settings = self._settings
        if settings.chunk_seconds is None or self.rows == settings.chunk_rows > rows:
            return
        took = self._clock() - self._began
        fitting = (
            rows * _GROWTH if took <= 0 else int(min(rows * settings.chunk_seconds / took, rows * _GROWTH))
        )
        unit = settings.batch_rows or 1
        self.rows = max(unit, min(fitting, settings.chunk_rows) // unit * unit)

    def take_all(self) -> None:
        """Choose the largest chunks: commits do not depend on their size."""
        self.rows = self._settings.chunk_rows


def joined(made: Any) -> Any:
    """Return what a function made of texts as one array (k, dim), if it made it bit by bit."""
    if not isinstance(made, Blocks):
        return made
    parts = (block.vectors if isinstance(block, Batch) else block for block in made.blocks)
    rows = [to_rows([part] if is_single(part) else part, None, "a block of vectors")[0] for part in parts]
    return np.concatenate(rows) if rows else np.empty((0, 0), np.float32)
