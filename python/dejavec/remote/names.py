"""Names of the objects of a shared cache. Whatever has another name is foreign."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

SEGMENTS, TOMBSTONES, META = "seg", "tomb", "meta.json"

PARTS = ("vectors.npy", "indptr.npy", "values.npy", "indices.npy", "texts.npy", "texts-spans.npy", "keys")
"""The files of a segment. The last one is its commit."""

MOST_ROWS = 1 << 26
"""The most rows of a segment, and pairs of a tombstone."""

NAMESPACE = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(rf"([0-9a-f]{{64}})-([1-9][0-9]{{0,7}})\.({'|'.join(map(re.escape, PARTS))})")
_TOMBSTONE = re.compile(r"([0-9a-f]{64})-([1-9][0-9]{0,7})\.pairs")


class SegmentName(NamedTuple):
    """What names a segment.

    Attributes:
        digest: the SHA-256 of its commit, 64 hex digits.
        rows: how many rows it has.
    """

    digest: str
    rows: int

    def file(self, part: str) -> str:
        """Return the name of one of its files, below the namespace.

        Example:
            >>> SegmentName("0" * 64, 7).file("keys")[-9:]
            '00-7.keys'
        """
        return f"{SEGMENTS}/{self.digest}-{self.rows}.{part}"


class TombstoneName(NamedTuple):
    """What names a tombstone.

    Attributes:
        digest: the SHA-256 of its content, 64 hex digits.
        pairs: how many deleted rows it names.
    """

    digest: str
    pairs: int

    @property
    def file(self) -> str:
        """The name of the object, below the namespace."""
        return f"{TOMBSTONES}/{self.digest}-{self.pairs}.pairs"

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Return what a name below the namespace says; None for another name."""
        found = _TOMBSTONE.fullmatch(name.removeprefix(f"{TOMBSTONES}/"))
        if found is None or not name.startswith(f"{TOMBSTONES}/") or int(found[2]) > MOST_ROWS:
            return None
        return cls(found[1], int(found[2]))


def parse_segment_file(name: str) -> tuple[SegmentName, str] | None:
    """Return the segment and the part that a name below the namespace says; None for another name.

    Example:
        >>> parse_segment_file(SegmentName("a" * 64, 7).file("keys"))[1]
        'keys'
        >>> parse_segment_file("seg/../seg/x.keys")
    """
    found = _SEGMENT.fullmatch(name.removeprefix(f"{SEGMENTS}/"))
    if found is None or not name.startswith(f"{SEGMENTS}/") or int(found[2]) > MOST_ROWS:
        return None
    return SegmentName(found[1], int(found[2])), found[3]
