"""For which descriptions of a model the vectors of a directory were confirmed, or made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dejavec import _core
from dejavec.errors import DejavecError
from dejavec.identity.observed import Description
from dejavec.support.json_file import read_record, write_record

FILE = "proven.json"
_MOST = 64
"""Entries of a file; the oldest make room for new ones, and are confirmed anew if they come back."""

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns what a record becomes."""


class Proofs:
    """The proven descriptions of one directory, in a JSON file.

    What cannot be written there is kept in memory, for this object's life.

    Args:
        file: the file, which need not exist.
        update: replaces the JSON object in the file by what a :data:`Change` makes of it, while no other
            process does; raises ``OSError`` or ``DejavecError`` where that cannot be.

    Attributes:
        file: the file.
    """

    def __init__(self, file: Path, update: Callable[[Change], None]) -> None:
        self.file = file
        self._update = update
        self._memory: list[Description] = []
        self._mixed = False

    def read(self) -> list[Description]:
        """Return the descriptions; none of the file if it is not there or damaged."""
        return [*read_proven(self.file), *self._memory]

    def is_mixed(self) -> bool:
        """Tell whether vectors came here that nothing shows to be those of the proven descriptions."""
        return self._mixed or bool((read_record(self.file) or {}).get("mixed"))

    def claim(self, description: Description, *, empty: bool) -> bool:
        """Take an empty directory for a description, unless another has it.

        Args:
            description: of the model that is about to store vectors.
            empty: whether the directory holds no vector, as the caller found just now.

        Returns:
            Whether the description is proven now.
        """

        def take(record: dict[str, Any]) -> dict[str, Any]:
            untaken = empty and not from_json(record.get("proven"))
            return {**record, "proven": to_json([description])} if untaken else record

        self._try(take, description)
        return description in self.read()

    def add(self, description: Description) -> None:
        """Note that the vectors are this description's too."""

        def append(record: dict[str, Any]) -> dict[str, Any]:
            known = from_json(record.get("proven"))
            if description in known:
                return record
            return {**record, "proven": to_json([*known, description][-_MOST:])}

        if description not in self.read():
            self._try(append, description)

    def mix(self) -> None:
        """Note that vectors come which nothing shows to be those of the proven descriptions."""
        if not self.is_mixed():
            with suppress(DejavecError, OSError):
                self._update(lambda record: {**record, "mixed": True})
        self._mixed = True

    def _try(self, change: Change, description: Description) -> None:
        try:
            self._update(change)
        except (DejavecError, OSError):
            if description not in self._memory:
                self._memory.append(description)


def proven_file(
    directory: Path, *, writes: bool, shared: bool, allow_network: bool, lock_timeout: float
) -> Proofs:
    """Return the proofs of a cache directory, in ``proven.json``.

    Args:
        directory: the cache directory, which need not exist.
        writes: whether anything may be written there.
        shared: whether the directory is made for its group too.
        allow_network: whether to write on a network file system.
        lock_timeout: seconds to wait for the writers' lock.
    """
    file = directory / FILE

    def update(change: Change) -> None:
        if not writes:
            raise PermissionError

        def replace() -> bool:
            found = read_record(file) or {}
            changed = change(found)
            if changed != found:
                write_record(file, changed)
            return True

        _core.make_directories(str(directory), shared=shared)
        _core.under_writers_lock(
            str(directory), replace, lock_timeout=lock_timeout, allow_network=allow_network
        )

    return Proofs(file, update)


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
