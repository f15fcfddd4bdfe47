"""``dejavec tidy``: merges small objects of a shared cache, and removes what is not needed any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import click

from dejavec.cli.addresses import URL, shown_skips
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.verb import DRY_RUN, verb
from dejavec.remote.compaction import GRACE, compact_all
from dejavec.remote.defects import Skipped
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Tidied:
    """What was merged and removed; with --dry-run, would be.

    Attributes:
        url: the address.
        merged: how many small segments were copied into large ones.
        written: how many large segments were written.
        rows: how many vectors these have.
        removed: how many replaced segments were removed.
        swept: how many half-uploaded files were removed.
        bytes: the size of what was removed.
        skipped: objects there that are not in form.
    """

    url: str
    merged: int
    written: int
    rows: int
    removed: int
    swept: int
    bytes: int
    skipped: list[Skipped]


@verb("tidy", document=Tidied, kept="what was merged stays; run it again to continue")
@URL
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    default=GRACE / timedelta(days=1),
    show_default=True,
    help="How long what is replaced or half uploaded stays.",
)
@DRY_RUN
def command(*, url: str, grace: float, dry_run: bool, as_json: bool) -> int:
    """Merge small segments of shared vectors.

    Copies the small segments at URL, which many small pushes left, into large ones. A later run removes the
    small ones, after the grace period, and half-uploaded files. Readers and writers go on.
    """
    with progress("merge", None, "rows") as advance:
        done = compact_all(url, grace=timedelta(days=grace), dry_run=dry_run, advance=advance)
    if as_json:
        print_json(Tidied(url, **vars(done)))
        return 0
    would = "would be " if dry_run else ""
    print(f"{url}: {done.merged:,} small segments {would}merged into {done.written:,}, {done.rows:,} vectors")
    print(
        f"  {done.removed:,} replaced segments and {done.swept:,} half-uploaded files {would}removed, "
        f"{size_text(done.bytes)}"
    )
    print(shown_skips(done.skipped), end="")
    return 0
