"""The proven descriptions of a directory: models that made its vectors, or confirmed them."""

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
"""Entries of a file. New entries replace the oldest ones, which must then be confirmed again."""

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the new content of a record."""


class Proofs:
    """The proven descriptions of one directory, in a JSON file.

    Descriptions that cannot be written are kept in memory as long as this object.

    Args:
        file: the file, which need not exist.
        update: applies a :data:`Change` to the JSON object in the file, under a lock; raises ``OSError`` or
            ``DejavecError`` if it cannot.

    Attributes:
        file: the file.
    """

    def __init__(self, file: Path, update: Callable[[Change], None]) -> None:
        self.file = file
        self._update = update
        self._memory: list[Description] = []
        self._mixed = False

    def read(self) -> list[Description]:
        """Return the descriptions. A missing or damaged file counts as empty."""
        return [*read_proven(self.file), *self._memory]

    def is_mixed(self) -> bool:
        """Return whether some of the vectors may be from a model without a proven description."""
        return self._mixed or bool((read_record(self.file) or {}).get("mixed"))

    def claim(self, description: Description, *, empty: bool) -> bool:
        """Claim an empty directory for a description, unless another has claimed it.

        Args:
            description: the description of the model that is about to store vectors.
            empty: whether the caller just found the directory without vectors.

        Returns:
            Whether the description is proven now.
        """

        def take(record: dict[str, Any]) -> dict[str, Any]:
            untaken = empty and not from_json(record.get("proven"))
            return {**record, "proven": to_json([description])} if untaken else record

        self._try(take, description)
        return description in self.read()

    def add(self, description: Description) -> None:
        """Record that the vectors are this description's too."""

        def append(record: dict[str, Any]) -> dict[str, Any]:
            known = from_json(record.get("proven"))
            if description in known:
                return record
            return {**record, "proven": to_json([*known, description][-_MOST:])}

        if description not in self.read():
            self._try(append, description)

    def mix(self) -> None:
        """Record that a model without a proven description stores vectors."""
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
        shared: whether a new directory is group-shared.
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
    """Return the descriptions in a file. A missing or damaged file counts as empty."""
    return from_json((read_record(path) or {}).get("proven"))


def to_json(descriptions: Sequence[Description]) -> list[dict[str, Any]]:
    """Return descriptions as JSON."""
    return [description.to_json() for description in descriptions]


def from_json(entries: Any) -> list[Description]:
    """Read the result of :func:`to_json`, without invalid entries."""
    found = []
    for entry in entries if isinstance(entries, list) else ():
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            found.append(Description.from_json(entry))
    return found
