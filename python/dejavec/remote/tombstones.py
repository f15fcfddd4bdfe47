"""Tombstones: rows that were deleted, each named by its key and its segment."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys, as_bytes, words
from dejavec.remote.checksums import Checksums
from dejavec.remote.commit import Chain
from dejavec.remote.defects import DefectError
from dejavec.remote.names import MOST_ROWS, TombstoneName

_MAGIC = b"\x89dvt\r\n\x1a\n"
_VERSION = 1
_START = struct.Struct("<8sII32s")
_PAIR = np.dtype([("key", "V32"), ("segment", "V32"), ("checksum", "<u8")])


@dataclass(frozen=True)
class Pairs:
    """Deleted rows.

    Attributes:
        keys: the key of each (n, 32).
        segments: the digest of the segment of each (n, 32).
        checksums: the checksum of each row (n,).
    """

    keys: Keys
    segments: NDArray[np.uint8]
    checksums: Checksums

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, segment: str) -> Keys:
        """Return the keys whose row in a segment was deleted (m, 32)."""
        digest = np.frombuffer(bytes.fromhex(segment), np.uint8)
        named: NDArray[np.bool_] = (self.segments == digest).all(axis=1)
        return self.keys[named]

    def dead(
        self, segment: str, keys: Keys, chains: Sequence[Chain], sources: NDArray[np.uint16]
    ) -> NDArray[np.bool_]:
        """Return which rows of a segment were deleted (n,).

        A row that came from another segment is dead if it was deleted there.

        Args:
            segment: the digest of the segment.
            keys: the key of each row (n, 32).
            chains: as in the commit.
            sources: likewise.
        """
        dead = _among(keys, self.of(segment))
        for number, chain in enumerate(chains):
            from_there = np.flatnonzero(sources == number)
            for digest in chain:
                dead[from_there] |= _among(keys[from_there], self.of(digest))
        return dead

    def to_bytes(self, namespace: str) -> bytes:
        """Return the content of the object."""
        pairs = np.empty(len(self), _PAIR)
        pairs["key"] = words(self.keys)
        pairs["segment"] = words(self.segments)
        pairs["checksum"] = self.checksums
        start = _START.pack(_MAGIC, _VERSION, len(pairs), bytes.fromhex(namespace))
        return start + pairs.tobytes()


NONE = Pairs(np.zeros((0, 32), np.uint8), np.zeros((0, 32), np.uint8), np.zeros(0, np.uint64))


def joined(parts: Sequence[Pairs]) -> Pairs:
    """Return the pairs of all parts."""
    whole = [NONE, *parts]
    return Pairs(
        np.concatenate([part.keys for part in whole]),
        np.concatenate([part.segments for part in whole]),
        np.concatenate([part.checksums for part in whole]),
    )


def name_of(content: bytes) -> TombstoneName:
    """Return the name of a tombstone with this content."""
    return TombstoneName(hashlib.sha256(content).hexdigest(), (len(content) - _START.size) // _PAIR.itemsize)


def size_of(name: TombstoneName) -> int:
    """Return how many bytes a tombstone has."""
    return _START.size + name.pairs * _PAIR.itemsize


def parse(name: TombstoneName, namespace: str, content: bytes | memoryview) -> Pairs:
    """Read a tombstone.

    Raises:
        DefectError: these are not the bytes that the name says, or they are not in form.
    """
    if hashlib.sha256(content).hexdigest() != name.digest:
        raise DefectError("its bytes are not those that its name says")
    if len(content) < _START.size:
        raise DefectError("it is too short")
    magic, version, count, found = _START.unpack_from(content)
    if magic != _MAGIC or version != _VERSION:
        raise DefectError("it is no tombstone that this version knows")
    if count != name.pairs or not 0 < count <= MOST_ROWS or len(content) != size_of(name):
        raise DefectError("its length is not that of its pairs")
    if found.hex() != namespace:
        raise DefectError("it belongs to another namespace")
    pairs = np.frombuffer(content, _PAIR, count, _START.size)
    return Pairs(
        np.ascontiguousarray(pairs["key"]).view(np.uint8).reshape(-1, 32),
        np.ascontiguousarray(pairs["segment"]).view(np.uint8).reshape(-1, 32),
        pairs["checksum"].astype(np.uint64),
    )


def _among(keys: Keys, others: Keys) -> NDArray[np.bool_]:
    """Return which keys are among others (n,)."""
    if not len(others):
        return np.zeros(len(keys), np.bool_)
    known = set(as_bytes(others))
    return np.array([key in known for key in as_bytes(keys)], np.bool_)
