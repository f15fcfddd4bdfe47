"""The commit of a segment: its keys, the checksum of each row, and size and digest of each data file."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys, words
from dejavec.remote.checksums import Checksums
from dejavec.remote.defects import DefectError
from dejavec.remote.names import MOST_ROWS, NAMESPACE, PARTS, SegmentName
from dejavec.support.canonical import canonical_json

MAGIC = b"\x89dvs\r\n\x1a\n"
_VERSION = 1
_START = struct.Struct("<8sII")
_MOST_HEADER = 1 << 20
MOST_FILE = 1 << 30
"""The most bytes of a data file of a segment."""

MOST_SOURCES, MOST_CHAIN = 4096, 64
"""The most chains of a segment, and digests of a chain."""

ROW_BYTES, SOURCE_BYTES = 32 + 8, 2

Chain = tuple[str, ...]
"""The digests of the segments that a row was in before, oldest first."""


@dataclass(frozen=True)
class File:
    """A data file.

    Attributes:
        size: its bytes.
        digest: its digest: :func:`dejavec.remote.checksums.file_digest`.
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Commit:
    """What is said of a segment.

    Attributes:
        namespace: the directory to which it belongs.
        files: its data files, by part.
        keys: the key of each row (n, 32), which differ.
        checksums: the checksum of each row (n,).
        again: 0; more for rows that were deleted from a segment of the same content, and are shared again.
        chains: the chains of rows that came from other segments.
        sources: the chain of each row (n,) uint16; empty without chains.
    """

    namespace: str
    files: Mapping[str, File]
    keys: Keys
    checksums: Checksums
    again: int = 0
    chains: Sequence[Chain] = ()
    sources: NDArray[np.uint16] = field(default_factory=lambda: np.zeros(0, np.uint16))

    def to_bytes(self) -> bytes:
        """Return the content of the object."""
        header: dict[str, Any] = {
            "namespace": self.namespace,
            "rows": len(self.keys),
            "again": self.again,
            "files": {part: [file.size, file.digest] for part, file in self.files.items()},
            "chains": [list(chain) for chain in self.chains],
        }
        text = canonical_json(header).encode("ascii")
        return b"".join(
            [
                _START.pack(MAGIC, _VERSION, len(text)),
                text,
                np.ascontiguousarray(self.keys).tobytes(),
                self.checksums.astype("<u8").tobytes(),
                self.sources.astype("<u2").tobytes(),
            ]
        )

    @property
    def name(self) -> SegmentName:
        """The name of the segment."""
        return SegmentName(hashlib.sha256(self.to_bytes()).hexdigest(), len(self.keys))


def most_bytes(name: SegmentName) -> int:
    """Return how many bytes the commit of a segment may have at most."""
    return _START.size + _MOST_HEADER + name.rows * (ROW_BYTES + SOURCE_BYTES)


def parse(name: SegmentName, content: bytes | memoryview) -> Commit:
    """Read a commit.

    Args:
        name: the name of its segment.
        content: its bytes.

    Raises:
        DefectError: these are not the bytes that the name says, or they are not in form.
    """
    if hashlib.sha256(content).hexdigest() != name.digest:
        raise DefectError("its bytes are not those that its name says")
    if len(content) < _START.size:
        raise DefectError("it is too short")
    magic, version, length = _START.unpack_from(content)
    if magic != MAGIC:
        raise DefectError("it is no commit of a segment")
    if version != _VERSION:
        raise DefectError(f"a version that this one does not know: {version}")
    if length > min(_MOST_HEADER, len(content) - _START.size):
        raise DefectError("its header is too long")
    text = bytes(content[_START.size : _START.size + length])
    try:
        header = json.loads(text.decode("ascii"))
        if canonical_json(header).encode("ascii") != text or set(header) != _ENTRIES:
            raise DefectError("its header is not in form")
        files, chains = _files(header["files"]), _chains(header["chains"])
        namespace, rows, again = header["namespace"], header["rows"], header["again"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DefectError(f"its header is not in form: {type(error).__name__}") from None
    if not isinstance(namespace, str) or not NAMESPACE.fullmatch(namespace):
        raise DefectError("its header names no namespace")
    if type(again) is not int or not 0 <= again < 1 << 31:
        raise DefectError("its header is not in form")
    each = ROW_BYTES + (SOURCE_BYTES if chains else 0)
    if type(rows) is not int or rows != name.rows or not 0 < rows <= MOST_ROWS:
        raise DefectError("its rows are not those that its name says")
    if len(content) != _START.size + length + rows * each:
        raise DefectError("its length is not that of its rows")
    at = _START.size + length
    keys = np.frombuffer(content, np.uint8, rows * 32, at).reshape(rows, 32)
    checksums = np.frombuffer(content, "<u8", rows, at + rows * 32).astype(np.uint64)
    sources = np.frombuffer(content, "<u2", rows if chains else 0, at + rows * ROW_BYTES).astype(np.uint16)
    if len(sources) and sources.max() >= len(chains):
        raise DefectError("a row has no source")
    _check_keys(keys)
    return Commit(namespace, files, keys, checksums, again, chains, sources)


_ENTRIES = {"namespace", "rows", "again", "files", "chains"}


def _files(found: Any) -> dict[str, File]:
    files = {}
    for part, (size, digest) in found.items():
        if part not in PARTS[:-1]:
            raise DefectError(f"a part of no segment: {part!r:.40}")
        if type(size) is not int or not 0 < size <= MOST_FILE:
            raise DefectError("a size of no data file")
        if not isinstance(digest, str) or not NAMESPACE.fullmatch(digest):
            raise DefectError("a digest of no data file")
        files[part] = File(size, digest)
    return files


def _chains(found: Any) -> list[Chain]:
    if not isinstance(found, list) or len(found) > MOST_SOURCES:
        raise DefectError("too many sources")
    for chain in found:
        if not isinstance(chain, list) or not len(chain) <= MOST_CHAIN:
            raise DefectError("a source that is too long")
        if not all(isinstance(digest, str) and NAMESPACE.fullmatch(digest) for digest in chain):
            raise DefectError("a source that is no digest")
    return [tuple(chain) for chain in found]


def _check_keys(keys: Keys) -> None:
    starts = keys.view("<u8").reshape(-1, 4)[:, 0]
    if not starts.all():
        raise DefectError("a row without a key")
    ascending = np.sort(starts)
    if (ascending[1:] == ascending[:-1]).any() and len(np.unique(words(keys))) < len(keys):
        raise DefectError("two rows of one key")
