"""``dejavec pull``: takes shared vectors into a cache."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from dejavec.cli.addresses import URL, shown_skips
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.verb import DRY_RUN, path_argument, verb
from dejavec.remote.defects import Skipped
from dejavec.remote.pull import Vectors, open_for, pull
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Pull:
    """What a pull took; with --dry-run, would take.

    Attributes:
        url: the address.
        cache: the directory.
        namespace: the directory below the address: the digest of identity and form.
        rows: how many vectors were taken.
        bytes: their bytes; with --dry-run, about.
        there: how many vectors were here already.
        keys: how many texts have a vector there.
        deleted: how many vectors were deleted here, as others deleted them.
        requests: how many reads were asked for.
        read_bytes: how many bytes they returned.
        skipped: objects there that were left out.
    """

    url: str
    cache: Path
    namespace: str
    rows: int
    bytes: int
    there: int
    keys: int
    deleted: int
    requests: int
    read_bytes: int
    skipped: list[Skipped]


@verb("pull", document=Pull, kept="what was taken is kept; run it again to continue")
@URL
@path_argument("cache", "CACHE")
@click.option(
    "--vectors",
    type=click.Choice(get_args(Vectors)),
    default="all",
    show_default=True,
    help="All vectors, or their keys alone.",
)
@click.option("--namespace", metavar="DIGITS", help="Which vectors, as `dejavec ls` shows, if CACHE is new.")
@click.option("--texts", is_flag=True, help="Keep shared texts beside the vectors.")
@click.option("--allow-network", is_flag=True, help="Also write on a network file system.")
@DRY_RUN
def command(
    *,
    url: str,
    cache: Path,
    vectors: Vectors,
    namespace: str | None,
    texts: bool,
    allow_network: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Take shared vectors into a cache.

    Takes from URL what CACHE lacks. CACHE is created with the identity of the vectors if there is none.
    Damaged, foreign and half-uploaded objects are skipped and named. You trust whoever can write URL.
    """
    with (
        open_for(cache, url, namespace=namespace, allow_network=allow_network) as target,
        ExitStack() as stack,
    ):
        done = pull(
            url,
            target,
            vectors=vectors,
            texts=texts,
            dry_run=dry_run,
            total=lambda rows: stack.enter_context(progress("pull", rows, "rows")),
        )
    if as_json:
        print_json(Pull(url, cache, **vars(done)))
        return 0
    would = "would be " if dry_run else ""
    if vectors == "all":
        print(f"{cache}: {done.rows:,} vectors {would}taken, {size_text(done.bytes)}")
    else:
        print(f"{cache}: {done.keys:,} keys {would}indexed")
    if done.there:
        print(f"  {done.there:,} were here already")
    if done.deleted:
        print(f"  {done.deleted:,} {would}deleted here, as others deleted them")
    print(shown_skips(done.skipped), end="")
    return 0
