"""``dejavec plan``: what a run would find, add, take and cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from dejavec.cli.amounts import duration_text, price, price_text, rate
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.table_file import TableFile
from dejavec.cli.tables import Column, aligned
from dejavec.cli.verb import COLUMN, path_argument, verb
from dejavec.errors import CacheNotFoundError
from dejavec.keys.items import Keys, first_of_each, text_keys
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.storage.summary import size_text

_BYTES_OF_A_TOKEN = 4
"""UTF-8 bytes of a token of English, about."""


Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Planned:
    """What a run would do.

    Attributes:
        items: how many texts are given.
        hits: how many are cached.
        misses: how many different texts a model has to encode.
        duplicates: how many more equal one of the misses.
        bytes: how many bytes the misses add on disk; null while the dimension is unknown.
        text_bytes: how many bytes of UTF-8 the misses have.
        tokens: how many tokens these are, at four bytes each: an estimate.
        seconds: how long the misses take at the given rate; null without one.
        cost: what these tokens cost at the given price; null without one.
    """

    items: int
    hits: int
    misses: int
    duplicates: int
    bytes: int | None
    text_bytes: int
    tokens: int
    seconds: float | None
    cost: float | None


@dataclass(frozen=True)
class Wanted:
    """The texts of a file.

    Attributes:
        keys: their keys (n, 32).
        sizes: their UTF-8 bytes (n,).
    """

    keys: Keys
    sizes: NDArray[np.int64]


def wanted(table: TableFile) -> Wanted:
    """Read a file once, and keep 40 bytes for each text."""
    keys, sizes = [np.empty((0, 32), np.uint8)], [np.empty(0, np.int64)]
    with progress(f"read {table.file.name}", None, "texts") as advance:
        for texts in table.texts():
            keys.append(text_keys(texts))
            sizes.append(np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64))
            advance(len(texts))
    return Wanted(np.concatenate(keys), np.concatenate(sizes))


def plan_of(
    path: Path, texts: Wanted, *, speed: float | None = None, token_price: float | None = None
) -> tuple[Planned, Flags, Flags]:
    """Return what a run would do, which texts are hits (n,), and which misses (n,), at first places.

    Args:
        path: the cache, which need not exist. Any identity is accepted.
        texts: the texts.
        speed: texts that the model encodes in a second.
        token_price: what a token costs.

    Raises:
        DejavecError: there is something else, or a cache that does not open.
    """
    try:
        with KeyedCache(path, mode="r") as cache:
            rows, first = cache.partition(texts.keys)
            row_bytes: int | None = cache.row_bytes
    except CacheNotFoundError:
        rows, first = np.full(len(texts.keys), -1), first_of_each(texts.keys)
        row_bytes = None
    missing = (rows < 0) & (first == np.arange(len(rows)))
    hits, misses, size = int((rows >= 0).sum()), int(missing.sum()), int(texts.sizes[missing].sum())
    tokens = -(-size // _BYTES_OF_A_TOKEN)
    planned = Planned(
        len(rows),
        hits,
        misses,
        len(rows) - hits - misses,
        None if row_bytes is None else misses * row_bytes,
        size,
        tokens,
        None if speed is None else misses / speed,
        None if token_price is None else tokens * token_price,
    )
    return planned, rows >= 0, missing


@verb("plan", document=Planned, reads=True)
@path_argument("cache", "CACHE")
@path_argument("file", "FILE")
@COLUMN
@click.option(
    "--rate", "speed", type=rate, metavar="N/s", help="Texts that the model encodes, such as 200/s."
)
@click.option(
    "--price", "token_price", type=price, metavar="N/1M", help="The price of tokens, such as 0.02/1M."
)
def command(
    *,
    cache: Path,
    file: Path,
    column: str,
    speed: float | None,
    token_price: float | None,
    as_json: bool,
) -> int:
    """Foresee what encoding a file would take and cost.

    Counts how many texts of FILE are in CACHE, which need not exist, and how many a model has to encode. With
    --rate and --price, it says how long that takes and what it costs. Tokens are estimated, at four bytes
    each.
    """
    texts = wanted(TableFile(file, column))
    planned, _, _ = plan_of(cache, texts, speed=speed, token_price=token_price)
    if as_json:
        print_json(planned)
    else:
        print("\n".join(plan_lines(planned)))
    return 0


def plan_lines(planned: Planned) -> list[str]:
    """Return a plan as lines."""
    added = "unknown before the first vector" if planned.bytes is None else size_text(planned.bytes)
    lines = [
        ("texts", f"{planned.items:,}"),
        ("hits", f"{planned.hits:,}"),
        ("misses", f"{planned.misses:,}"),
        ("duplicates", f"{planned.duplicates:,}"),
        ("added on disk", added),
        ("to read", f"{size_text(planned.text_bytes)}, about {planned.tokens:,} tokens"),
        ("time", "" if planned.seconds is None else duration_text(planned.seconds)),
        ("cost", "" if planned.cost is None else price_text(planned.cost)),
    ]
    shown = [line for line in lines if line[1]]
    return aligned([Column(""), Column("")], shown)[1:]
