"""The figures as plots, each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benches import cases, floors, styles
from benches.cases import evaluate
from benches.runner import Outcome

LINES = ("warm", "get", "open")
BARS = ("warm", "shuffled", "cold")
_RUNS = 10
_WIDTH = 5.6
"""Inches: so narrow that the letters can be read on a phone."""


def draw(outcomes: Sequence[Outcome], directory: Path) -> dict[str, str]:
    """Write the plots that the outcomes suffice for; the file name of each SVG, and what it shows."""
    import matplotlib

    matplotlib.use("svg")
    # Without these the same figures would give other bytes in each run.
    matplotlib.rcParams["svg.hashsalt"] = "dejavec"
    drawn = {}
    good = [outcome for outcome in outcomes if outcome.seconds and not outcome.failure]
    if runs := evaluate.Runs.of(good):
        drawn["benchmark-evaluate.svg"] = (
            f"Whole evaluations by mteb of {runs.documents:,} documents: time of up to {_RUNS} runs, "
            "uncached, with mteb's own cache and with dejavec"
        )
        _save(_evaluations(runs), directory / "benchmark-evaluate.svg")
    for name in LINES:
        found = [outcome for outcome in good if outcome.case == name and outcome.setup.dim in (384, 4)]
        if len({outcome.setup for outcome in found}) > 1:
            drawn[f"benchmark-{name}.svg"] = f"{cases.BY_NAME[name].title}: time against rows"
            _save(_lines(found), directory / f"benchmark-{name}.svg")
    for name in BARS:
        found = [outcome for outcome in good if outcome.case == name and outcome.setup.dim == 384]
        largest = max((outcome.setup.rows for outcome in found), default=0)
        if largest:
            file = f"benchmark-{name}-bars.svg"
            drawn[file] = f"{cases.BY_NAME[name].title}, {largest:,} rows: time a text, beside the floors"
            _save(_bars([o for o in found if o.setup.rows == largest]), directory / file)
    return drawn


def _evaluations(runs: evaluate.Runs) -> Any:
    title = f"mteb.evaluate, {runs.documents:,} documents"
    figure, (above, below) = _axes((_WIDTH, 6.4), title, rows=2, height_ratios=(3, 1))
    numbers = range(1, _RUNS + 1)
    # The cached ones lie on each other here; the bars below tell them apart.
    for name in runs.contestants:
        style = styles.of(name)
        sums = [runs.sum(name, number) / 60 for number in numbers]
        above.plot(numbers, sums, color=style.colour, marker=style.marker, label=evaluate.SHORT[name])
    above.set_ylim(bottom=0)
    above.set_xticks(numbers)
    above.set_xlabel("evaluations of one model")
    above.set_ylabel("minutes of all of them")
    above.grid(True, alpha=0.3)
    above.legend(fontsize=10)
    _draw_bars(below, {name: runs.again(name) for name in runs.contestants}, evaluate.SHORT)
    below.set_xlabel("seconds of each evaluation after the first, log")
    return figure


def _lines(outcomes: Sequence[Outcome]) -> Any:
    figure, axes = _axes((_WIDTH, 6), _title(outcomes))
    for name in dict.fromkeys(outcome.contestant for outcome in outcomes):
        points = sorted((o.setup.rows, o.median) for o in outcomes if o.contestant == name)
        style = styles.of(name)
        axes.plot(
            *zip(*points, strict=True),
            marker=style.marker,
            markersize=7,
            color=style.colour,
            label=name,
            linewidth=2.2 if name.startswith("dejavec") else 1.2,
            linestyle="--" if name in floors.WHY else "-",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows")
    axes.set_ylabel("seconds")
    axes.grid(True, which="major", alpha=0.3)
    figure.legend(fontsize=10, loc="outside lower center", ncols=2)
    return figure


def _bars(outcomes: Sequence[Outcome]) -> Any:
    ordered = sorted(outcomes, key=lambda outcome: -outcome.per_item)
    figure, axes = _axes((_WIDTH, 1 + 0.34 * len(ordered)), _title(outcomes))
    _draw_bars(axes, {outcome.contestant: outcome.per_item * 1e6 for outcome in ordered})
    axes.set_xlabel(f"microseconds a {ordered[0].item}, log")
    return figure


def _draw_bars(axes: Any, values: Mapping[str, float], short: Mapping[str, str] | None = None) -> None:
    names = [(short or {}).get(name, name) for name in values]
    bars = axes.barh(names, list(values.values()), color=[styles.of(name).colour for name in values])
    axes.bar_label(
        bars,
        labels=[f" {value:,.0f}" if value >= 100 else f" {value:.3g}" for value in values.values()],
        fontsize=10,
    )
    axes.set_xscale("log")
    axes.margins(x=0.2)


def _title(outcomes: Sequence[Outcome]) -> str:
    setups = {f"{o.setup.dim} {o.setup.dtype}" for o in outcomes}
    return f"{cases.BY_NAME[outcomes[0].case].title}, {' and '.join(sorted(setups))}"


def _axes(size: tuple[float, float], title: str, rows: int = 1, **settings: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure, figure.subplots(rows, **settings)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=150)
