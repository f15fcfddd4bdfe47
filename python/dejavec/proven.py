"""``proven.json``: for which descriptions of a model the vectors of a directory were confirmed, or made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from dejavec import _core
from dejavec.errors import DejavecError
from dejavec.json_file import read_record, write_record
from dejavec.observed import Description

FILE = "proven.json"
_MOST = 64
"""Entries of a file; the oldest make room for new ones, and are confirmed anew if they come back."""


class Proofs(Protocol):
    """Where the descriptions of one directory are kept."""

    def read(self) -> list[Description]:
        """Return the descriptions; none where there is no file or it is damaged."""

    def claim(self, description: Description, *, empty: bool) -> bool:
        """Take an empty directory for this description, unless another has it.

        Args:
            description: of the model that is about to store vectors.
            empty: whether the directory holds no vector, as the caller found just now.

        Returns:
            Whether the description is proven now.
        """

    def add(self, description: Description) -> None:
        """Note that the vectors are this description's too."""


class ProvenFile:
    """The file ``proven.json`` of a cache directory.

    What cannot be written there is kept in memory, for this object's life.

    Args:
        directory: the cache directory, which need not exist.
        writes: whether anything may be written there.
        shared: whether the directory is made for its group too.
        allow_network: whether to write on a network file system.
        lock_timeout: seconds to wait for the writers' lock.

    Attributes:
        directory: the cache directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writes: bool = True,
        shared: bool = False,
        allow_network: bool = False,
        lock_timeout: float = 60.0,
    ) -> None:
        self.directory = directory
        self._writes = writes
        self._shared = shared
        self._allow_network = allow_network
        self._lock_timeout = lock_timeout
        self._memory: list[Description] = []
        self._mixed = False

    def read(self) -> list[Description]:
        """Return the descriptions; none of the file where there is none, or it is damaged."""
        return [*read_proven(self.directory / FILE), *self._memory]

    def claim(self, description: Description, *, empty: bool) -> bool:
        """Take the directory for a description if it is empty, and no other has taken it."""

        def take() -> bool:
            known = self.read()
            if not known and empty:
                self._write([description])
                return True
            return description in known

        return self._locked(take, description)

    def add(self, description: Description) -> None:
        """Note that the vectors are this description's too."""
        if description in self.read():
            return

        def append() -> bool:
            known = read_proven(self.directory / FILE)
            if description not in known:
                self._write([*known, description][-_MOST:])
            return True

        self._locked(append, description)

    def _locked(self, change: Callable[[], bool], description: Description) -> bool:
        try:
            if not self._writes:
                raise PermissionError
            return self._under_lock(change)
        except (DejavecError, OSError):
            if description not in self._memory:
                self._memory.append(description)
            return True

    def _under_lock(self, change: Callable[[], bool]) -> bool:
        _core.make_directories(str(self.directory), self._shared)
        return _core.under_writers_lock(str(self.directory), self._lock_timeout, self._allow_network, change)

    def is_mixed(self) -> bool:
        """Tell whether vectors came here that nothing shows to be those of the proven descriptions."""
        return bool((read_record(self.directory / FILE) or {}).get("mixed")) or self._mixed

    def mix(self) -> None:
        """Note that such vectors come."""
        self._mixed = True

        def note() -> bool:
            self._write(read_proven(self.directory / FILE), mixed=True)
            return True

        with suppress(DejavecError, OSError):
            if self._writes and not (read_record(self.directory / FILE) or {}).get("mixed"):
                self._under_lock(note)

    def _write(self, descriptions: Sequence[Description], *, mixed: bool = False) -> None:
        content = read_record(self.directory / FILE) or {}
        flag = {"mixed": True} if mixed or content.get("mixed") else {}
        write_record(self.directory / FILE, {"proven": to_json(descriptions), **flag})


def read_proven(path: Path) -> list[Description]:
    """Return the descriptions in a file; none if there is no such file, or it is damaged."""
    return from_json((read_record(path) or {}).get("proven"))


def to_json(descriptions: Sequence[Description]) -> list[dict[str, Any]]:
    """Return descriptions as JSON."""
    return [description.to_json() for description in descriptions]


def from_json(entries: Any) -> list[Description]:
    """Read what :func:`to_json` returned, leaving out what is nothing of the kind."""
    found = []
    for entry in entries if isinstance(entries, list) else ():
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            found.append(Description.from_json(entry))
    return found
