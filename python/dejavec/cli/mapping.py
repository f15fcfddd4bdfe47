"""``dejavec map``: a picture of a cache in two dimensions."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from dejavec.cli.documents import print_json
from dejavec.cli.map_drawings import Drawing, draw_page, draw_picture
from dejavec.cli.output_file import writing
from dejavec.cli.selection import Selection, opened, select
from dejavec.cli.table_file import TableFile
from dejavec.cli.verb import COLUMN, DRY_RUN, PathType, path_argument, verb
from dejavec.errors import ForeignDirectoryError, VectorsError
from dejavec.keys.items import text_keys
from dejavec.vectors.output import family_of
from dejavec.vectors.ragged import Ragged

_SAMPLE = 20_000
"""The most points of a page."""

_MOST_LABELS = 12
"""Different labels with a colour of their own; rarer ones share the last."""

OTHER = "other"


@dataclass(frozen=True)
class Mapped:
    """A map.

    Attributes:
        target: the file.
        rows: how many rows the cache has that count.
        points: how many are drawn: a random sample of many.
        variance: the part of the variance of the drawn rows that the two axes show.
        texts: how many points have a text.
        labels: how many points each label has.
    """

    target: Path
    rows: int
    points: int
    variance: list[float]
    texts: int
    labels: dict[str, int]


@verb("map", document=Mapped, kept="nothing was drawn; run it again")
@path_argument("cache", "CACHE")
@path_argument("target", "OUT")
@click.option("--texts", type=PathType(), metavar="FILE", help="Texts to show, if the cache keeps none.")
@COLUMN
@click.option("--labels", metavar="NAME", help="The column of --texts that colours the points.")
@DRY_RUN
def command(
    *,
    cache: Path,
    target: Path,
    texts: Path | None,
    column: str,
    labels: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Draw the vectors of a cache in two dimensions.

    Draws up to 20,000 rows of CACHE by their two principal components. OUT is .html, one page that needs
    nothing else and shows texts and labels below the pointer; or .png. A multi-vector item is drawn as the
    mean of its vectors.
    """
    if labels is not None and texts is None:
        raise click.UsageError("--labels names a column of --texts.")
    if target.suffix not in (".html", ".png"):
        raise click.UsageError(f"OUT must end with .html or .png, found {target.name!r}.")
    if target.exists() and not target.is_file():
        raise ForeignDirectoryError(
            target, expected="a file", found="something else", remedy="choose another"
        )
    with opened(cache) as found:
        table = None if texts is None else TableFile(texts, column)
        selection = select(found, table)
        chosen = _sample(selection)
        points, variance = principal_components(_vectors(chosen))
        known = chosen.texts_of(chosen.rows) if chosen.has_texts else [None] * len(chosen.rows)
        names = _labels(chosen, texts, column, labels)
        title = f"{found.model or cache.name}: {len(points):,} of {len(selection.rows):,} rows"
    drawing = Drawing(title, points, variance, known, names)
    if not dry_run:
        _write(target, draw_page(drawing) if target.suffix == ".html" else draw_picture(drawing, target))
    counts = {name: names.count(name) for name in dict.fromkeys(names)} if labels is not None else {}
    mapped = Mapped(
        target, len(selection.rows), len(points), variance, sum(text is not None for text in known), counts
    )
    if as_json:
        print_json(mapped)
    else:
        shown = f"{sum(variance):.0%} of their variance"
        print(f"{mapped.points:,} of {mapped.rows:,} rows, {shown}: {target}")
    return 0


def _sample(selection: Selection) -> Selection:
    """Return at most so many rows as a page draws: a random choice, which is always the same."""
    count = len(selection.rows)
    if count <= _SAMPLE:
        return selection
    at = np.sort(np.random.default_rng(0).choice(count, _SAMPLE, replace=False))
    return replace(selection, rows=selection.rows[at], keys=selection.keys[at])


def _vectors(selection: Selection) -> NDArray[np.float32]:
    """Return the rows as float32 (n, dim), multi-vector items as the mean of their vectors.

    Raises:
        VectorsError: the rows are sparse, or there are fewer than three.
    """
    cache = selection.cache
    family = family_of(cache.container)
    if family == "sparse":
        raise VectorsError(
            cache.path,
            expected="dense or multi-vector rows",
            found="sparse ones",
            remedy="export them with --format npz, and reduce them there",
        )
    if len(selection.rows) < 3:
        raise VectorsError(
            cache.path,
            expected="three rows or more",
            found=f"{len(selection.rows)}",
            remedy="put more vectors into it",
        )
    vectors = np.empty((len(selection.rows), cache.dim or 0), np.float32)
    end = 0
    for part in selection.blocks("read"):
        start, end = end, end + len(part.rows)
        if isinstance(part.vectors, Ragged):
            for at, item in enumerate(part.vectors):
                vectors[start + at] = item.mean(axis=0, dtype=np.float32) if len(item) else 0
        else:
            vectors[start:end] = part.vectors
    return vectors


def principal_components(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
    """Return the two principal components of vectors.

    The sign of each axis is such that its largest number is positive, so that a map looks the same again.

    Args:
        vectors: (n, dim), changed.

    Returns:
        The points (n, 2), and the parts of the variance that the two axes show.

    Example:
        >>> points, parts = principal_components(np.array([[0, 0], [2, 0], [4, 1]], np.float32))
        >>> points[:, 0].round(1).tolist(), round(sum(parts), 3)
        ([-2.1, -0.1, 2.1], 1.0)
    """
    vectors -= vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = (vectors.T @ vectors).astype(np.float64)
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1][:2], axes[:, ::-1][:, :2]
    points = vectors @ axes.astype(np.float32)
    if points.shape[1] < 2:
        points, values = np.pad(points, ((0, 0), (0, 1))), np.append(values, 0.0)
    points *= np.sign(points[np.abs(points).argmax(axis=0), range(2)]) + (points.max(axis=0) == 0)
    whole = float(np.trace(covariance))
    return points, [max(0.0, float(value)) / whole if whole else 0.0 for value in values]


def _labels(selection: Selection, file: Path | None, column: str, name: str | None) -> list[str]:
    """Return the label of each row, of the most frequent ones and ``other``."""
    if name is None or file is None:
        return [""] * len(selection.rows)
    by_row: dict[int, str] = {}
    for block in TableFile(file, column, (name,)).blocks():
        rows = selection.cache.lookup(text_keys(block[column]))
        by_row.update(
            (row, str(label)) for row, label in zip(rows.tolist(), block[name], strict=True) if row >= 0
        )
    found = [by_row.get(row, OTHER) for row in selection.rows.tolist()]
    counts = {label: found.count(label) for label in set(found)}
    kept = set(sorted(counts, key=lambda label: (-counts[label], label))[:_MOST_LABELS])
    return [label if label in kept else OTHER for label in found]


def _write(target: Path, content: bytes) -> None:
    beside = target.with_name(f".{target.name}.tmp")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
