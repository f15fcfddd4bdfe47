"""``dejavec ls``: the caches below a directory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dejavec.cli.amounts import age_text
from dejavec.cli.described import Described, described, open_store
from dejavec.cli.documents import print_json
from dejavec.cli.tables import Column, print_table, printable
from dejavec.cli.verb import path_argument, verb
from dejavec.errors import DejavecError
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
class Listing:
    """The caches below a directory.

    Attributes:
        caches: those that open, by path.
        unopened: caches that do not open, and directories that cannot be read.
        rows: rows of all listed caches.
        bytes: the size of all listed caches.
    """

    caches: list[Described]
    unopened: list[Unopened]
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
    return Listing(caches, unopened, rows, size)


@verb("ls", document=Listing)
@path_argument("path", "[PATH]", required=False, default=".")
def command(*, path: Path, as_json: bool) -> int:
    """List the caches below a directory.

    Shows all caches at and below PATH, by default the current directory: model, role, prompt, rows,
    dimension, dtype, container, size, and when they were last written. A narrow terminal shows less;
    --json has all. The status is 1 if a cache does not open.
    """
    listing = listing_of(path)
    if as_json:
        print_json(listing)
    else:
        if listing.caches:
            now = time.time()
            print_table(_COLUMNS, [_cells(cache, path, now) for cache in listing.caches])
        count = len(listing.caches)
        caches = "cache" if count == 1 else "caches"
        print(f"{count:,} {caches}, {listing.rows:,} rows, {size_text(listing.bytes)}")
        for refused in listing.unopened:
            print(f"does not open: {refused.reason}" if refused.path else refused.reason)
    return 1 if listing.unopened else 0


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
