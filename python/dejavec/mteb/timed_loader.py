"""A loader that ends early, between two batches, once the model has worked on them for long enough.

Only the time that passes between two batches counts: that is what the model does with a batch before it asks
for the next. A model that reads all batches before it computes asks for them at once, so it gets them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

from dejavec.fill.settings import FillSettings
from dejavec.support.warn import warn

_TAIL = 2.0
"""How many times as long as between two batches a model may work after the last one."""


class Pace:
    """How long calls of one model may take before their vectors are stored, and whether it can be cut short.

    Args:
        clock: returns the time in seconds.

    Attributes:
        reads_all: whether the model was seen to read all batches before it computes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reads_all = False

    def learn_that_it_reads_all(self, settings: FillSettings, seconds: float) -> None:
        """Leave the calls of this model whole from now on, and say so once."""
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
    """What a timed loader has handed out, and how the model took it.

    Args:
        seconds: how long the model may work before the loader ends.
        clock: returns the time in seconds.

    Attributes:
        batches: how many batches were handed out.
        was_cut: whether there were more.
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
        """Whether the model did its work between the batches: little of it was left after the last one."""
        return self._clock() - self._last <= _TAIL * self._longest


def timed(loader: Any, timer: Timer) -> Any:
    """Return a copy of a ``DataLoader`` that ends early, with all settings of the original."""
    kind = type(loader)

    def iterate(self: Any) -> Iterator[Any]:
        return timer.hand_out(kind.__iter__(self))

    made = copy(loader)
    # A loader lets nobody assign its class's attributes; a class of its own changes what `for` calls.
    object.__setattr__(made, "__class__", type(kind.__name__, (kind,), {"__iter__": iterate}))
    return made
