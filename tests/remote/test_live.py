"""The script for people with an account works where it can be run here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_trial_of_a_store_works_on_a_directory(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("live.py")), f"file://{tmp_path}/team", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all of it works\n")
    assert not [path for path in (tmp_path / "team").rglob("*") if path.is_file()]
