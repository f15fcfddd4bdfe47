"""A pseudo-terminal in place of this process's output."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], columns: int = 80, *, errors: bool = True
) -> tuple[Any, str]:
    """Call something while standard output is a terminal.

    Args:
        monkeypatch: of the test.
        call: what is called.
        columns: characters of a line of the terminal.
        errors: whether standard error is the same terminal.

    Returns:
        What it returned, and what it printed, without escape sequences.
    """
    import fcntl
    import struct
    import termios

    outside, inside = os.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    printed = bytearray()

    def read() -> None:
        while True:
            try:
                part = os.read(outside, 65536)
            except OSError:  # Linux says so when the other end is closed.
                return
            if not part:
                return
            printed.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patched, os.fdopen(inside, "w", encoding="utf-8") as stream:
        for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CI"):
            patched.delenv(name, raising=False)
        patched.setenv("TERM", "xterm-256color")
        patched.setattr(sys, "stdout", stream)
        if errors:
            patched.setattr(sys, "stderr", stream)
        result = call()
        stream.flush()
    reader.join()
    os.close(outside)
    return result, _ESCAPES.sub("", printed.decode()).replace("\r\n", "\n")
