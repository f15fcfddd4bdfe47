"""The command line: choose cases, measure, write JSON, tables and plots."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from benches import cases, machine, plots, report, sessions
from benches.contestants import BY_NAME
from benches.runner import Run
from benches.sessions import Session

_ROOT = Path(__file__).parents[1]
_PEERS = (
    "mteb",
    "faiss",
    "lmdb",
    "rocksdict",
    "diskcache",
    "langchain_classic",
    "llama_index",
    "lance",
    "matplotlib",
)


def main() -> int:
    """Measure; 1 if anything failed."""
    options = _options()
    missing = [name for name in _PEERS if find_spec(name) is None]
    if missing:
        sys.exit(f"expected every peer to be installed, found no {', '.join(missing)}; run `make bench`")
    rounds = options.rounds or (2 if options.small else 3)
    out = options.out or _ROOT / "benches" / "results"
    page = (options.out or _ROOT / "docs") / "benchmarks.md"
    results = out / "benchmarks.json"
    earlier = sessions.load(results) if options.keep or options.draw else []
    if options.draw:
        _write(earlier, results, page)
        return 0
    failed = False
    with tempfile.TemporaryDirectory(prefix="dejavec-bench-", dir=options.scratch) as directory:
        run = Run(
            Path(directory),
            small=options.small,
            rounds=rounds,
            contestants=options.contestants and set(options.contestants),
            most_rows=options.most_rows,
        )
        text = ""
        for outcomes in run.outcomes(cases.BY_NAME[name] for name in options.cases):
            names = {outcome.contestant for outcome in outcomes} & set(BY_NAME)
            on = machine.describe(package for name in names for package in BY_NAME[name].packages)
            failed = any(outcome.failure for outcome in outcomes)
            text = _write(sessions.joined(earlier, Session(on, rounds, outcomes)), results, page)
    print(text)
    return int(failed)


def _write(found: Sequence[Session], results: Path, page: Path) -> str:
    results.parent.mkdir(parents=True, exist_ok=True)
    sessions.save(results, found)
    outcomes = [outcome for session in found for outcome in session.outcomes]
    below = os.path.relpath(results.parent, page.parent)
    drawn = {f"{below}/{name}": text for name, text in plots.draw(outcomes, results.parent).items()}
    text = report.page(found, drawn)
    page.write_text(text)
    return text


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small cases, under three minutes")
    parser.add_argument(
        "--cases", type=_names(cases.BY_NAME), default=list(cases.BY_NAME), metavar="A,B", help="which cases"
    )
    parser.add_argument(
        "--contestants", type=_names(None), metavar="A;B", help="who takes part beside the floors"
    )
    parser.add_argument("--most-rows", type=int, default=10**9, help="leave larger setups out")
    parser.add_argument("--rounds", type=int, help="measurements of each; 3, or 2 with --small")
    parser.add_argument("--keep", action="store_true", help="keep the results of cases that are not measured")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: page and plots from the results that lie there"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where all results go; if not given, docs/benchmarks.md and benches/results",
    )
    parser.add_argument("--scratch", type=Path, help="where temporary files go; up to 25 GB")
    return parser.parse_args()


def _names(known: Iterable[str] | None) -> Callable[[str], list[str]]:
    def split(text: str) -> list[str]:
        names = [name.strip() for name in text.split("," if known else ";")]
        for name in names:
            if name not in (known or BY_NAME):
                raise argparse.ArgumentTypeError(f"{name!r}; there are: {'; '.join(known or BY_NAME)}")
        return names

    return split


if __name__ == "__main__":
    sys.exit(main())
