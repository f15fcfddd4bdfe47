"""``dejavec demo``: see :mod:`dejavec.demo`."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from dejavec.cli.documents import print_json
from dejavec.cli.verb import PathType, verb
from dejavec.errors import MissingPackageError

_SIZES = {"documents": (3000, 300), "queries": (1000, 100)}
"""How many texts the demo has, with a dense model and with another one."""


@dataclass(frozen=True)
class Run:
    """The measurements of one evaluation.

    Attributes:
        label: what the run found: uncached, cold, partly warm, found warm, warm, mteb's cold, mteb's warm.
        score: the main score of the task.
        scores_digest: the SHA-256 of all scores; empty for a task of mteb.
        vectors_digest: the SHA-256 of all vectors.
        seconds: of the evaluation.
        encode_seconds: of its encode step.
        rows_encoded: how many texts the model encoded.
        hits: how many texts were cached; null without dejavec's cache.
        misses: how many different texts were not cached; null likewise.
        duplicates: how many more texts equalled a miss; null likewise.
        confirmed: how many texts the model encoded to confirm the cache; null likewise.
        rows_on_disk: rows of the cache afterwards; null likewise.
    """

    label: str
    score: float
    scores_digest: str
    vectors_digest: str
    seconds: float
    encode_seconds: float
    rows_encoded: int
    hits: int | None
    misses: int | None
    duplicates: int | None
    confirmed: int | None
    rows_on_disk: int | None


@dataclass(frozen=True)
class Demonstration:
    """The result of the demo.

    Attributes:
        runs: the evaluations, in their order.
        held: whether every promise held.
    """

    runs: list[Run]
    held: bool


@verb(
    "demo",
    document=Demonstration,
    kept="vectors encoded before the last ten seconds are kept; run it again to continue",
)
@click.option("--cache", type=PathType(), default="demo-cache", show_default=True, metavar="DIR")
@click.option("--task", metavar="NAME", help="Any task that mteb knows.")
@click.option("--model", metavar="NAME", help="Any model that mteb can load.")
@click.option(
    "--kind",
    type=click.Choice(["dense", "multi-vector", "sparse"]),
    default="dense",
    show_default=True,
    help="What the default model returns: one vector a text, one a token, or a sparse one (the last two "
    "with random weights, so their scores mean nothing).",
)
@click.option(
    "--documents", type=click.IntRange(1), metavar="N", help="Default: 3000, or 300 if --kind is not dense."
)
@click.option(
    "--queries", type=click.IntRange(1), metavar="N", help="Default: 1000, or 100 if --kind is not dense."
)
@click.option("--compare", is_flag=True, help="Run mteb's own cache too.")
def command(
    *,
    cache: Path,
    task: str | None,
    model: str | None,
    kind: str,
    documents: int | None,
    queries: int | None,
    compare: bool,
    as_json: bool,
) -> int:
    """Evaluate a model with mteb, with and without the cache.

    Evaluates three times, without the cache, with it cold and with it warm, and compares scores, vectors
    and times. By default all-MiniLM-L6-v2 searches the docstrings of Python's standard library, and no
    network is used.
    """
    # The libraries read these variables when they are imported.
    if task is None and model is None:
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            os.environ.setdefault(variable, "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from dejavec.demo.evaluate import Options, demo
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "dejavec demo",
            expected=f"the package {error.name}",
            found="none",
            remedy="pip install 'dejavec[demo]'",
        ) from None
    sizes = {
        name: given or _SIZES[name][kind != "dense"]
        for name, given in (("documents", documents), ("queries", queries))
    }
    options = Options(cache=cache, task=task, model=model, kind=kind, **sizes, compare=compare)  # type: ignore[arg-type]
    report = partial(print, file=sys.stderr) if as_json else print
    runs, held = demo(options, report)
    if as_json:
        print_json(Demonstration([Run(**vars(run)) for run in runs], held))
    return 0 if held else 1
