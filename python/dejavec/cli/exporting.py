"""``dejavec export``: writes the vectors for other programs."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click

from dejavec.cli.documents import print_json
from dejavec.cli.export_formats import SUFFIXES, Format, write
from dejavec.cli.output_file import writing
from dejavec.cli.selection import Selection, opened, select
from dejavec.cli.table_file import TableFile
from dejavec.cli.verb import COLUMN, DRY_RUN, PathType, path_argument, verb
from dejavec.errors import ForeignDirectoryError

_MTEB = "mteb"


@dataclass(frozen=True)
class Written:
    """What became of one cache.

    Attributes:
        source: the directory of the cache.
        target: the directory or file that was written; null if the cache was left out.
        written: how many vectors were written.
        texts: how many of them with their text.
        replaced: how many rows were left out because a later row has their key.
        dead: how many rows were left out because a repair gave them up.
        damaged: how many rows were left out because of a checksum mismatch.
        dtype: the dtype of the vectors in the cache.
    """

    source: Path
    target: Path | None
    written: int
    texts: int
    replaced: int
    dead: int
    damaged: int
    dtype: str


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        format: the format.
        files: the files that were written; empty for mteb, which gets directories.
        caches: what became of each cache.
    """

    format: str
    files: list[Path]
    caches: list[Written]


@verb("export", document=Export, kept="nothing was exported; run it again")
@path_argument("source", "SRC")
@path_argument("target", "DST")
@click.option(
    "--format",
    "form",
    type=click.Choice([*get_args(Format), _MTEB]),
    help="Default: by the suffix of DST; mteb for a directory.",
)
@click.option("--texts", type=PathType(), metavar="FILE", help="Texts to write beside their vectors.")
@COLUMN
@click.option(
    "--metric", type=click.Choice(["l2", "ip"]), help="Of the faiss index. Default: that of the cache, or l2."
)
@DRY_RUN
def command(
    *,
    source: Path,
    target: Path,
    form: str | None,
    texts: Path | None,
    column: str,
    metric: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Write the vectors for other programs.

    Writes the newest vector of each key of the cache SRC, with its key, and with its text where it is kept
    or given, to the file DST. npy and faiss hold one matrix; keys and texts lie beside it, with the
    endings .keys.npy and .texts.jsonl. All other formats hold everything, multi-vector and sparse rows too.
    With mteb, SRC may be a directory of caches, and DST becomes a directory that mteb's NumpyCache loads.
    Damaged rows are left out, and counted.
    """
    chosen = form or SUFFIXES.get(target.suffix.lower(), _MTEB)
    if chosen == _MTEB:
        if texts is not None:
            raise click.UsageError("--texts is not for the format mteb.")
        export = Export(chosen, [], _export_mteb(source, target, dry_run=dry_run))
    else:
        table = None if texts is None else TableFile(texts, column)
        export = _export_file(source, target, chosen, table, metric, dry_run=dry_run)  # type: ignore[arg-type]
    if as_json:
        print_json(export)
        return 0
    for report in export.caches:
        _print(report, export.format, dry_run=dry_run)
    for file in export.files[1:]:
        print(f"  beside it: {file.name}")
    return 0


def _export_mteb(source: Path, target: Path, *, dry_run: bool) -> list[Written]:
    from dejavec.mteb.migrate.exporter import export

    return [Written(**vars(report), texts=0) for report in export(source, target, dry_run=dry_run)]


def _export_file(
    source: Path, target: Path, form: Format, table: TableFile | None, metric: str | None, *, dry_run: bool
) -> Export:
    if target.exists() or target.is_symlink():
        raise ForeignDirectoryError(
            target, expected="a new file", found="one that is there", remedy="remove it or choose another"
        )
    with opened(source) as cache:
        selection = select(cache, table)
        files = [] if dry_run else _write(selection, form, target, metric)
        output = cache.output
        known = selection.texts_of(selection.rows) if selection.has_texts else []
        written = Written(
            source,
            target,
            len(selection.rows),
            sum(text is not None for text in known),
            selection.replaced,
            selection.dead,
            selection.damaged,
            "" if output is None else output.dtype,
        )
    return Export(form, files, [written])


def _write(selection: Selection, form: Format, target: Path, metric: str | None) -> list[Path]:
    """Write files, sync them, and give them their names together, or remove them."""
    before = set(_temporary(target))
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            written = write(selection, form, target, metric)
            for path in written.values():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            for final, path in written.items():
                path.rename(final)
        except BaseException:
            for path in set(_temporary(target)) - before:
                with suppress(OSError):
                    path.unlink()
            raise
    return list(written)


def _temporary(target: Path) -> list[Path]:
    return list(target.parent.glob(f".{target.stem}*.tmp")) if target.parent.is_dir() else []


def _print(report: Written, form: str, *, dry_run: bool) -> None:
    if report.target is None:
        print(f"{report.source}: left out: mteb keeps one cache for a task and role")
        return
    texts = f" with {report.texts:,} texts" if report.texts else ""
    would = "would go " if dry_run else ""
    print(f"{report.source}: {report.written:,} vectors{texts} {would}to {report.target}")
    if form in (_MTEB, "faiss") and report.dtype != "float32":
        print(f"  as float32: the numbers are the same, the dtype {report.dtype} is lost")
    for count, reason in (
        (report.replaced, "replaced by later ones"),
        (report.dead, "given up by a repair"),
        (report.damaged, "damaged"),
    ):
        if count:
            print(f"  {count:,} left out: {reason}")
