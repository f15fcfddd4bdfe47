"""``dejavec publish``: writes a cache into a data set repository of the Hugging Face Hub."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from dejavec.cli.addresses import URL
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.verb import DRY_RUN, path_argument, verb
from dejavec.remote.hub import is_data_set, publish
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Publication:
    """What was published; with --dry-run, would be.

    Attributes:
        cache: the directory.
        url: the repository.
        rows: how many vectors it has.
        bytes: the bytes of their data files.
        files: how many files were added.
        removed: how many files of an earlier version were removed.
        commit: the commit, which can be cited; empty with --dry-run.
    """

    cache: Path
    url: str
    rows: int
    bytes: int
    files: int
    removed: int
    commit: str


@verb("publish", document=Publication, kept="nothing was published")
@path_argument("cache", "CACHE")
@URL
@click.option("--texts", is_flag=True, help="Publish the texts that are kept beside the vectors, too.")
@DRY_RUN
def command(*, cache: Path, url: str, texts: bool, dry_run: bool, as_json: bool) -> int:
    """Publish a cache in a data set repository.

    Writes CACHE into URL, hf://datasets/OWNER/NAME, as one commit with a card, whose licence is for you to
    fill in. The repository has to be there. `dejavec pull` reads it, also at an older commit: NAME@COMMIT.
    """
    if not is_data_set(url):
        raise click.UsageError("Publish to hf://datasets/OWNER/NAME; `dejavec push` writes to other stores.")
    with opened(cache) as source, ExitStack() as stack:
        done = publish(
            source,
            url,
            texts=texts,
            dry_run=dry_run,
            total=lambda rows: stack.enter_context(progress("prepare", rows, "rows")),
        )
    if as_json:
        print_json(Publication(cache, url, **vars(done)))
        return 0
    would = "would be " if dry_run else ""
    print(f"{url}: {done.rows:,} vectors {would}published, {size_text(done.bytes)}")
    if done.commit:
        print(f"  commit {done.commit}")
        print("  fill in the licence and the origin of the texts in its card, README.md")
    return 0
