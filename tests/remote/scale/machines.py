"""Machines with addresses of their own: network namespaces, joined by a switch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

_NETWORK = "10.77.0"


@dataclass(frozen=True)
class Machine:
    """One of them.

    Attributes:
        name: its namespace.
        address: its address.
        link: its device.
    """

    name: str
    address: str
    link: str

    def command(self, *words: str) -> list[str]:
        """Return a command that runs another one there."""
        return ["ip", "netns", "exec", self.name, *words]

    def start(self, script: str, *arguments: object, **settings: Any) -> subprocess.Popen[str]:
        """Run Python there."""
        command = self.command(sys.executable, "-c", textwrap.dedent(script), *map(str, arguments))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **settings}
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def unplug(self) -> None:
        """Cut it off from the others."""
        _ip("-n", self.name, "link", "set", self.link, "down")

    def power_off(self) -> None:
        """Cut it off, and kill all that runs there."""
        self.unplug()
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        for pid in pids.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def plug(self) -> None:
        """Join it again."""
        _ip("-n", self.name, "link", "set", self.link, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def machines(names: Sequence[str]) -> Iterator[list[Machine]]:
    """Make machines, and yield them. A test is left out where that is not allowed."""
    mark = f"dv{os.getpid() % 100_000}"
    switch = f"{mark}-switch"
    made: list[str] = []
    found: list[Machine] = []
    try:
        try:
            _ip("netns", "add", switch)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"this machine makes no network namespaces: {error}")
        made.append(switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names, 1):
            machine = Machine(f"{mark}-{name}", f"{_NETWORK}.{number}", "uplink")
            _ip("netns", "add", machine.name)
            made.append(machine.name)
            port, end = f"port{number}", ("peer", machine.link, "netns", machine.name)
            _ip("-n", switch, "link", "add", port, "type", "veth", *end)
            _ip("-n", switch, "link", "set", port, "master", "bridge")
            _ip("-n", switch, "link", "set", port, "up")
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", machine.link)
            _ip("-n", machine.name, "link", "set", "lo", "up")
            machine.plug()
            found.append(machine)
        yield found
    finally:
        for machine in found:
            machine.power_off()
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False)
