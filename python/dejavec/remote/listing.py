"""What lies in a namespace: segments, tombstones, and what is neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from dejavec.remote import namespace as described
from dejavec.remote import tombstones
from dejavec.remote.commit import most_bytes
from dejavec.remote.defects import DefectError, Skipped
from dejavec.remote.names import META, NAMESPACE, SegmentName, TombstoneName, parse_segment_file
from dejavec.remote.namespace import Namespace
from dejavec.remote.objects import Objects

_FOREIGN = "foreign: it has no name of this format"


@dataclass(frozen=True)
class Part:
    """A file of a segment.

    Attributes:
        size: its bytes.
        modified: when it was written.
    """

    size: int
    modified: datetime


@dataclass(frozen=True)
class Listing:
    """The objects of a namespace.

    Attributes:
        segments: the files of each segment that has a commit, by part.
        uncommitted: the files of each segment without one: half uploaded, or half removed.
        tombstones: those of the right size.
        skipped: what is neither.
    """

    segments: Mapping[SegmentName, Mapping[str, Part]]
    uncommitted: Mapping[SegmentName, Mapping[str, Part]]
    tombstones: list[TombstoneName]
    skipped: list[Skipped]


def listing_of(objects: Objects, namespace: str) -> Listing:
    """List a namespace.

    Raises:
        StorageError: it could not be listed.
    """
    files: dict[SegmentName, dict[str, Part]] = {}
    found: list[TombstoneName] = []
    skipped: list[Skipped] = []
    for entry in objects.below(namespace):
        name = entry.name.removeprefix(f"{namespace}/")
        if name == META and entry.size <= described.MOST_BYTES:
            continue
        segment, tombstone = parse_segment_file(name), TombstoneName.parse(name)
        if segment is not None:
            files.setdefault(segment[0], {})[segment[1]] = Part(entry.size, entry.modified)
        elif tombstone is not None and entry.size == tombstones.size_of(tombstone):
            found.append(tombstone)
        else:
            reason = _FOREIGN if tombstone is None else "cut off"
            skipped.append(Skipped(printable(entry.name), reason))
    committed = {name: parts for name, parts in files.items() if "keys" in parts}
    for large in [one for one, parts in committed.items() if parts["keys"].size > most_bytes(one)]:
        del committed[large]
        skipped.append(Skipped(f"{namespace}/{large.file('keys')}", "too large for its rows"))
    uncommitted = {name: parts for name, parts in files.items() if "keys" not in parts}
    skipped += [
        Skipped(f"{namespace}/{one.file(next(iter(parts)))}", "half uploaded: its segment has no commit")
        for one, parts in uncommitted.items()
    ]
    return Listing(committed, uncommitted, sorted(found), skipped)


def namespaces_of(objects: Objects) -> tuple[list[Namespace], list[Skipped]]:
    """Return the namespaces below an address, and what is none.

    Raises:
        StorageError: they could not be listed.
    """
    found: list[Namespace] = []
    names, others = objects.top()
    skipped = [Skipped(printable(name), _FOREIGN) for name in others]
    for name in names:
        if not NAMESPACE.fullmatch(name):
            skipped.append(Skipped(printable(name), _FOREIGN))
            continue
        try:
            found.append(read_namespace(objects, name))
        except DefectError as defect:
            skipped.append(Skipped(f"{name}/{META}", str(defect)))
    return found, skipped


def read_namespace(objects: Objects, name: str) -> Namespace:
    """Read the ``meta.json`` of a namespace.

    Raises:
        DefectError: there is none, or it is not in form.
        StorageError: it could not be read.
    """
    content = objects.get_small(f"{name}/{META}", described.MOST_BYTES)
    if content is None:
        raise DefectError("missing, or too large")
    return described.parse(name, content)


def printable(name: str) -> str:
    r"""Return a name of the bucket so that any terminal can show it.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return name[:300].encode("unicode_escape").decode("ascii")
