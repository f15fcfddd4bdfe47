"""The figures as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benches import cases, floors, targets
from benches.contestants import BY_NAME
from benches.runner import Outcome
from benches.sessions import Session

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def duration(seconds: float) -> str:
    """Seconds, readable: three digits and a unit."""
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds / size:,.3g} {unit}" if seconds < 1_000 * size else f"{seconds / size:,.0f} {unit}"


def page(sessions: Sequence[Session], plots: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        sessions: in which everything was measured.
        plots: alternative text of each plot by the name of its file, to show above the tables.
    """
    outcomes = [outcome for session in sessions for outcome in session.outcomes]
    parts = [
        "# Measured",
        "Written by `make bench`; `benches/` is the program. Every contestant does the same work in the same "
        "run, each measurement in a process of its own, the contestants in turns; every result that is timed "
        "is compared with the vectors that were stored. Times are medians of rounds; ± is half the "
        "difference between the slowest and the fastest round.",
        *_session_lines(sessions),
        *(f"![{text}]({name})" for name, text in plots.items()),
        "## Targets",
        _table(["work", "rows", "measured", "aimed at", ""], _target_lines(outcomes)),
        *_case_parts(outcomes),
        "## How the contestants are set up",
        _table(["contestant", "given", "set up"], _setting_lines(outcomes)),
    ]
    return "\n\n".join(parts) + "\n"


def _session_lines(sessions: Sequence[Session]) -> Iterable[str]:
    """On what the cases were measured; the session with the most of them need not name its own."""
    most = max(sessions, key=lambda session: len(session.cases))
    for session in sessions:
        titles = "; ".join(f"*{cases.BY_NAME[name].title}*" for name in session.cases)
        what = "" if len(sessions) == 1 else " of all else" if session is most else f" of {titles}"
        machine = ", ".join(f"{name} {value}" for name, value in session.machine.items())
        yield f"{session.rounds} rounds{what}: {machine}."


def _target_lines(outcomes: Sequence[Outcome]) -> Iterable[list[str]]:
    for target, rows, value in targets.measured(targets.TARGETS, outcomes):
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g} {target.unit}"
        yield [
            target.work,
            f"{rows:,}",
            f"{value:.3g} {target.unit} {target.against}",
            bound,
            "reached" if target.reached(value) else "**missed**",
        ]


def _case_parts(outcomes: Sequence[Outcome]) -> Iterable[str]:
    for name in dict.fromkeys(outcome.case for outcome in outcomes):
        case = cases.BY_NAME[name]
        yield f"## {case.title}"
        found = [outcome for outcome in outcomes if outcome.case == name]
        for setup in dict.fromkeys(outcome.setup for outcome in found):
            yield f"{setup}:"
            lines = [_outcome_line(outcome) for outcome in found if outcome.setup == setup]
            yield _table(
                ["contestant", "time", "±", f"a {case.item}", "peak memory", "of it anonymous"], lines
            )


def _outcome_line(outcome: Outcome) -> list[str]:
    if outcome.failure:
        return [outcome.contestant, f"FAILED: {outcome.failure}", "", "", "", ""]
    memory = outcome.memory
    return [
        outcome.contestant,
        duration(outcome.median),
        f"{outcome.spread:.0%}",
        duration(outcome.per_item),
        f"{memory['peak'] / 1e6:,.0f} MB" if "peak" in memory else "",
        f"{memory['anonymous'] / 1e6:,.1f} MB" if "anonymous" in memory else "",
    ]


def _setting_lines(outcomes: Sequence[Outcome]) -> Iterable[list[str]]:
    for name in dict.fromkeys(outcome.contestant for outcome in outcomes):
        if name in floors.WHY:
            yield [name, "", floors.WHY[name]]
        elif name in BY_NAME:
            yield [name, BY_NAME[name].input_form, BY_NAME[name].why]


def _table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
