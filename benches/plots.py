"""The figures as plots, each as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches import cases, floors
from benches.runner import Outcome

_LINES = ("warm", "get", "open")
_BARS = ("warm", "shuffled", "cold")
_OURS, _FLOOR, _PEER = "#1b6ac9", "#8a8a8a", "#d98c3f"


def draw(outcomes: Sequence[Outcome], directory: Path) -> dict[str, str]:
    """Write the plots that the outcomes suffice for; the file name of each SVG, and what it shows."""
    import matplotlib

    matplotlib.use("svg")
    # Without these the same figures would give other bytes in each run.
    matplotlib.rcParams["svg.hashsalt"] = "dejavec"
    drawn = {}
    good = [outcome for outcome in outcomes if outcome.seconds and not outcome.failure]
    for name in _LINES:
        found = [outcome for outcome in good if outcome.case == name and outcome.setup.dim in (384, 4)]
        if len({outcome.setup for outcome in found}) > 1:
            drawn[f"benchmark-{name}.svg"] = f"{cases.BY_NAME[name].title}: time against rows"
            _save(_lines(found), directory / f"benchmark-{name}.svg")
    for name in _BARS:
        found = [outcome for outcome in good if outcome.case == name and outcome.setup.dim == 384]
        largest = max((outcome.setup.rows for outcome in found), default=0)
        if largest:
            file = f"benchmark-{name}-bars.svg"
            drawn[file] = f"{cases.BY_NAME[name].title}, {largest:,} rows: time a text, beside the floors"
            _save(_bars([o for o in found if o.setup.rows == largest]), directory / file)
    return drawn


def _lines(outcomes: Sequence[Outcome]) -> Any:
    figure, axes = _axes((8, 5))
    for name in dict.fromkeys(outcome.contestant for outcome in outcomes):
        points = sorted((o.setup.rows, o.median) for o in outcomes if o.contestant == name)
        style = {"color": _colour(name)} if _colour(name) != _PEER else {}
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            label=name,
            linewidth=2.2 if name.startswith("dejavec") else 1.2,
            linestyle="--" if name in floors.WHY else "-",
            **(style if name in floors.WHY else {}),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows")
    axes.set_ylabel("seconds")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title(_title(outcomes))
    return figure


def _bars(outcomes: Sequence[Outcome]) -> Any:
    ordered = sorted(outcomes, key=lambda outcome: -outcome.per_item)
    figure, axes = _axes((8, 0.8 + 0.34 * len(ordered)))
    names = [outcome.contestant for outcome in ordered]
    values = [outcome.per_item * 1e6 for outcome in ordered]
    bars = axes.barh(names, values, color=[_colour(name) for name in names])
    axes.bar_label(bars, labels=[f" {value:.3g}" for value in values], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(f"microseconds a {ordered[0].item}, log")
    axes.set_title(_title(outcomes))
    axes.margins(x=0.15)
    return figure


def _title(outcomes: Sequence[Outcome]) -> str:
    setups = {f"{o.setup.dim} {o.setup.dtype}" for o in outcomes}
    return f"{cases.BY_NAME[outcomes[0].case].title}, {' and '.join(sorted(setups))}"


def _colour(name: str) -> str:
    return _FLOOR if name in floors.WHY else _OURS if name.startswith("dejavec") else _PEER


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=150)
