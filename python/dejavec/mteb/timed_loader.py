"""A loader that ends early, between two batches, once the model has worked on them for long enough.

Only the time between two batches counts, when the model works on a batch before it requests the next. A model
that reads all batches before it computes requests them at once, so it gets all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from dejavec.fill.settings import FillSettings
from dejavec.support.warn import warn

_TAIL = 2.0
"""A batch-by-batch model may work this many times longer after the last batch than between two batches."""


class Pace:
    """Whether the calls of one model can be cut short.

    Args:
        clock: returns the time in seconds.

    Attributes:
        reads_all: whether the model has read all batches before it computed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reads_all = False

    def learn_that_it_reads_all(self, settings: FillSettings, seconds: float) -> None:
        """Do not cut calls of this model from now on, and warn once."""
        if not self.reads_all:
            self.reads_all = True
            warn(
                "the model reads all of its input before it computes, so its vectors are stored after each "
                f"call of up to chunk_rows={settings.chunk_rows:,} items, not every "
                f"chunk_seconds={seconds:g}",
                remedy="pass a smaller chunk_rows to lose less in a crash, or chunk_seconds=None if this is "
                "what you want",
            )


class Timer:
    """Counts the batches of a timed loader, and measures the model's work on them.

    Args:
        seconds: how long the model may work before the loader ends.
        clock: returns the time in seconds.

    Attributes:
        batches: how many batches were handed out.
        was_cut: whether the loader ended before its last batch.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self.batches = 0
        self.was_cut = False
        self._worked = self._longest = 0.0
        self._last = clock()

    def hand_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches until the model has worked long enough on them."""
        self.batches, self.was_cut, self._worked, self._longest = 0, False, 0.0, 0.0
        for batch in batches:
            if self._worked >= self._seconds:
                self.was_cut = True
                break
            self.batches += 1
            self._last = self._clock()
            yield batch
            took = self._clock() - self._last
            self._worked += took
            self._longest = max(self._longest, took)
        self._last = self._clock()

    @property
    def is_over(self) -> bool:
        """Whether the model has worked long enough, between the batches and after the last one."""
        return self._worked + self._clock() - self._last >= self._seconds

    @property
    def is_batch_by_batch(self) -> bool:
        """Whether the model worked between the batches, so that little work was left after the last one."""
        return self._clock() - self._last <= _TAIL * self._longest


def timed(loader: Any, timer: Timer) -> Any:
    """Return a copy of a ``DataLoader`` that ends early, with the same settings."""
    kind = type(loader)

    def iterate(self: Any) -> Iterator[Any]:
        return timer.hand_out(kind.__iter__(self))

    made = copy(loader)
    # `for` calls the `__iter__` of the class, so the copy needs a subclass. `DataLoader` refuses assignments.
    object.__setattr__(made, "__class__", type(kind.__name__, (kind,), {"__iter__": iterate}))
    return made
