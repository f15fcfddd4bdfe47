"""Files that commands write for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dejavec.errors import DejavecError, StorageError


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say in one sentence that a file could not be written.

    Raises:
        StorageError: the system refused something.
    """
    try:
        yield
    except DejavecError:
        raise
    except OSError as error:
        raise StorageError(
            f"{target}: could not be written: {error.strerror or error}",
            remedy="free space or correct the permissions, then run again",
            path=target,
        ) from error
