"""``dejavec copy``: a cache into a new one, of another dtype or container."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.verb import DRY_RUN, path_argument, verb
from dejavec.storage.summary import size_text
from dejavec.support.paths import local_directory
from dejavec.transfer.copying import CopyDtype, copy_to
from dejavec.vectors.output import Container


@dataclass(frozen=True)
class Copied:
    """A copy.

    Attributes:
        source: the cache that was read.
        target: the new cache.
        rows: how many vectors it has; with --dry-run, would have.
        dtype: the dtype in which it stores them; null with --dry-run.
        container: the format of its rows; null with --dry-run.
        bytes: the size of all its files; null with --dry-run.
    """

    source: Path
    target: Path
    rows: int
    dtype: str | None
    container: str | None
    bytes: int | None


@verb("copy", document=Copied, kept="nothing was copied; run it again")
@path_argument("source", "SRC")
@path_argument("target", "DST")
@click.option("--dtype", type=click.Choice(get_args(CopyDtype)), help="Round the vectors to this.")
@click.option(
    "--container",
    type=click.Choice(get_args(Container)),
    help="The format of the rows, for the same kind of vectors. Default: that of SRC.",
)
@click.option(
    "--texts/--no-texts",
    default=True,
    show_default=True,
    help="Whether the texts come along that are kept beside the vectors.",
)
@DRY_RUN
def command(
    *,
    source: Path,
    target: Path,
    dtype: CopyDtype | None,
    container: Container | None,
    texts: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Copy a cache into a new one.

    Copies the newest vector of each text of the cache SRC into the directory DST, which must not exist or be
    empty. DST is there completely, or not at all. With --dtype float16, open it with
    store_dtype="float16". Caches below SRC are not copied.
    """
    with opened(source) as cache, progress("copy", len(cache), "rows") as advance:
        rows = copy_to(
            cache,
            local_directory(target),
            dtype=dtype,
            container=container,
            texts=texts,
            advance=advance,
            dry_run=dry_run,
        )
    copied = Copied(source, target, rows, None, None, None)
    if not dry_run:
        with opened(target) as cache:
            stored = None if cache.dtype is None else cache.dtype.name
            copied = Copied(source, target, rows, stored, cache.container, cache.bytes_on_disk())
    if as_json:
        print_json(copied)
    elif copied.bytes is None:
        print(f"{target}: {rows:,} vectors would be copied from {source}")
    else:
        print(f"{target}: {rows:,} vectors, {copied.dtype}, {copied.container}, {size_text(copied.bytes)}")
    return 0
