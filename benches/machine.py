"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_ALWAYS = ("dejavec", "numpy", "datasets", "pyarrow", "mteb")


def describe(packages: Iterable[str]) -> dict[str, str]:
    """Processor, memory, system, and versions of packages, each by its name."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    cpu = {name.strip(): value.strip() for name, _, value in lines}
    # A virtual machine's name tells little: what the processor can do goes by its family.
    family = f" family {cpu['cpu family']} model {cpu['model']}" if "cpu family" in cpu else ""
    gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    versions = {name: metadata.version(name) for name in (*_ALWAYS, *sorted(set(packages) - set(_ALWAYS)))}
    return {
        "processor": cpu["model name"] + family if "model name" in cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{gibibytes:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **versions,
    }
