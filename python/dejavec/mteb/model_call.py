"""The model's part of one encode call: chunks in, vectors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dejavec.fill.chunks import FirstRows, is_size, row_count, whole_batches
from dejavec.fill.settings import FillSettings
from dejavec.mteb.items import Items, Positions
from dejavec.mteb.model.identity import Kind
from dejavec.mteb.timed_loader import Pace, Timer, timed
from dejavec.serving.length_order import LengthOrder, interleave_of
from dejavec.serving.uncacheable import UncacheableError

_DEFAULT_BATCH = 32
"""The default batch size of sentence-transformers."""


class ModelCall:
    """Has the model encode some items of a call.

    Args:
        model: returns the model, and builds it if necessary.
        kind: which ``encode`` the model has.
        items: all items of the call.
        arguments: the caller's arguments besides the loader.
        settings: the settings of the call.
        pace: whether calls of the model can be cut short.
        divides: whether the model divides each call among processes, so that its batches depend on all items.
        refusal: returns why vectors cannot be stored; None if they can.

    Attributes:
        settings: the settings of the call, with the model's batch size if that is known.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        kind: Kind,
        items: Items,
        *,
        arguments: dict[str, Any],
        settings: FillSettings,
        pace: Pace,
        divides: bool,
        refusal: Callable[[Any], str | None],
    ) -> None:
        self._model = model
        self._items = items
        self._refusal = refusal
        self._arguments = arguments
        self._pace = pace
        self._order: LengthOrder | None = None
        known = kind != "other" and items.text_only and not divides
        sizes = (arguments.get("batch_size", _DEFAULT_BATCH), items.inputs.batch_size)
        if not items.text_only:
            sizes = sizes[::-1]
        self._batch_rows = sizes[0] if known and is_size(sizes[0]) else None
        chunk_rows = whole_batches(settings.chunk_rows, sizes)
        self._seconds = None if self._batch_rows else settings.chunk_seconds
        self.settings = replace(
            settings,
            chunk_rows=chunk_rows,
            chunk_seconds=settings.chunk_seconds if self._batch_rows else None,
            batch_rows=self._batch_rows,
        )

    def order(self, misses: Positions) -> Positions:
        """Sort items as sentence-transformers does, so that chunks have the batches of the whole call."""
        first = self._batch_rows if self.settings.chunk_seconds is not None else self.settings.chunk_rows
        if self._batch_rows is None or first is None or len(misses) <= first:
            return misses
        lengths = self._items.text_lengths(np.arange(len(self._items)))
        self._order = LengthOrder(lengths, interleave_of(self._model().model))
        return self._order.of(misses)

    def encode(self, positions: Positions) -> Any:
        """Return the model's vectors (k, dim) of the items at these positions.

        Raises:
            UncacheableError: the vectors cannot be stored.
        """
        if self._items.is_whole(positions):
            vectors = self._model().encode(self._items.inputs, **self._arguments)
            reason = self._refusal(vectors)
            if reason is not None:
                raise UncacheableError(reason, vectors=vectors)
            return vectors
        return (
            self._encode_part(positions)
            if self._order is None
            else self._order.encode(positions, self._encode_part)
        )

    def _encode_part(self, positions: Positions) -> Any:
        vectors = self._model().encode(self._items.loader(positions), **self._arguments)
        reason = self._refusal(vectors)
        if reason is not None:
            raise UncacheableError(reason)
        return vectors

    def encode_in_time(self, positions: Positions) -> Any:
        """Encode items, and return in time for the next commit.

        Returns:
            The vectors (k, dim); :class:`dejavec.fill.chunks.FirstRows` if the model was stopped after some
            batches; or ``Blocks`` of one batch each, if a longer call would have other batches.
        """
        if self._order is not None and self._batch_rows:
            if self._items.is_whole(positions):
                return self.encode(positions)
            return self._order.encode_batches(positions, self._encode_part, self._batch_rows)
        if self._seconds is None or self._pace.reads_all:
            return self.encode(positions)
        return self._encode_until(positions, self._seconds)

    def _encode_until(self, positions: Positions, seconds: float) -> Any:
        """Have the model encode items until time is up, or all items if it reads all before it computes."""
        size = self._items.inputs.batch_size
        if size is None or len(positions) <= size:
            return self.encode(positions)
        whole = self._items.is_whole(positions)
        inputs = self._items.inputs if whole else self._items.loader(positions)
        timer = Timer(seconds, self._pace.clock)
        try:
            vectors = self._model().encode(timed(inputs, timer), **self._arguments)
        except Exception:
            if not timer.was_cut:
                raise
            vectors = None
        batch_by_batch = timer.is_batch_by_batch
        if timer.was_cut:
            count = timer.batches * inputs.batch_size
            fits = vectors is not None and self._refusal(vectors) is None and row_count(vectors) == count
            if fits and batch_by_batch:
                return FirstRows(vectors, count)
            # The model did not work batch by batch, so its vectors may differ from those of a whole call.
            self._pace.learn_that_it_reads_all(self.settings, seconds)
            return self.encode(positions)
        if timer.batches > 1 and timer.is_over and not batch_by_batch:
            self._pace.learn_that_it_reads_all(self.settings, seconds)
        reason = self._refusal(vectors)
        if reason is not None:
            raise UncacheableError(reason, vectors=vectors if whole else None)
        return vectors


def divides_calls(model: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether a sentence-transformer divides each call among several processes."""
    inner = getattr(model, "__dict__", {}).get("model")
    return (
        arguments.get("pool") is not None
        or isinstance(arguments.get("device"), list)
        or getattr(inner, "_distributed_inference", None) is not None
    )
