"""``dejavec merge``: the vectors of caches into one cache."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from dejavec.cli.documents import print_json
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.tables import shortened, terminal_width
from dejavec.cli.verb import DRY_RUN, PathType, path_argument, verb
from dejavec.errors import ForeignDirectoryError
from dejavec.storage.find import META
from dejavec.storage.identity import BARE
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.transfer.merge import MergeOutcome, OnConflict, merge

_SHOWN = 10
"""How many conflicts are printed. JSON has all of them."""


@dataclass(frozen=True)
class Conflict:
    """A text that two caches have different vectors for.

    Attributes:
        key: the key of the text, in hexadecimal digits.
        text: the text; null if the cache that it was met in does not keep it.
    """

    key: str
    text: str | None


@dataclass(frozen=True)
class Merged:
    """The result of a merge.

    Attributes:
        sources: the caches that were read.
        target: the cache that took their vectors.
        added: how many texts got a vector that had none; with --dry-run, would get.
        equal: how many vectors were stored already, with the same bytes.
        replaced: how many vectors were replaced: conflicts with --on-conflict last, and damaged rows.
        damaged: how many rows of the sources have a checksum mismatch, and were left out.
        conflicts: the texts with different vectors, in the order in which they were met.
    """

    sources: list[Path]
    target: Path
    added: int
    equal: int
    replaced: int
    damaged: int
    conflicts: list[Conflict]


@verb("merge", document=Merged, kept="what was merged is kept; run it again to continue")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=PathType())
@path_argument("target", "DST")
@click.option(
    "--on-conflict",
    type=click.Choice(get_args(OnConflict)),
    default="first",
    show_default=True,
    help="Which of two different vectors of a text counts: that of DST, or that of the last SRC.",
)
@DRY_RUN
def command(
    *, sources: Sequence[Path], target: Path, on_conflict: OnConflict, dry_run: bool, as_json: bool
) -> int:
    """Append the vectors of caches to one cache.

    Appends the vectors of each cache SRC to the cache DST, which is made if there is none, with the texts
    that are kept beside them. All must be of one identity, dimension and dtype. Texts with different vectors
    are counted and listed. Damaged rows of SRC are left out.
    """
    outcome = merge_into(target, sources, on_conflict=on_conflict, dry_run=dry_run)
    keys = [key.tobytes().hex() for key in outcome.conflicts]
    conflicts = [Conflict(key, text) for key, text in zip(keys, outcome.conflict_texts, strict=True)]
    merged = Merged(
        list(sources),
        target,
        outcome.added,
        outcome.equal,
        outcome.replaced,
        outcome.damaged,
        conflicts,
    )
    if as_json:
        print_json(merged)
    else:
        print("\n".join(_lines(merged, on_conflict, dry_run=dry_run)))
    return 0


def merge_into(
    target: Path, sources: Sequence[Path], *, on_conflict: OnConflict, dry_run: bool
) -> MergeOutcome:
    """Merge caches at paths into one, which gets the identity and the container of the first if it is new.

    Raises:
        ForeignDirectoryError: a source is the target.
        DejavecError: see ``EmbeddingCache.merge``.
    """
    for source in sources:
        if source.resolve() == target.resolve():
            raise ForeignDirectoryError(
                target, expected="another directory than SRC", found="SRC", remedy="choose another"
            )
    with ExitStack() as stack:
        others = [stack.enter_context(opened(source)) for source in sources]
        first = others[0]
        containers = () if (target / META).is_file() else (first.container,)
        identity = first.identity or dict(BARE)
        into = stack.enter_context(KeyedCache(target, identity=identity, containers=containers))
        with progress("merge", sum(map(len, others)), "rows") as advance:
            return merge(
                into,
                others,
                on_conflict=on_conflict,
                keep_texts=True,
                advance=advance,
                dry_run=dry_run,
            )


def _lines(merged: Merged, on_conflict: OnConflict, *, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = [f"{merged.target}: {merged.added:,} vectors {would}added"]
    if merged.equal:
        lines.append(f"  {merged.equal:,} were there already")
    if merged.replaced:
        lines.append(f"  {merged.replaced:,} {would}replaced")
    if merged.damaged:
        lines.append(f"  {merged.damaged:,} left out: damaged")
    if not merged.conflicts:
        return lines
    count = "would count" if dry_run else "count"
    lines.append(f"  {len(merged.conflicts):,} texts have different vectors; the {on_conflict} ones {count}:")
    width = terminal_width()
    for conflict in merged.conflicts[:_SHOWN]:
        shown = conflict.key if conflict.text is None else repr(conflict.text)
        lines.append(f"    {shown if width is None else shortened(shown, width - 4)}")
    if len(merged.conflicts) > _SHOWN:
        lines.append(f"    and {len(merged.conflicts) - _SHOWN:,} more: --json lists all")
    return lines
