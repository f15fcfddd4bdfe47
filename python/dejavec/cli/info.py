"""``dejavec info``: everything about one cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dejavec.cli.described import Described, described, open_store
from dejavec.cli.documents import print_json
from dejavec.cli.tables import Column, aligned, printable
from dejavec.cli.verb import path_argument, verb
from dejavec.identity.proven import FILE as PROVEN
from dejavec.identity.proven import read_proven
from dejavec.storage.identity import BARE
from dejavec.storage.summary import size_text

_SIZES = ("row_bytes", "bytes_on_disk")
"""Entries of the counts that are sizes."""


@dataclass(frozen=True)
class Proven:
    """A model that is proven to have made vectors of the cache, or to have confirmed them.

    Attributes:
        description: the digest of everything that can be read of it, besides its tensors.
        device: the type of its device; empty if it has none.
        versions: the versions of the libraries that it used.
    """

    description: str
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Info:
    """One cache.

    Attributes:
        cache: what `dejavec ls` lists.
        counts: what `EmbeddingCache.stats` returns.
        files: the size of each file in bytes.
        identity: which model and settings made the vectors; empty if none are named.
        proven: the models whose vectors these are proven to be.
    """

    cache: Described
    counts: dict[str, int]
    files: dict[str, int]
    identity: dict[str, Any]
    proven: list[Proven]


def info_of(path: Path) -> Info:
    """Return everything about one cache.

    Raises:
        DejavecError: there is no cache, or it cannot be opened.
    """
    store = open_store(path)
    try:
        identity: dict[str, Any] = json.loads(store.identity)
        return Info(
            described(path, store),
            {"dim": store.dim, **store.stats()},
            {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()},
            {} if identity == BARE else identity,
            [
                Proven(proven.seen, proven.device or "", dict(proven.versions))
                for proven in read_proven(path / PROVEN)
            ],
        )
    finally:
        store.close()


@verb("info", document=Info)
@path_argument("cache", "CACHE")
def command(*, cache: Path, as_json: bool) -> int:
    """Show everything about one cache.

    Shows counts and sizes of CACHE, which model and settings made its vectors, and for which models that
    is proven. `dejavec stats` is the same.
    """
    info = info_of(cache)
    if as_json:
        print_json(info)
        return 0
    about = info.cache
    print(printable(str(cache)))
    print(f"{about.library} {about.dtype} vectors in the container {about.container}")
    counts = [
        (name.replace("_", " "), size_text(count) if name in _SIZES else f"{count:,}")
        for name, count in info.counts.items()
    ]
    _print_lines([*counts, ("last written", about.written.replace("T", " "))])
    print("files")
    _print_lines([(printable(name), size_text(size)) for name, size in info.files.items()])
    print("identity")
    print("  " + json.dumps(info.identity, indent=2, sort_keys=True).replace("\n", "\n  "))
    for proven in info.proven:
        versions = " ".join(f"{name} {version}" for name, version in proven.versions.items())
        print(f"proven for a model with the description {proven.description[:12]}")
        print(f"  on {proven.device or 'no device'}, {versions}")
    return 0


def _print_lines(lines: list[tuple[str, str]]) -> None:
    for line in aligned([Column(""), Column("", "right")], lines)[1:]:
        print(f"  {line}")
