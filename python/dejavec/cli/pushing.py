"""``dejavec push``: shares a cache in an object store."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from dejavec.cli.addresses import URL, shown_skips
from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.verb import DRY_RUN, path_argument, verb
from dejavec.remote.defects import Skipped
from dejavec.remote.push import push
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Push:
    """What a push wrote; with --dry-run, would write.

    Attributes:
        cache: the directory.
        url: the address.
        namespace: the directory below the address: the digest of identity and form.
        rows: how many vectors were written.
        bytes: the bytes of their data files; with --dry-run, about.
        segments: in how many segments.
        there: how many vectors were there already.
        deleted: how many vectors were deleted there, as they were deleted here.
        damaged: how many vectors here have a checksum mismatch, and were left out.
        skipped: objects there that are not in form, or half uploaded.
    """

    cache: Path
    url: str
    namespace: str
    rows: int
    bytes: int
    segments: int
    there: int
    deleted: int
    damaged: int
    skipped: list[Skipped]


@verb("push", document=Push, kept="what was pushed stays there; run it again to continue")
@path_argument("cache", "CACHE")
@URL
@click.option("--texts", is_flag=True, help="Share the texts that are kept beside the vectors, too.")
@DRY_RUN
def command(*, cache: Path, url: str, texts: bool, dry_run: bool, as_json: bool) -> int:
    """Share the vectors of a cache in an object store.

    Writes what URL lacks: s3://, gs://, az://, hf://buckets/ or file://. Credentials come from the
    environment. Whoever can read URL can recover much of the texts from their vectors, and test whether a
    text was embedded.
    """
    with opened(cache) as source, ExitStack() as stack:
        done = push(
            source,
            url,
            texts=texts,
            dry_run=dry_run,
            total=lambda rows: stack.enter_context(progress("push", rows, "rows")),
        )
    if as_json:
        print_json(Push(cache, url, **vars(done)))
        return 0
    would = "would be " if dry_run else ""
    print(f"{url}: {done.rows:,} vectors {would}written, {size_text(done.bytes)}")
    if done.there:
        print(f"  {done.there:,} were there already")
    if done.deleted:
        print(f"  {done.deleted:,} {would}deleted there")
    if done.damaged:
        print(f"  {done.damaged:,} left out: damaged")
    print(shown_skips(done.skipped), end="")
    return 0
