"""How far a command is: rates and the time that is left, on a terminal alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeVar

from dejavec import _core
from dejavec.cli.amounts import duration_text
from dejavec.storage.summary import size_text

T = TypeVar("T")


@contextmanager
def progress(
    what: str, total: float | None, unit: Literal["texts", "rows", "bytes"]
) -> Iterator[Callable[[float], None]]:
    """Show a line of progress, and yield a function that advances it.

    The line is on standard error, and goes away at the end. Without a terminal there is none.

    Args:
        what: what is done.
        total: how much there is to do; None: unknown.
        unit: what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn

    class Numbers(ProgressColumn):
        """How much is done of how much, how fast, and how long it will take."""

        def render(self, task: Any) -> Any:
            from rich.text import Text

            parts = [amount(task.completed) + (f" of {amount(task.total)}" if task.total else f" {unit}")]
            if task.speed:
                parts.append(f"{amount(task.speed)}/s")
            if task.time_remaining is not None and not task.finished:
                parts.append(f"{duration_text(task.time_remaining)} left")
            return Text(", ".join(parts))

    def amount(count: float) -> str:
        return size_text(int(count)) if unit == "bytes" else f"{count:,.0f}"

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        Numbers(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def interruptible(work: Callable[[], T], watch: Callable[[], object] = lambda: None) -> T:
    """Run a long call of the core, and let Ctrl-C end the wait for it.

    The core does not look at signals. The abandoned thread ends with the process, so the call must be one
    that may end anywhere.

    Args:
        work: the call.
        watch: is called a few times a second meanwhile.
    """
    results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, name="dejavec", daemon=True).start()
    while True:
        with suppress(Empty):
            result, error = results.get(timeout=0.2)
            if error is not None:
                raise error
            return result  # type: ignore[return-value]
        watch()


def counted(work: Callable[[_core.Progress], T], advance: Callable[[float], object]) -> T:
    """Run a long call of the core that checks rows, and let Ctrl-C end the wait for it.

    Args:
        work: the call. It counts the rows.
        advance: is called with the part of the rows that was checked since the last call; all parts are 1.
    """
    rows, done = _core.Progress(), 0.0

    def watch() -> None:
        nonlocal done
        part = rows.checked / max(rows.rows, 1)
        advance(part - done)
        done = part

    try:
        return interruptible(lambda: work(rows), watch)
    finally:
        advance(1 - done)
