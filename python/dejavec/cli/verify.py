"""``dejavec verify``: checks and repairs caches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from dejavec import _core
from dejavec.cli.documents import print_json
from dejavec.cli.progress import counted, progress
from dejavec.cli.verb import DRY_RUN, PathType, told, verb
from dejavec.cli.writable import LOCK_SECONDS
from dejavec.errors import CacheNotFoundError, DejavecError
from dejavec.storage.find import damaged_or_sound_caches_below
from dejavec.support.core_errors import repair_command


@dataclass(frozen=True)
class Verified:
    """The findings for one cache, before its repair.

    Attributes:
        path: its directory.
        rows: committed rows.
        keys: different keys.
        replaced: rows with a later row of the same key.
        dead: rows that a repair gave up.
        texts: rows with a text.
        damaged: numbers of damaged rows.
        damaged_texts: numbers of sound rows with a damaged text.
        problems: a sentence for each damaged file.
        repaired: whether it was repaired.
        keys_left: different keys after the repair; null without one.
        sound: whether nothing is damaged now.
        error: why it could not be checked or repaired; null if it could.
    """

    path: Path
    rows: int
    keys: int
    replaced: int
    dead: int
    texts: int
    damaged: list[int]
    damaged_texts: list[int]
    problems: list[str]
    repaired: bool
    keys_left: int | None
    sound: bool
    error: str | None


@dataclass(frozen=True)
class Verification:
    """The findings for all caches.

    Attributes:
        caches: the findings for each.
        unreadable: a sentence for each directory that cannot be read.
        sound: whether everything is sound now.
    """

    caches: list[Verified]
    unreadable: list[str]
    sound: bool


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("rows", "keys", "replaced", "dead", "texts"), 0),
    **{name: [] for name in ("damaged", "damaged_texts", "problems")},
}


@verb("verify", document=Verification, kept="an interrupted repair is completed by the next one")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PathType())
@click.option("--repair", is_flag=True, help="Repair damaged caches.")
@click.option("--force", is_flag=True, help="Repair a cache even if most rows are damaged.")
@click.option(
    "--allow-network", is_flag=True, help="Repair on a network file system, whose locks may not hold."
)
@DRY_RUN
def command(
    *,
    paths: Sequence[Path],
    repair: bool,
    force: bool,
    allow_network: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Check every row and file of caches.

    Checks the caches at and below each PATH, and lists what is damaged. With --repair, damaged rows become
    misses, and files that can be rebuilt from the others are rebuilt. The status is 1 if anything is still
    damaged.
    """
    unreadable: list[str] = []
    found: list[Verified] = []
    caches = [cache for path in paths for cache in _caches_at(path, unreadable)]
    sizes = [_size(cache) for cache in caches]
    with progress("verify", sum(sizes), "bytes") as advance:
        for cache, size in zip(caches, sizes, strict=True):

            def advance_part(part: float, size: int = size) -> None:
                advance(part * size)

            if repair and not dry_run:
                verified = _repaired(cache, advance_part, force=force, allow_network=allow_network)
            else:
                verified = _verified(cache, advance_part)
            found.append(verified)
            if not as_json:
                _print(verified)
                if repair and dry_run and not verified.sound and verified.error is None:
                    print(f"  would be repaired; {len(verified.damaged):,} rows would become misses")
    sound = not unreadable and all(cache.sound for cache in found)
    if as_json:
        print_json(Verification(found, unreadable, sound))
    else:
        if len(found) > 1:
            bad = sum(not cache.sound for cache in found)
            print(f"{len(found):,} caches, {bad:,} of them damaged")
        for reason in unreadable:
            print(reason)
    return 0 if sound else 1


def _caches_at(path: Path, unreadable: list[str]) -> list[Path]:
    """Return the caches at and below a path. A path without any counts itself, so that its error is told."""
    try:
        return damaged_or_sound_caches_below(path, unreadable)
    except CacheNotFoundError:
        return [path]


def _size(cache: Path) -> int:
    try:
        return sum(file.stat().st_size for file in cache.iterdir() if file.is_file())
    except OSError:
        return 0


def _verified(cache: Path, advance: Callable[[float], object]) -> Verified:
    """Check a cache. ``advance`` is called with the parts of it that were checked."""
    try:
        findings = counted(partial(_core.verify, str(cache)), advance)
    except DejavecError as refused:
        return _findings(cache, _NOTHING, error=told(refused))
    return _findings(cache, findings)


def _repaired(
    cache: Path, advance: Callable[[float], object], *, force: bool, allow_network: bool
) -> Verified:
    """Check a cache, and repair it if it is damaged. ``advance`` is as in :func:`_verified`."""
    findings, left, error = _NOTHING, None, None

    def work(rows: _core.Progress) -> dict[str, Any]:
        return _core.repair(
            str(cache.absolute()),
            lock_timeout=LOCK_SECONDS,
            force=force,
            allow_network=allow_network,
            progress=rows,
        )

    try:
        findings = counted(work, advance)
        if not _is_sound(findings):
            left = _core.verify(str(cache))
    except DejavecError as refused:
        error = told(refused)
    return _findings(cache, findings, left, error)


def _findings(
    cache: Path, findings: dict[str, Any], left: dict[str, Any] | None = None, error: str | None = None
) -> Verified:
    """Return the findings from before a repair, with what is left after it."""
    return Verified(
        cache,
        **{name: findings[name] for name in _NOTHING},
        repaired=left is not None,
        keys_left=None if left is None else left["keys"],
        sound=error is None and _is_sound(findings if left is None else left),
        error=error,
    )


def _is_sound(findings: dict[str, Any]) -> bool:
    return not findings["damaged"] and not findings["problems"] and not findings["damaged_texts"]


def _print(cache: Verified) -> None:
    if cache.error is not None:
        print(f"dejavec: {cache.error}", file=sys.stderr)
        return
    counts = ", ".join(f"{getattr(cache, name):,} {name}" for name in ("rows", "keys", "replaced", "dead"))
    print(f"{cache.path}: {counts}, {len(cache.damaged):,} damaged")
    if cache.texts or cache.damaged_texts:
        print(f"  {cache.texts:,} rows with a text, {len(cache.damaged_texts):,} damaged texts")
    for problem in cache.problems:
        print(f"  {problem}")
    if cache.damaged:
        print(f"  damaged rows: {', '.join(map(str, cache.damaged))}")
    if cache.damaged_texts:
        print(f"  sound rows with a damaged text: {', '.join(map(str, cache.damaged_texts))}")
    if cache.repaired:
        print(f"  repaired; {cache.keys_left:,} keys are left")
    elif not cache.sound:
        print(f"  repair it with: {repair_command(cache.path)}")
