"""What a process has in memory, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def settle(directory: Path, count: int) -> None:
    """Have a store's files in the page cache, and ``count`` bytes of memory at hand.

    A virtual machine may have taken both back since they were last used; what it takes to get them again is
    nobody's result.
    """
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass
    np.ones(count, np.uint8)


def reset_peak() -> None:
    """Begin to measure the peak of resident memory anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes resident at the worst moment since :func:`reset_peak`."""
    return _status("VmHWM")


def resident() -> int:
    """Bytes resident now."""
    return _status("VmRSS")


def anonymous() -> int:
    """Bytes resident now that no file backs: what this process alone costs."""
    return _status("RssAnon")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
