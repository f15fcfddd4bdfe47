"""What was acknowledged survives the death of the process, and nothing wrong is ever read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

KILLS = 100


def test_killed_writers_and_readers_lose_nothing_and_show_nothing_wrong() -> None:
    # In a process of its own, which forks its children cheaply and has no threads.
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, str(KILLS)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert done.stdout.startswith(f"{KILLS} kills")
