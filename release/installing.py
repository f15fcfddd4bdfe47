"""What tests of an installation share: the wheel, and programs that end well."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
UV = shlex.split(os.environ.get("UV", "uv"))


def run(*command: object, **settings: Any) -> str:
    """A program's output; the test fails with all of it if the program does."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    printed: str = done.stdout
    return printed


def native() -> Path:
    """The wheel that this machine's Pythons take."""
    (wheel,) = (wheel for wheel in DIST.glob("*.whl") if "musllinux" not in wheel.name)
    return wheel
