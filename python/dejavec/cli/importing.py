"""``dejavec import``: takes over vectors that other programs stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dejavec.cli.documents import print_json
from dejavec.cli.verb import path_argument, verb

if TYPE_CHECKING:
    from dejavec.mteb.migrate.importer import Imported


@dataclass(frozen=True)
class Source:
    """What became of one source.

    Attributes:
        source: the directory or file.
        targets: the caches that took its vectors.
        prompts: the prompt in the identity of each target, for a tree of mteb's caches.
        taken: how many vectors were stored.
        held: how many vectors the targets had already.
        left: how many vectors were left out, by reason.
        doubt: why vectors may be wrong; null if they are certainly right.
        refused: why nothing was imported; null if something was, or could have been.
    """

    source: Path
    targets: list[Path]
    prompts: list[dict[str, Any]]
    taken: int
    held: int
    left: dict[str, int]
    doubt: str | None
    refused: str | None


@dataclass(frozen=True)
class Import:
    """The result of an import.

    Attributes:
        sources: what became of each source.
        claim: what the user answers for.
    """

    sources: list[Source]
    claim: str


@verb("import", document=Import, kept="what was imported is kept; run it again to continue")
@path_argument("source", "SRC")
@path_argument("target", "DST")
@click.option("--model", required=True, metavar="NAME@REVISION", help="Which model made the vectors.")
@click.option("--trust", is_flag=True, help="Also import vectors that may be wrong.")
def command(*, source: Path, target: Path, model: str, trust: bool, as_json: bool) -> int:
    """Import the vectors of a cache that mteb wrote.

    Imports one cache that mteb 1 or 2 wrote, or all below SRC, into caches of dejavec at DST. SRC is only
    read. Vectors that may be wrong are left out, and the reason is printed. The status is 1 if a cache was
    refused.
    """
    from dejavec.mteb.migrate.importer import import_old

    reports, claim = import_old(source, target, model, trust=trust)
    if as_json:
        print_json(Import([Source(**vars(report)) for report in reports], claim))
    else:
        for report in reports:
            print("\n".join(_lines(report, trust=trust)))
        if any(report.taken for report in reports):
            print(
                f"You answer for the imported vectors: {claim}, and no two processes at a time wrote one "
                "cache."
            )
    return 1 if any(report.refused for report in reports) else 0


def _lines(report: Imported, *, trust: bool) -> list[str]:
    """Return the lines of one report."""
    if report.refused is not None:
        return [f"{report.source}: nothing imported: {report.refused}"]
    where = f" to {' and '.join(map(str, report.targets))}" if report.taken else ""
    lines = [f"{report.source}: {report.taken:,} vectors imported{where}"]
    if report.doubt is not None and trust:
        lines.append(f"  on trust: {report.doubt}")
    lines += [f"  prompt: {prompt.get('text', 'not known')!r}" for prompt in report.prompts]
    if report.held:
        lines.append(f"  {report.held:,} were there already")
    for reason, count in report.left.items():
        more = "; --trust takes them" if reason == report.doubt and not trust else ""
        lines.append(f"  {count:,} left out: {reason}{more}")
    return lines
