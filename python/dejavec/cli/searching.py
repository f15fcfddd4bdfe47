"""``dejavec search``: the texts that are nearest to a question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from dejavec import EmbeddingCache
from dejavec.cli.documents import print_json
from dejavec.cli.table_file import TableFile
from dejavec.cli.tables import Column, print_table, printable
from dejavec.cli.verb import COLUMN, PathType, path_argument, verb
from dejavec.errors import IdentityMismatchError
from dejavec.search.metric import Metric
from dejavec.serving.named_model import ModelName, load

_COLUMNS = (
    Column("distance", "right"),
    Column("row", "right"),
    Column("position", "right"),
    Column("text", shortened="start"),
)


@dataclass(frozen=True)
class Match:
    """A row that was found.

    Attributes:
        distance: more is nearer with cosine and ip, less with l2 and hamming.
        row: its row number in the cache.
        position: the position of its text in FILE; null without one.
        text: its text; null if that is unknown.
    """

    distance: float
    row: int
    position: int | None
    text: str | None


@dataclass(frozen=True)
class Matches:
    """The result of a search.

    Attributes:
        query: the question.
        metric: how vectors were compared.
        matches: the rows, the nearest first.
    """

    query: str
    metric: str
    matches: list[Match]


@verb("search", document=Matches, reads=True)
@path_argument("cache", "CACHE")
@click.argument("query", metavar="QUERY")
@click.option(
    "--model",
    "model_text",
    required=True,
    metavar="NAME[@REVISION]",
    help="The model of sentence-transformers that made the vectors, or its directory.",
)
@click.option("-k", "count", type=click.IntRange(1), default=10, show_default=True, help="How many rows.")
@click.option("--metric", type=click.Choice(get_args(Metric)), default="cosine", show_default=True)
@click.option("--texts", type=PathType(), metavar="FILE", help="The texts, if the cache keeps none.")
@COLUMN
@click.option("--prompt", metavar="TEXT", help="What the model reads before QUERY. Default: its own.")
def command(
    *,
    cache: Path,
    query: str,
    model_text: str,
    count: int,
    metric: Metric,
    texts: Path | None,
    column: str,
    prompt: str | None,
    as_json: bool,
) -> int:
    """Find the texts that are nearest to a question.

    Encodes QUERY with the model that made the vectors of CACHE, as a query if the model tells queries from
    documents, and shows the nearest rows, with their texts where these are kept or given.
    """
    corpus: Any = None
    if texts is not None:
        corpus = [text for block in TableFile(texts, column).texts() for text in block]
    named = ModelName.parse(model_text)
    with EmbeddingCache(cache, mode="r") as opened:
        _check_name(opened, named)
        encoder, revision = load(named, prompt, as_query=prompt is None)
        _check(opened, named.text(revision))
        if corpus is None and opened.stats()["texts"]:
            corpus = True
        found = opened.search(encoder([query]), count, metric=metric, texts=corpus)
    matches = [
        Match(
            float(found.distances[0, at]),
            int(row),
            None if found.positions is None or found.positions[0, at] < 0 else int(found.positions[0, at]),
            None if found.texts is None else found.texts[0][at],
        )
        for at, row in enumerate(found.rows[0])
        if row >= 0
    ]
    if as_json:
        print_json(Matches(query, metric, matches))
    else:
        print_table(_COLUMNS, [_cells(match) for match in matches])
    return 0


def _check_name(opened: EmbeddingCache, named: ModelName) -> None:
    """Check the name before the model is loaded, which takes long."""
    found = opened.identity.get("model")
    name = found.get("name") if isinstance(found, dict) else None
    if name not in (None, named.name):
        _refuse(opened, named.name)


def _check(opened: EmbeddingCache, model: str) -> None:
    if opened.model not in (None, model):
        _refuse(opened, model)


def _refuse(opened: EmbeddingCache, model: str) -> None:
    raise IdentityMismatchError(
        opened.path,
        expected=f"vectors of {model}",
        found=f"those of {opened.model}",
        remedy="name the model that made them, and its revision: --model NAME@REVISION",
    )


def _cells(match: Match) -> list[str]:
    return [
        f"{match.distance:.4f}",
        f"{match.row:,}",
        "" if match.position is None else f"{match.position:,}",
        "" if match.text is None else printable(match.text),
    ]
