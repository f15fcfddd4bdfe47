"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_ALWAYS = ("dejavec", "numpy", "datasets", "pyarrow")


def describe(packages: Iterable[str]) -> dict[str, str]:
    """Processor, memory, system, and versions of packages, each by its name."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = {name: metadata.version(name) for name in (*_ALWAYS, *sorted(set(packages) - set(_ALWAYS)))}
    return {
        "processor": cpu[0].partition(":")[2].strip() if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{gibibytes:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **versions,
    }
