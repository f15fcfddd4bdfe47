"""``dejavec export``: writes the vectors for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dejavec.cli.documents import print_json
from dejavec.cli.verb import path_argument, verb


@dataclass(frozen=True)
class Written:
    """What became of one cache.

    Attributes:
        source: the directory of the cache.
        target: the directory or file that was written; null if the cache was left out.
        written: how many vectors were written.
        replaced: how many rows were left out because a later row has their key.
        dead: how many rows were left out because a repair gave them up.
        damaged: how many rows were left out because of a checksum mismatch.
        dtype: the dtype of the vectors in the cache.
    """

    source: Path
    target: Path | None
    written: int
    replaced: int
    dead: int
    damaged: int
    dtype: str


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        caches: what became of each cache.
    """

    caches: list[Written]


@verb("export", document=Export, kept="nothing was exported; run it again")
@path_argument("source", "SRC")
@path_argument("target", "DST")
@click.option("--format", type=click.Choice(["mteb"]), default="mteb", show_default=True, expose_value=False)
def command(*, source: Path, target: Path, as_json: bool) -> int:
    """Write the vectors as a cache that mteb loads.

    Writes the vectors of the cache SRC, or of all caches below it, as caches that mteb's NumpyCache loads,
    at DST.
    """
    from dejavec.mteb.migrate.exporter import export

    reports = [Written(**vars(report)) for report in export(source, target)]
    if as_json:
        print_json(Export(reports))
        return 0
    for report in reports:
        _print(report)
    return 0


def _print(report: Written) -> None:
    if report.target is None:
        print(f"{report.source}: left out: mteb keeps one cache for a task and role")
        return
    print(f"{report.source}: {report.written:,} vectors to {report.target}")
    if report.dtype != "float32":
        print(f"  as float32: the numbers are the same, the dtype {report.dtype} is lost")
    for count, reason in (
        (report.replaced, "replaced by later ones"),
        (report.dead, "given up by a repair"),
        (report.damaged, "damaged"),
    ):
        if count:
            print(f"  {count:,} left out: {reason}")
