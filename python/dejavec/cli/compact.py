"""``dejavec compact``: frees what deleted and replaced vectors take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dejavec.cli.documents import print_json
from dejavec.cli.verb import DRY_RUN, path_argument, verb
from dejavec.cli.writable import open_to_change
from dejavec.storage.summary import size_text


@dataclass(frozen=True)
class Compacted:
    """What a compaction freed.

    Attributes:
        cache: the directory.
        rows: how many deleted and replaced rows there were.
        bytes: by how many bytes the files became smaller; with --dry-run, what those rows take.
        bytes_on_disk: the size of all files now.
    """

    cache: Path
    rows: int
    bytes: int
    bytes_on_disk: int


@verb("compact", document=Compacted, kept="the old files or the new ones count, whole; run it again")
@path_argument("cache", "CACHE")
@DRY_RUN
def command(*, cache: Path, dry_run: bool, as_json: bool) -> int:
    """Free what deleted and replaced vectors take.

    Copies the vectors that count into new files and removes the old ones, so that no byte of a deleted text
    or vector is left. Other processes go on. Older releases of dejavec cannot open the cache then.
    """
    with open_to_change(cache) as changed:
        before = changed.stats()
        freed = before["reclaimable_bytes"] if dry_run else changed.compact()
        compacted = Compacted(cache, before["reclaimable_rows"], freed, changed.stats()["bytes_on_disk"])
    if as_json:
        print_json(compacted)
    else:
        would = "would be " if dry_run else ""
        print(f"{cache}: {compacted.rows:,} rows and {size_text(max(freed, 0))} {would}freed")
    return 0
