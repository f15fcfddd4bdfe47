"""``dejavec prune``: drops the oldest vectors of a cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dejavec.cli.amounts import byte_count
from dejavec.cli.documents import print_json
from dejavec.cli.selection import opened
from dejavec.cli.table_file import TableFile
from dejavec.cli.verb import COLUMN, DRY_RUN, PathType, path_argument, verb
from dejavec.cli.writable import open_to_change
from dejavec.keys.items import text_keys
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Pruned:
    """What was dropped; with --dry-run, would be.

    Attributes:
        cache: the directory.
        dropped: how many texts.
        left: how many texts are left.
        bytes_on_disk: the size of all files then; with --dry-run, about.
    """

    cache: Path
    dropped: int
    left: int
    bytes_on_disk: int


@verb("prune", document=Pruned, kept="the old files or the new ones count, whole; run it again", reads=True)
@path_argument("cache", "CACHE")
@click.option("--max-size", type=byte_count, metavar="SIZE", help="How large all files may be, such as 10GB.")
@click.option("--newest", type=click.IntRange(0), metavar="N", help="How many of the newest vectors stay.")
@click.option("--keep", type=PathType(), metavar="FILE", help="Texts that are never dropped.")
@COLUMN
@DRY_RUN
def command(
    *,
    cache: Path,
    max_size: int | None,
    newest: int | None,
    keep: Path | None,
    column: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Drop the oldest vectors of a cache, and compact it.

    A vector is older than those that were stored after it; reading it does not make it newer. With
    --max-size, the oldest go until the files fit.
    """
    if max_size is None and newest is None:
        raise click.UsageError("Missing option '--max-size' or '--newest': what stays.")
    kept = [] if keep is None else [text for texts in TableFile(keep, column).texts() for text in texts]
    if dry_run:
        with opened(cache) as read:
            dropped, freed = read.pruning(max_bytes=max_size, max_rows=newest, keep=text_keys(kept))
            pruned = Pruned(cache, dropped, len(read) - dropped, max(read.bytes_on_disk() - freed, 0))
    else:
        with open_to_change(cache) as changed:
            dropped = changed.prune(max_bytes=max_size, drop_older_than=newest, keep=kept)
            pruned = Pruned(cache, dropped, len(changed), changed.stats()["bytes_on_disk"])
    if as_json:
        print_json(pruned)
    else:
        would, about = ("would be ", "about ") if dry_run else ("", "")
        size = f"{about}{size_text(pruned.bytes_on_disk)}"
        print(f"{cache}: {dropped:,} vectors {would}dropped, {pruned.left:,} left, {size}")
    return 0
