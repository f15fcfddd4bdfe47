"""Directories of workers: each belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
from itertools import count
from pathlib import Path

from dejavec import _core
from dejavec.support.closing import Closing


class WorkerDirectory(Closing):
    """A directory that no other process has while this one lives.

    It is ``worker-0`` below the path, or the next one that is free. So a process that follows a killed one
    finds what that one left.

    Args:
        above: where these directories lie, on the disk of this machine.

    Attributes:
        path: the directory, which need not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as above:
        ...     with WorkerDirectory(Path(above)) as one, WorkerDirectory(Path(above)) as other:
        ...         one.path.name, other.path.name
        ('worker-0', 'worker-1')
    """

    def __init__(self, above: Path) -> None:
        _core.make_directories(str(above), shared=False)
        for number in count():
            self.path = above / f"worker-{number}"
            lock = self.path.with_name(f".{self.path.name}.lock")
            self._lock = open(lock, "ab", opener=_private)  # noqa: SIM115 - held until close
            try:
                # The system releases it if this process dies.
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                continue
            except BaseException:
                self._lock.close()
                raise
            return

    def close(self) -> None:
        """Leave the directory to others."""
        self._lock.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
