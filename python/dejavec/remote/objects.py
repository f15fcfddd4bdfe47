"""The objects below one prefix of a store: read, written, listed and removed, with errors in one form."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dejavec.errors import StorageError
from dejavec.remote.urls import Place, obstore

T = TypeVar("T")

PIECE_BYTES = 16 << 20
"""The most bytes of one request."""

_AT_ONCE = 4
"""How many requests of one object are under way at a time."""

_TRIES = 5
"""How often a request is tried that obstore gave up. Names are digests, so writing twice changes nothing."""

_FINAL = ("PermissionDeniedError", "UnauthenticatedError", "InvalidPathError", "NotSupportedError")
"""Errors that another try does not mend."""

_MOST_OBJECTS = 10_000_000


@dataclass(frozen=True)
class Found:
    """An object of a listing.

    Attributes:
        name: its name below the prefix.
        size: its bytes.
        modified: when it was written.
    """

    name: str
    size: int
    modified: datetime


class Objects:
    """The objects of a place.

    Args:
        place: the store and the prefix.

    Attributes:
        url: the address, without credentials.
        requests: how many reads were asked for.
        read_bytes: how many bytes they returned.
    """

    def __init__(self, place: Place) -> None:
        self.url = place.url
        self.requests = 0
        self.read_bytes = 0
        self._counting = threading.Lock()
        self._store = place.store
        self._prefix = f"{place.prefix}/" if place.prefix else ""

    def put(self, name: str, parts: Sequence[Any]) -> None:
        """Write an object whole; readers see all of it or nothing.

        Args:
            name: its name.
            parts: its bytes, in buffers one after the other.

        Raises:
            StorageError: it could not be written.
        """
        buffers = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        small = sum(buffer.nbytes for buffer in buffers) <= PIECE_BYTES // 2
        # Multipart: one request of any size would run into a time limit.
        whole: Callable[[], Any] = (lambda: b"".join(buffers)) if small else (lambda: iter(_cut(buffers)))
        self._try(
            name,
            "written",
            lambda: obstore().put(
                self._store,
                self._prefix + name,
                whole(),
                chunk_size=PIECE_BYTES // 2,
                max_concurrency=_AT_ONCE,
            ),
        )

    def get(self, name: str, size: int) -> memoryview | None:
        """Read an object of a known size; None if it is gone or shorter.

        Raises:
            StorageError: it could not be read.
        """
        content = np.empty(size, np.uint8).data

        def read(start: int) -> bool:
            end = min(start + PIECE_BYTES, size)
            found = self.ranges(name, [start], [end])
            if found is not None:
                content[start:end] = found[0]
            return found is not None

        starts = range(0, size, PIECE_BYTES)
        if len(starts) <= 1:
            return content if all(map(read, starts)) else None
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="dejavec-get") as pool:
            return content if all(pool.map(read, starts)) else None

    def get_small(self, name: str, most: int) -> bytes | None:
        """Read an object of an unknown size; None if it is gone, or larger than ``most``.

        Raises:
            StorageError: it could not be read.
        """

        def read() -> bytes | None:
            found = obstore().get(self._store, self._prefix + name)
            return bytes(found.bytes()) if found.meta["size"] <= most else None

        try:
            content = self._try(name, "read", read)
        except GoneError:
            return None
        self.requests += 1
        self.read_bytes += len(content or b"")
        return content

    def ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> list[memoryview] | None:
        """Read ranges of an object; None if it is gone or shorter.

        Args:
            name: its name.
            starts: where each range begins.
            ends: where each ends; none is empty.

        Raises:
            StorageError: it could not be read.
        """
        whole = [end - start for start, end in zip(starts, ends, strict=True)]

        def read() -> list[memoryview]:
            found = obstore().get_ranges(
                self._store, self._prefix + name, starts=starts, ends=ends, coalesce=0
            )
            parts = [memoryview(part) for part in found]
            if [part.nbytes for part in parts] != whole:
                raise _ShortError
            return parts

        try:
            found = self._try(name, "read", read)
        except (GoneError, _ShortError):
            return None
        with self._counting:
            self.requests += len(starts)
            self.read_bytes += sum(whole)
        return found

    def below(self, directory: str) -> Iterator[Found]:
        """Yield the objects whose names begin with a directory.

        Raises:
            StorageError: they could not be listed.
        """
        found = self._try(directory, "listed", lambda: self._listed(directory))
        yield from found

    def _listed(self, directory: str) -> list[Found]:
        found: list[Found] = []
        try:
            for chunk in obstore().list(self._store, self._prefix + directory, chunk_size=1000):
                for meta in chunk:
                    # Names are checked by those who use them.
                    name = str(meta["path"]).removeprefix(self._prefix)
                    found.append(Found(name, int(meta["size"]), meta["last_modified"]))
                if len(found) > _MOST_OBJECTS:
                    raise StorageError(
                        self.url,
                        expected=f"at most {_MOST_OBJECTS:,} objects",
                        found="more",
                        remedy="compact it",
                    )
        except FileNotFoundError:
            return []
        return found

    def top(self) -> tuple[list[str], list[str]]:
        """Return the directories and the objects right below the prefix.

        Raises:
            StorageError: they could not be listed.
        """

        def read() -> tuple[list[str], list[str]]:
            found = obstore().list_with_delimiter(self._store, self._prefix.rstrip("/") or None)
            paths = (found["common_prefixes"], [meta["path"] for meta in found["objects"]])
            names = [sorted(str(path).rstrip("/").rpartition("/")[2] for path in some) for some in paths]
            return names[0], names[1]

        try:
            return self._try("", "listed", read)
        except GoneError:
            return [], []

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects. One that is gone is no error.

        Raises:
            StorageError: they could not be removed.
        """
        for name in names:
            with suppress(GoneError):
                self._try(name, "removed", partial(obstore().delete, self._store, self._prefix + name))

    def _try(self, name: str, done: str, work: Callable[[], T]) -> T:
        for left in reversed(range(_TRIES)):
            try:
                return work()
            except FileNotFoundError:
                raise GoneError(name) from None
            except _ShortError:
                if not left:
                    raise
            except (obstore().exceptions.BaseError, OSError, ValueError) as error:
                kind = type(error).__name__
                if isinstance(error, StorageError):
                    raise
                if not left or kind in _FINAL:
                    raise StorageError(
                        f"{self.url}: {name or 'it'} could not be {done}: {plain_error(error)}",
                        remedy="check the address, the credentials in the environment and the connection, "
                        "then run it again; what was done is kept",
                    ) from None
        raise AssertionError


class GoneError(Exception):
    """There is no such object."""


class _ShortError(Exception):
    """A range came shorter than it was asked for."""


def _cut(buffers: Sequence[memoryview]) -> Iterator[memoryview]:
    for buffer in buffers:
        for start in range(0, buffer.nbytes, PIECE_BYTES // 2):
            yield buffer[start : start + PIECE_BYTES // 2]


def plain_error(error: Exception) -> str:
    """Return the first line of an error, for any terminal, without the query of a signed address."""
    line = (str(error).split("\n") or [""])[0]
    line = "".join(character if character.isprintable() else "?" for character in line)
    return re.sub(r"\?[^\s\"'()]*", "", re.sub(r"//[^/\s]*@", "//", line))[:500]
