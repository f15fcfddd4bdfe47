"""Runs the cases: each measurement in a process of its own, the contestants in turns."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benches import cases, work
from benches.cases import Case, Measured, Place
from benches.checks import CheckError
from benches.work import Setup, Work

# What most processes need is imported once; each of them is forked from there.
_PRELOAD = ["numpy", "datasets", "torch", "mteb", "mteb.models.cache_wrappers", "dejavec", "benches.cases"]

_TIME_LIMIT = 1_800.0
_TIME_TO_END = 60.0


@dataclass
class Outcome:
    """What all rounds of one contestant in one case found.

    Attributes:
        case: the case's name.
        setup: how much was worked on.
        contestant: who.
        item: what ``items`` counts.
        items: texts, rows, keys or calls in one round.
        seconds: of each round.
        memory: medians of bytes.
        failure: why there are no more rounds.
    """

    case: str
    setup: Setup
    contestant: str
    item: str
    items: int = 0
    seconds: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    @property
    def median(self) -> float:
        """Seconds of the median round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the difference between slowest and fastest round, in parts of the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median

    @property
    def per_item(self) -> float:
        """Seconds an item."""
        return self.median / self.items

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Outcome:
        """What :meth:`to_json` made."""
        own = {name: found[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, "setup": Setup(**found["setup"])})

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "setup": asdict(self.setup)}
        return {**found, "median": self.median, "spread": self.spread} if self.seconds else found


class Run:
    """One run of the program.

    Args:
        directory: where everything is written that does not last.
        small: whether the cases are small.
        rounds: measurements of each contestant in each case.
        contestants: who may take part; None for all.
        most_rows: leave out what is larger.
    """

    def __init__(
        self, directory: Path, *, small: bool, rounds: int, contestants: set[str] | None, most_rows: int
    ) -> None:
        self._directory = directory
        self._small = small
        self._rounds = rounds
        self._contestants = contestants
        self._most_rows = most_rows
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(_PRELOAD)

    def outcomes(self, chosen: Iterable[Case]) -> Iterator[list[Outcome]]:
        """Measure, one setup after the other, so that stores can be removed in between.

        Yields:
            All that was measured so far, after each setup.
        """
        chosen = list(chosen)
        setups: dict[Setup, list[Case]] = {}
        for case in chosen:
            for setup in case.setups(self._small):
                if setup.rows <= self._most_rows:
                    setups.setdefault(setup, []).append(case)
        texts = self._directory / "work"
        texts.mkdir()
        found: list[Outcome] = []
        order = {case.name: i for i, case in enumerate(chosen)}
        for setup in sorted(setups, key=lambda setup: (setup.rows, setup.dim)):
            directory = self._directory / setup.slug
            directory.mkdir()
            if any(case.texts for case in setups[setup]):
                _say(f"writing the texts and vectors of {setup}")
                self._call(_prepare_work, Work(texts, setup))
            for case in setups[setup]:
                found += self._case(case, Work(texts, setup), directory)
            shutil.rmtree(directory)
            yield sorted(found, key=lambda outcome: order[outcome.case])

    def _case(self, case: Case, done: Work, directory: Path) -> list[Outcome]:
        names = [
            name
            for name in case.takes_part(done.setup)
            if self._contestants is None or name in self._contestants or name.startswith("floor")
        ]
        outcomes = [Outcome(case.name, done.setup, name, case.item) for name in names]
        self._turn(f"{case.name}, {done.setup}: preparing", outcomes, _prepare, done, directory)
        for number in range(self._rounds):
            title = f"{case.name}, {done.setup}: round {number + 1} of {self._rounds}"
            # Each round begins with another one, so that what one leaves to the disk falls on all.
            first = number % max(len(outcomes), 1)
            self._turn(title, [*outcomes[first:], *outcomes[:first]], _measure, done, directory)
        return outcomes

    def _turn(
        self,
        title: str,
        outcomes: Sequence[Outcome],
        role: Callable[[str, Place], Any],
        done: Work,
        directory: Path,
    ) -> None:
        """Let each contestant that has not failed take its turn."""
        start = time.perf_counter()
        memory: dict[str, int]
        for outcome in outcomes:
            if outcome.failure:
                continue
            scratch = self._directory / "scratch"
            scratch.mkdir()
            place = Place(done, outcome.contestant, directory, scratch)
            try:
                answer = self._call(role, outcome.case, place)
            except (CheckError, RuntimeError) as error:
                outcome.failure = str(error)
                _say(f"FAILED: {outcome.case}, {done.setup}, {outcome.contestant}: {error}")
            else:
                if isinstance(answer, Measured):
                    outcome.items = answer.items
                    outcome.seconds.append(answer.seconds)
                    memory = answer.memory
                    outcome.memory = {
                        name: max(value, outcome.memory.get(name, 0)) for name, value in memory.items()
                    }
            shutil.rmtree(scratch)
        _say(f"{title}: {time.perf_counter() - start:.1f} s")

    def _call(self, role: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a process of its own.

        Raises:
            CheckError: it found a wrong result.
            RuntimeError: it failed or died.
        """
        ours, theirs = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=_answer, args=(theirs, role, arguments))
        process.start()
        theirs.close()
        try:
            if not ours.poll(_TIME_LIMIT):
                process.kill()
                raise RuntimeError(f"not done after {_TIME_LIMIT:.0f} s")
            answer = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"the process died with code {process.exitcode}") from None
        finally:
            # A process that has answered ends by itself, having removed what its libraries left in /dev/shm.
            process.join(_TIME_TO_END)
            process.terminate()
            process.join()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer(connection: Any, role: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Be the process of one measurement."""
    _quieten()
    try:
        answer = role(*arguments)
    except CheckError as error:
        answer = error
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        answer = RuntimeError(f"{type(error).__name__}: {error} ({where})")
    connection.send(answer)
    connection.close()


def _prepare_work(wanted: Work) -> None:
    work.prepare(wanted)


def _prepare(case: str, place: Place) -> None:
    cases.BY_NAME[case].prepare(place)


def _measure(case: str, place: Place) -> Measured:
    # What earlier processes left to be written is not part of this one's work.
    os.sync()
    return cases.BY_NAME[case].measure(place)


def _quieten() -> None:
    """Keep what libraries say out of the report, and their bars out of the time."""
    import logging
    import os
    import warnings

    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TQDM_DISABLE="1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if (datasets := sys.modules.get("datasets")) is not None:
        datasets.disable_progress_bars()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
