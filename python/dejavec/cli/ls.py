"""``dejavec ls``: the caches below a directory, or shared at an address."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click

from dejavec.cli.addresses import shown_skips
from dejavec.cli.amounts import age_text
from dejavec.cli.described import Described, described, model_of, open_store, prompt_of, role_of
from dejavec.cli.documents import print_json
from dejavec.cli.tables import Column, print_table, printable
from dejavec.cli.verb import verb
from dejavec.errors import DejavecError
from dejavec.remote.defects import Skipped
from dejavec.remote.urls import is_url, split
from dejavec.storage.find import caches_below
from dejavec.storage.summary import size_text

_COLUMNS = (
    Column("cache", shortened="end"),
    Column("model", shortened="start"),
    Column("role", rank=4),
    Column("prompt", shortened="start", rank=6),
    Column("rows", "right"),
    Column("dim", "right", rank=3),
    Column("dtype", rank=2),
    Column("container", rank=5),
    Column("size", "right"),
    Column("written", "right", rank=1),
)
_SHARED_COLUMNS = (Column("namespace"), *_COLUMNS[1:], Column("made with", shortened="start", rank=7))
_LONGEST = 48
"""Characters of a name or prompt that are shown where the output is no terminal."""


@dataclass(frozen=True)
class Unopened:
    """A directory that is not listed.

    Attributes:
        path: the directory; empty if the reason names it.
        reason: why it does not open or cannot be read.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class SharedVectors:
    """The vectors of one identity and form at an address.

    Attributes:
        namespace: the directory below the address.
        model: a short text that identifies the model; empty if the identity has none.
        role: the role of the texts, or null.
        prompt: the text that the model reads before each text, or null.
        rows: rows of all segments: of texts in several segments, each.
        deleted: how many of them were deleted.
        segments: how many segments there are.
        dim: numbers in a vector.
        dtype: the dtype of the vectors that the model returned.
        container: the format of the rows: npy, ragged or sparse.
        bytes: the size of all objects.
        written: when the last segment was written: ISO 8601, UTC; empty without any.
        surroundings: libraries with their versions, and devices, of models that made or confirmed vectors.
    """

    namespace: str
    model: str
    role: str | None
    prompt: str | None
    rows: int
    deleted: int
    segments: int
    dim: int
    dtype: str
    container: str
    bytes: int
    written: str
    surroundings: list[str]


@dataclass(frozen=True)
class Listing:
    """The caches below a directory, or the vectors shared at an address.

    Attributes:
        caches: those that open, by path; empty for an address.
        unopened: caches that do not open, and directories that cannot be read; empty for an address.
        shared: vectors that are shared at an address; empty for a directory.
        skipped: objects at an address that are not in form; empty for a directory.
        rows: rows of all that is listed.
        bytes: the size of all that is listed.
    """

    caches: list[Described]
    unopened: list[Unopened]
    shared: list[SharedVectors]
    skipped: list[Skipped]
    rows: int
    bytes: int


def listing_of(directory: Path) -> Listing:
    """Return all caches at and below a directory.

    Raises:
        CacheNotFoundError: there is no cache.
        StorageError: the directory cannot be read.
    """
    unreadable: list[str] = []
    caches: list[Described] = []
    unopened: list[Unopened] = []
    for path in caches_below(directory, unreadable):
        try:
            store = open_store(path)
            try:
                caches.append(described(path, store))
            finally:
                store.close()
        except (DejavecError, OSError) as error:
            unopened.append(Unopened(str(path), str(error)))
    unopened += [Unopened("", reason) for reason in unreadable]
    rows, size = (sum(getattr(cache, name) for cache in caches) for name in ("rows", "bytes"))
    return Listing(caches, unopened, [], [], rows, size)


def shared_at(url: str) -> Listing:
    """Return what is shared at an address.

    Raises:
        StorageError: the store could not be read.
    """
    from dejavec.remote.overview import overview

    found, skipped = overview(url)
    shared = [
        SharedVectors(
            one.namespace,
            model_of(one.identity),
            role_of(one.identity),
            prompt_of(one.identity),
            **{name: value for name, value in vars(one).items() if name not in ("namespace", "identity")},
        )
        for one in found
    ]
    rows, size = (sum(getattr(one, name) for one in shared) for name in ("rows", "bytes"))
    return Listing([], [], shared, skipped, rows, size)


@verb("ls", document=Listing)
@click.argument("path", metavar="[PATH]", required=False, default=".")
def command(*, path: str, as_json: bool) -> int:
    """List the caches below a directory, or shared vectors.

    Shows all caches at and below PATH, by default the current directory: model, role, prompt, rows,
    dimension, dtype, container, size, and when they were last written. PATH may also be an address to which
    caches were pushed, such as s3://bucket/team. A narrow terminal shows less; --json has all. The status is
    1 if a cache does not open.
    """
    if is_url(path):
        return _list_shared(path, as_json=as_json)
    directory = Path(path)
    listing = listing_of(directory)
    if as_json:
        print_json(listing)
    else:
        if listing.caches:
            now = time.time()
            print_table(_COLUMNS, [_cells(cache, directory, now) for cache in listing.caches])
        count = len(listing.caches)
        caches = "cache" if count == 1 else "caches"
        print(f"{count:,} {caches}, {listing.rows:,} rows, {size_text(listing.bytes)}")
        for refused in listing.unopened:
            print(f"does not open: {refused.reason}" if refused.path else refused.reason)
    return 1 if listing.unopened else 0


def _list_shared(url: str, *, as_json: bool) -> int:
    try:
        split(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    listing = shared_at(url)
    if as_json:
        print_json(listing)
        return 0
    if listing.shared:
        now = time.time()
        print_table(_SHARED_COLUMNS, [_shared_cells(one, now) for one in listing.shared])
    print(f"{len(listing.shared):,} shared, {listing.rows:,} rows, {size_text(listing.bytes)}")
    print(shown_skips(listing.skipped), end="")
    return 0


def _shared_cells(one: SharedVectors, now: float) -> list[str]:
    return [
        one.namespace[:12],
        _shown(one.model),
        _shown(one.role or ""),
        "" if one.prompt is None else _shown(repr(one.prompt)),
        f"{one.rows:,}",
        f"{one.dim:,}",
        one.dtype,
        one.container,
        size_text(one.bytes),
        age_text(now - datetime.fromisoformat(one.written).timestamp()) if one.written else "",
        _shown("; ".join(one.surroundings)),
    ]


def _cells(cache: Described, directory: Path, now: float) -> list[str]:
    return [
        printable(str(cache.path.relative_to(directory))),
        _shown(cache.model),
        _shown(cache.role or ""),
        "" if cache.prompt is None else _shown(repr(cache.prompt)),
        f"{cache.rows:,}",
        f"{cache.dim:,}",
        cache.dtype,
        cache.container,
        size_text(cache.bytes),
        age_text(now - datetime.fromisoformat(cache.written).timestamp()),
    ]


def _shown(text: str) -> str:
    """Return a text as one short line that any terminal can print."""
    plain = printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"
