"""What was measured, as it lies in ``benchmarks.json``: runs of the program, each on one machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benches.runner import Outcome


@dataclass(frozen=True)
class Session:
    """One run of the program.

    Attributes:
        machine: what :func:`benches.machine.describe` found.
        rounds: how often each was measured.
        outcomes: of its cases.
    """

    machine: Mapping[str, str]
    rounds: int
    outcomes: Sequence[Outcome]

    @property
    def cases(self) -> list[str]:
        """The names of its cases."""
        return list(dict.fromkeys(outcome.case for outcome in self.outcomes))


def load(path: Path) -> list[Session]:
    """Read what :func:`save` wrote."""
    return [
        Session(each["machine"], each["rounds"], [Outcome.from_json(found) for found in each["outcomes"]])
        for each in json.loads(path.read_text())
    ]


def save(path: Path, sessions: Sequence[Session]) -> None:
    """Write them."""
    found = [
        {"machine": each.machine, "rounds": each.rounds, "outcomes": [one.to_json() for one in each.outcomes]}
        for each in sessions
    ]
    path.write_text(json.dumps(found, indent=1) + "\n")


def joined(earlier: Sequence[Session], latest: Session) -> list[Session]:
    """All of them; a case counts as the latest measured it, so that its contestants ran in one session."""
    kept = [
        replace(each, outcomes=[one for one in each.outcomes if one.case not in latest.cases])
        for each in earlier
    ]
    return [each for each in (*kept, latest) if each.outcomes]
