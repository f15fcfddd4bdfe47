"""The drawings of ``dejavec map``: a page that needs nothing else, and a picture."""

from __future__ import annotations

import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dejavec.support.packages import package

COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#e69f00", "#009e73", "#0072b2", "#d55e00", "#7f3c8d", "#555555", "#bbbbbb",
)  # fmt: skip
"""A colour for each label, told apart by most people who see few colours; the last for all others."""

_LONGEST = 400
"""Characters of a text that the page has."""

_GRID = 10_000
"""Points lie on a grid of so many steps, so that a page stays small."""


@dataclass(frozen=True)
class Drawing:
    """What is drawn.

    Attributes:
        title: the heading.
        points: (n, 2).
        variance: the part of the variance that each axis shows.
        texts: the text of each point; None where it is unknown.
        labels: the label of each point; all empty without labels.
    """

    title: str
    points: NDArray[np.float32]
    variance: Sequence[float]
    texts: Sequence[str | None]
    labels: Sequence[str]

    @property
    def words(self) -> str:
        """The drawing in one sentence, for readers who do not see it."""
        parts = [f"A scatter plot of {len(self.points):,} vectors by their two principal components"]
        shown = ", ".join(f"{part:.0%}" for part in self.variance)
        parts.append(f"which show {shown} of the variance")
        names = self.names
        if len(names) > 1:
            counts = ", ".join(f"{name} ({list(self.labels).count(name):,})" for name in names)
            parts.append(f"coloured by label: {counts}")
        return "; ".join(parts) + "."

    @property
    def names(self) -> list[str]:
        """The labels, the most frequent first, ``other`` last."""
        counts = Counter(self.labels)
        return sorted(counts, key=lambda name: (name == "other", -counts[name], name))

    def colour(self, name: str) -> str:
        """Return the colour of a label."""
        return COLOURS[-1] if name == "other" else COLOURS[self.names.index(name) % (len(COLOURS) - 1)]


def draw_page(drawing: Drawing) -> bytes:
    """Return a page that needs no other file and no network."""
    low, high = drawing.points.min(axis=0), drawing.points.max(axis=0)
    spread = np.where(high > low, high - low, 1)
    grid = np.round((drawing.points - low) / spread * _GRID).astype(int)
    names = drawing.names
    numbers = {name: at for at, name in enumerate(names)}
    data = {
        "points": grid.reshape(-1).tolist(),
        "grid": _GRID,
        "labels": [numbers[name] for name in drawing.labels] if names != [""] else [],
        "names": names,
        "colours": [drawing.colour(name) for name in names],
        "texts": [None if text is None else text[:_LONGEST] for text in drawing.texts]
        if any(text is not None for text in drawing.texts)
        else [],
    }
    # Within a script, only `<` could end it.
    encoded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = files("dejavec.cli").joinpath("map.html").read_text(encoding="utf-8")
    axes = [f"component {at + 1}, {part:.1%} of the variance" for at, part in enumerate(drawing.variance)]
    for mark, value in (
        ("{title}", html.escape(drawing.title)),
        ("{words}", html.escape(drawing.words)),
        ("{across}", html.escape(axes[0])),
        ("{up}", html.escape(axes[1])),
        ("{data}", encoded),
    ):
        template = template.replace(mark, value)
    return template.encode("utf-8", "replace")


def draw_picture(drawing: Drawing, target: Path) -> bytes:
    """Return a PNG of 1,600 × 1,200 pixels.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    package("matplotlib", target)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    labels = np.array(drawing.labels)
    for name in drawing.names:
        at = labels == name
        across, up = drawing.points[at].T
        axes.scatter(
            across,
            up,
            s=4,
            linewidths=0,
            alpha=0.7,
            color=drawing.colour(name),
            label=name or None,
        )
    axes.set_title(drawing.title)
    axes.set_xlabel(f"component 1, {drawing.variance[0]:.1%} of the variance")
    axes.set_ylabel(f"component 2, {drawing.variance[1]:.1%} of the variance")
    if drawing.names != [""]:
        axes.legend(markerscale=3, loc="best")
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(
        content, metadata={"Title": drawing.title, "Description": drawing.words}, pil_kwargs={}
    )
    return content.getvalue()
