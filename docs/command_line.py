"""The page about the command line, made of the program's own help: ``python docs/command_line.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_PAGE = Path(__file__).with_name("command-line.md")
_COMMANDS = ("ls", "stats", "verify", "import", "export", "run", "demo")
_HEAD = """# Command line

`dejavec` and `python -m dejavec` are the same program. Its status is 0 if all went well, 1 if something is
damaged or did not hold, and 2 if a command cannot be carried out; a message of one sentence says why.
"""


def page() -> str:
    """Return the page."""
    parts = [_HEAD, f"```text\n{_help()}```\n"]
    parts += [f"## dejavec {command}\n\n```text\n{_help(command)}```\n" for command in _COMMANDS]
    return "\n".join(parts)


def _help(*words: str) -> str:
    command = [sys.executable, "-m", "dejavec", *words, "--help"]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    _PAGE.write_text(page(), encoding="utf-8")
