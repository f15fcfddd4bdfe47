"""``dejavec fill``: encodes the texts of a file that a cache lacks."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from dejavec import EmbeddingCache
from dejavec.cli.amounts import duration_text
from dejavec.cli.documents import print_json
from dejavec.cli.plan import Flags, Planned, plan_lines, plan_of, wanted
from dejavec.cli.progress import progress
from dejavec.cli.table_file import TableFile, repeatable
from dejavec.cli.verb import COLUMN, DRY_RUN, path_argument, verb
from dejavec.errors import CacheNotFoundError
from dejavec.identity.confirm import KNOWN_ITEMS
from dejavec.serving.named_model import Encoder, ModelName, load
from dejavec.storage.keyed_cache import KeyedCache

_SECONDS = 5.0
"""How long a slice should take. It is committed as a whole, and the progress moves on."""

_FIRST, _BATCH = 64, 32
"""Texts of the first slice; the others are multiples of a batch of sentence-transformers."""


@dataclass(frozen=True)
class Filled:
    """The result of a fill.

    Attributes:
        plan: what was found before.
        model: the model in the identity of the cache, with the revision that was loaded.
        encoded: how many texts were encoded.
        seconds: how long that took, without loading the model.
    """

    plan: Planned
    model: str
    encoded: int
    seconds: float


@verb(
    "fill",
    document=Filled,
    kept="all but the texts of the last seconds are kept; run it again to continue",
    reads=True,
)
@path_argument("cache", "CACHE")
@path_argument("file", "FILE")
@click.option(
    "--model",
    "model_text",
    required=True,
    metavar="NAME[@REVISION]",
    help="A model of sentence-transformers, or its directory.",
)
@COLUMN
@click.option("--prompt", metavar="TEXT", help="What the model reads before each text; part of the identity.")
@click.option("--keep-texts", is_flag=True, help="Keep the texts beside the vectors.")
@DRY_RUN
def command(
    *,
    cache: Path,
    file: Path,
    model_text: str,
    column: str,
    prompt: str | None,
    keep_texts: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Encode the texts of a file that are not cached.

    Encodes the texts of FILE that CACHE lacks, with any model of sentence-transformers: dense, sparse, or
    multi-vector. It commits every few seconds, so an interrupted run continues where it stopped. If nothing
    is missing, the model is not even loaded. A model without a commit on the hub has a digest of its weights
    as its revision.
    """
    named = ModelName.parse(model_text)
    with repeatable(TableFile(file, column)) as table:
        planned, hits, missing = plan_of(cache, wanted(table))
        filled = Filled(planned, named.text(_known_revision(cache, named)), 0, 0.0)
        if not as_json:
            print("\n".join(plan_lines(planned)))
            sys.stdout.flush()
        if not dry_run and missing.any():
            encoder, revision = load(named, prompt)
            filled = replace(filled, model=named.text(revision), encoded=planned.misses)
            with _opened(cache, filled.model, prompt, keep_texts=keep_texts) as opened:
                opened.encode(_some(table, hits), encoder)  # Asks the model whether these are its vectors.
                seconds = _fill(table, missing, opened, encoder)
            filled = replace(filled, seconds=seconds)
        elif cache.exists():
            _opened(cache, filled.model, prompt, keep_texts=keep_texts).close()  # Checks the identity.
    if as_json:
        print_json(filled)
    elif filled.encoded:
        speed = filled.encoded / max(filled.seconds, 1e-9)
        print(f"{filled.encoded:,} texts encoded in {duration_text(filled.seconds)}, {speed:,.0f}/s")
    else:
        print("nothing was encoded" if dry_run else "nothing is missing")
    return 0


def _known_revision(cache: Path, named: ModelName) -> str | None:
    """Return the given revision, or the one that the cache has for this model."""
    if named.revision is not None:
        return named.revision
    try:
        with KeyedCache(cache, mode="r") as opened:
            model = opened.identity.get("model")
    except CacheNotFoundError:
        return None
    revision = model.get("revision") if isinstance(model, dict) and model.get("name") == named.name else None
    return revision if isinstance(revision, str) else None


def _opened(cache: Path, model: str, prompt: str | None, *, keep_texts: bool) -> EmbeddingCache:
    # Slices decide what is encoded at once.
    return EmbeddingCache(
        cache,
        model=model,
        prompt=prompt,
        confirm=KNOWN_ITEMS,
        chunk_seconds=None,
        keep_texts=keep_texts,
        on_write_error="raise",
    )


def _some(table: TableFile, flags: Flags) -> list[str]:
    """Return the first texts at the flags: as many as a model is asked for."""
    found: list[str] = []
    most = min(4 * KNOWN_ITEMS, int(flags.sum()))
    first = 0
    for texts in table.texts():
        if len(found) >= most:
            break
        found += [texts[at] for at in np.flatnonzero(flags[first : first + len(texts)])]
        first += len(texts)
    return found[:most]


def _fill(table: TableFile, missing: Flags, opened: EmbeddingCache, encoder: Encoder) -> float:
    """Encode the texts at the flags, in slices of some seconds, and return how long that took."""
    start = time.perf_counter()
    waiting: list[str] = []
    first, size = 0, _FIRST
    with progress("encode", int(missing.sum()), "texts") as advance:
        for texts in table.texts():
            waiting += [texts[at] for at in np.flatnonzero(missing[first : first + len(texts)])]
            first += len(texts)
            while len(waiting) >= size or (waiting and first >= len(missing)):
                part, waiting = waiting[:size], waiting[size:]
                began = time.perf_counter()
                opened.encode(part, encoder)
                speed = len(part) / max(time.perf_counter() - began, 1e-9)
                # At most twice as many: the first slices include the model's warming up.
                size = min(2 * size, max(_BATCH, int(speed * _SECONDS) // _BATCH * _BATCH))
                advance(len(part))
    return time.perf_counter() - start
