"""``dejavec import``: takes over vectors that other programs stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click
import numpy as np

from dejavec.cli import import_sources
from dejavec.cli.documents import print_json
from dejavec.cli.import_sources import KeyEncoder, Read
from dejavec.cli.merging import merge_into
from dejavec.cli.progress import progress
from dejavec.cli.selection import opened
from dejavec.cli.table_file import TableFile
from dejavec.cli.verb import COLUMN, DRY_RUN, PathType, path_argument, verb
from dejavec.errors import ItemError, StorageError
from dejavec.keys.items import Keys, first_of_each, text_keys
from dejavec.storage.find import META
from dejavec.storage.identity import describe
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.mteb_files import is_old_cache
from dejavec.vectors.fitting import fitting_rows
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows
from dejavec.vectors.stored import nonfinite

if TYPE_CHECKING:
    from dejavec.mteb.migrate.importer import Imported

Form = Literal["mteb", "npy", "parquet", "langchain", "cache"]

_NONFINITE = "not finite, so never stored"


@dataclass
class Source:
    """What became of one source.

    Attributes:
        source: the directory or file.
        targets: the caches that took its vectors.
        prompts: the prompt in the identity of each target, for a tree of mteb's caches.
        taken: how many vectors were stored; with --dry-run, would be.
        held: how many vectors the targets had already; these do not change.
        left: how many vectors were left out, by reason.
        doubt: why vectors may be wrong; null if they are certainly right.
        refused: why nothing was imported; null if something was, or could have been.
    """

    source: Path
    targets: list[Path] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    taken: int = 0
    held: int = 0
    left: dict[str, int] = field(default_factory=dict)
    doubt: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Import:
    """The result of an import.

    Attributes:
        format: the format of the source.
        sources: what became of each source.
        claim: what the user answers for; empty for a cache of dejavec, which says it itself.
    """

    format: str
    sources: list[Source]
    claim: str


@verb("import", document=Import, kept="what was imported is kept; run it again to continue")
@path_argument("source", "SRC")
@path_argument("target", "DST")
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Form)),
    help="Default: npy or parquet by the suffix of SRC, cache or mteb by its files, langchain with --texts.",
)
@click.option("--model", metavar="NAME@REVISION", help="Which model made the vectors; not for a cache.")
@click.option(
    "--texts", type=PathType(), metavar="FILE", help="The texts of the vectors: for npy, langchain."
)
@COLUMN
@click.option(
    "--vectors",
    metavar="NAME",
    default="vector",
    show_default=True,
    help="The column with the vectors: for parquet.",
)
@click.option("--ids", type=PathType(), metavar="FILE", help="The id of each row: for npy.")
@click.option(
    "--id-column", metavar="NAME", default="id", show_default=True, help="The column of --texts with the ids."
)
@click.option("--namespace", default="", help="The namespace of the store: for langchain.")
@click.option(
    "--key-encoder",
    type=click.Choice(get_args(KeyEncoder)),
    default="sha1",
    show_default=True,
    help="The key_encoder of the store: for langchain.",
)
@click.option("--dtype", type=click.Choice(["float32"]), help="Round the vectors to this.")
@click.option("--keep-texts", is_flag=True, help="Keep the texts beside the vectors.")
@click.option("--trust", is_flag=True, help="Also import vectors that may be wrong: for mteb.")
@DRY_RUN
def command(
    *,
    source: Path,
    target: Path,
    form: Form | None,
    model: str | None,
    trust: bool,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> int:
    r"""Import vectors that another program stored.

    Imports into the cache DST from SRC, which is only read:

    \b
    mteb       one cache that mteb 1 or 2 wrote, or all below SRC
    npy        a matrix; --texts names its texts in their order, or --ids its rows
    parquet    a table with a column of texts and one of vectors
    langchain  a LocalFileStore of CacheBackedEmbeddings; --texts names its texts
    cache      another cache of dejavec, of the same identity

    Vectors that DST has already are not replaced. You answer for it that the model made the vectors. Of
    mteb's caches, vectors that may be wrong are left out, and the reason is printed. The status is 1 if a
    cache was refused.
    """
    chosen = form or _form_of(source, settings["texts"])
    if (model is None) != (chosen == "cache"):
        raise click.UsageError(
            "A cache of dejavec says which model made its vectors: leave out --model."
            if chosen == "cache"
            else "Missing option '--model': which model made the vectors, as NAME@REVISION."
        )
    if chosen == "mteb":
        result = _import_mteb(source, target, str(model), trust=trust, dry_run=dry_run)
    elif chosen == "cache":
        result = _import_cache(source, target, dry_run=dry_run)
    else:
        result = _import_texts(source, target, chosen, str(model), settings, dry_run=dry_run)
    if as_json:
        print_json(result)
    else:
        _print(result, trust=trust, dry_run=dry_run)
    return 1 if any(report.refused for report in result.sources) else 0


def _form_of(source: Path, texts: Path | None) -> Form:
    if source.suffix == ".npy":
        return "npy"
    if source.suffix == ".parquet":
        return "parquet"
    if (source / META).is_file():
        return "cache"
    return "langchain" if texts is not None and not is_old_cache(source) else "mteb"


def _import_mteb(source: Path, target: Path, model: str, *, trust: bool, dry_run: bool) -> Import:
    from dejavec.mteb.migrate.importer import import_old

    reports, claim = import_old(source, target, model, trust=trust, dry_run=dry_run)
    claim += ", and no two processes at a time wrote one cache"
    return Import("mteb", [Source(**vars(report)) for report in reports], claim)


def _import_cache(source: Path, target: Path, *, dry_run: bool) -> Import:
    outcome = merge_into(target, [source], on_conflict="first", dry_run=dry_run)
    report = Source(source, [target])
    report.taken = outcome.added + outcome.replaced
    report.held = outcome.equal + len(outcome.conflicts)
    with opened(source) as cache:
        dead = int((~cache.keys().any(axis=1)).sum())
    report.left = {
        reason: count
        for reason, count in (("damaged", outcome.damaged), ("given up by a repair", dead))
        if count
    }
    return Import("cache", [report], "")


def _import_texts(
    source: Path, target: Path, form: Form, model: str, settings: Mapping[str, Any], *, dry_run: bool
) -> Import:
    """Import texts and vectors that are read together."""
    read = _read(source, form, settings)
    report = Source(source, [target], left=read.left)
    with (
        KeyedCache(target, identity=describe(model, None)) as into,
        progress(f"import {source.name}", None, "rows") as advance,
    ):
        for texts, vectors in read.blocks:
            rows, output = fitting_rows(
                vectors,
                len(texts),
                str(source),
                dim=into.dim,
                stored=into.output,
                dtype=settings["dtype"],
                store_dtype=None,
            )
            keep = texts if settings["keep_texts"] else None
            _take(into, text_keys(texts), (rows, output), report, texts=keep, dry_run=dry_run)
            advance(len(texts))
    report.left = {reason: count for reason, count in read.left.items() if count}
    if form == "langchain" and not report.taken and not report.held:
        _refuse_langchain(source, settings)
    return Import(form, [report], f"{model} made them")


def _read(source: Path, form: Form, settings: Mapping[str, Any]) -> Read:
    if form == "parquet":
        return import_sources.parquet(source, settings["column"], settings["vectors"])
    if settings["texts"] is None:
        raise click.UsageError(f"Missing option '--texts': {form} does not hold the texts of its vectors.")
    table = TableFile(settings["texts"], settings["column"])
    if form == "npy":
        return import_sources.matrix(source, table, settings["ids"], settings["id_column"])
    if not source.is_dir():
        raise StorageError(f"{source}: no directory", remedy="check the path", path=source)
    return import_sources.langchain(source, table, settings["namespace"], settings["key_encoder"])


def _refuse_langchain(source: Path, settings: Mapping[str, Any]) -> None:
    example = next((path for path in sorted(source.rglob("*")) if path.is_file()), None)
    raise ItemError(
        source,
        expected=f"files named by {settings['namespace']!r} and the {settings['key_encoder']} of each text",
        found="none" if example is None else f"such as {example.relative_to(source)}",
        remedy="check --namespace, --key-encoder and --texts",
    )


def _take(
    into: KeyedCache,
    keys: Keys,
    vectors: tuple[Rows, Output],
    report: Source,
    *,
    texts: Sequence[str | None] | None,
    dry_run: bool,
) -> None:
    """Append the rows of keys that the cache lacks, and count."""
    rows, output = vectors
    bad = nonfinite(rows)
    if len(bad):
        report.left[_NONFINITE] = report.left.get(_NONFINITE, 0) + len(bad)
    new = (into.lookup(keys) < 0) & (first_of_each(keys) == np.arange(len(keys)))
    new[bad] = False
    chosen = np.flatnonzero(new)
    report.held += len(keys) - len(bad) - len(chosen)
    if not len(chosen):
        return
    if dry_run:
        report.taken += len(chosen)
        return
    # Without `seen`, a key that got a row meanwhile is not replaced.
    kept = None if texts is None else [str(texts[at]) for at in chosen.tolist()]
    taken = into.append(np.ascontiguousarray(keys[chosen]), rows[chosen], output, texts=kept)
    report.taken += taken
    report.held += len(chosen) - taken


def _print(result: Import, *, trust: bool, dry_run: bool) -> None:
    for report in result.sources:
        print("\n".join(_lines(report, trust=trust, dry_run=dry_run)))
    if result.claim and any(report.taken for report in result.sources):
        print(f"You answer for the imported vectors: {result.claim}.")


def _lines(report: Imported | Source, *, trust: bool, dry_run: bool) -> list[str]:
    """Return the lines of one report."""
    if report.refused is not None:
        return [f"{report.source}: nothing imported: {report.refused}"]
    where = f" to {' and '.join(map(str, report.targets))}" if report.targets and report.taken else ""
    done = "would be imported" if dry_run else "imported"
    lines = [f"{report.source}: {report.taken:,} vectors {done}{where}"]
    if report.doubt is not None and trust:
        lines.append(f"  on trust: {report.doubt}")
    lines += [f"  prompt: {prompt.get('text', 'not known')!r}" for prompt in report.prompts]
    if report.held:
        lines.append(f"  {report.held:,} were there already")
    for reason, count in report.left.items():
        more = "; --trust takes them" if reason == report.doubt and not trust else ""
        lines.append(f"  {count:,} left out: {reason}{more}")
    return lines
