"""The size of chunks, and the forms in which a model returns the vectors of a chunk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from dejavec.errors import VectorsError
from dejavec.fill.settings import FillSettings
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.ragged import Rows, joined

_FIRST_ROWS = 32
"""The size of the first chunk if the batch size of a function is unknown: the usual batch size."""

_GROWTH = 8
"""The most by which a chunk may be larger than the one before. Small chunks give a poor estimate."""


@dataclass(frozen=True)
class Blocks:
    """Vectors that a model returns in several blocks.

    Attributes:
        blocks: yields vectors (k, dim), or single vectors (dim,), in the order of the items; or
            :class:`Batch` and :class:`Failed` in any order.
        commit_each: whether each block (k, dim) is committed at once, not only after ``chunk_seconds``.
    """

    blocks: Iterator[Any]
    commit_each: bool


@dataclass(frozen=True)
class Batch:
    """A block of :class:`Blocks` with a known number of vectors.

    Attributes:
        vectors: the vectors of some items.
        rows: how many vectors there must be.
        start: position of the first of these items among those of the call.
    """

    vectors: Any
    rows: int
    start: int


@dataclass(frozen=True)
class Failed:
    """A block of :class:`Blocks` that the model did not make. The items stay missing.

    Attributes:
        error: why.
        rows: how many items there are.
        start: position of the first of these items among those of the call.
    """

    error: Exception
    rows: int
    start: int


@dataclass(frozen=True)
class FirstRows:
    """The vectors of the first items of a chunk. The model must be called again for the other items.

    Attributes:
        vectors: the vectors (count, dim).
        count: how many items they belong to.
    """

    vectors: Any
    count: int


def encoded(encode_fn: Callable[[list[str]], Any], texts: list[str], batch_size: int | None) -> Any:
    """Return a function's vectors of texts, or :class:`Blocks` if it makes them in several steps.

    Args:
        encode_fn: returns vectors, or yields them.
        texts: the texts.
        batch_size: how many texts the function gets at a time; None for all.
    """
    if batch_size is None:
        made = encode_fn(texts)
        return Blocks(made, commit_each=True) if isinstance(made, Iterator) else made
    return Blocks(_batches(encode_fn, texts, batch_size), commit_each=False)


def refuse_quantised(encode_fn: object) -> None:
    """Refuse a sentence-transformers method with integer precision, since that scales by the whole call.

    Raises:
        ValueError: it is such a method.
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
        yield Batch(made, len(batch), start)


def is_single(block: object) -> bool:
    """Return whether a model yielded one vector (dim,), not several.

    Example:
        >>> is_single(np.ones(3)), is_single([1.0, 2.0]), is_single([np.ones((2, 3))])
        (True, True, False)
    """
    if isinstance(block, list | tuple):
        return len(block) > 0 and np.ndim(block[0]) == 0
    return int(getattr(block, "ndim", np.ndim(block))) == 1  # type: ignore[arg-type]


def row_count(vectors: Any) -> int | None:
    """Return how many vectors a model returned; None if that is unknown before they are read.

    Example:
        >>> row_count(np.ones((3, 2))), row_count([np.ones((4, 2))]), row_count(iter([]))
        (3, 1, None)
    """
    shape = getattr(vectors, "shape", None)  # A sparse array has no length.
    if shape is not None:
        return int(shape[0]) if len(shape) else None
    return len(vectors) if hasattr(vectors, "__len__") else None


class ChunkSizes:
    """Chooses chunks that take about ``chunk_seconds`` each. The first is small; the next are estimated.

    Args:
        settings: the settings of the call.
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
        """The size of the next chunk."""
        if settings.chunk_seconds is None:
            self.take_all()

    def start(self) -> None:
        """Start the clock for the next commit."""
        self._began = self._clock()

    @property
    def is_over(self) -> bool:
        """Whether it is time to commit the items encoded since :meth:`start`."""
        seconds = self._settings.chunk_seconds
        return seconds is not None and self._clock() - self._began >= seconds

    def end(self, rows: int) -> None:
        """Choose the size of the next chunk, from the time that these items took."""
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
        """Choose the largest chunks, if commits do not depend on the size of chunks."""
        self.rows = self._settings.chunk_rows


def rows_of(made: Any, count: int) -> Rows:
    """Return the result of a model for ``count`` items as rows; those of :class:`Blocks` are joined.

    Raises:
        VectorsError: they are no vectors, or not as many.
    """
    where = "the vectors of some texts"
    if not isinstance(made, Blocks):
        return to_rows(made, count, where)[0]
    blocks = list(made.blocks)
    for block in blocks:
        if isinstance(block, Failed):
            raise block.error
    if all(isinstance(block, Batch) for block in blocks):
        blocks.sort(key=lambda batch: batch.start)
    parts = (block.vectors if isinstance(block, Batch) else block for block in blocks)
    rows = [to_rows([part] if is_single(part) else part, None, where)[0] for part in parts]
    whole = joined(rows) if rows else np.empty((0, 0), np.float32)
    if len(whole) != count:
        raise VectorsError(
            where, expected=f"{count} rows", found=f"{len(whole)}", remedy="yield one vector for each text"
        )
    return whole


def is_size(size: object) -> TypeGuard[int]:
    """Return whether this is a size of batches: an integer above 0."""
    return isinstance(size, int) and size > 0


def whole_batches(chunk_rows: int, batch_sizes: tuple[Any, ...]) -> int:
    """Return the largest multiple of the first valid batch size up to ``chunk_rows``; at least one batch."""
    for size in batch_sizes:
        if is_size(size):
            return max(size, chunk_rows // size * size)
    return chunk_rows
