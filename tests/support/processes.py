"""Scripts that run in processes of their own, and the vectors that they make."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PRELUDE = f"""
    import os, signal, sys, warnings
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import numpy as np
    from dejavec import DejavecError, EmbeddingCache
    from processes import vectors
    path, *arguments = sys.argv[1:]
    calls = []
    def model(texts):
        calls.append(texts)
        return vectors(texts)
"""


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors (n, 64) of texts, each made from its text alone."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(64) for seed in seeds], np.float32)


def start(script: str, *arguments: object, under: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script with numpy, EmbeddingCache, ``vectors`` and a model at hand, and wait for its end.

    Args:
        script: Python; the first argument is ``path`` in it, the others are ``arguments``.
        *arguments: given as text.
        under: a command that runs the interpreter.
    """
    code = textwrap.dedent(_PRELUDE) + textwrap.dedent(script)
    command = [*under, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def run(script: str, *arguments: object, expect: int = 0) -> str:
    """Do what :func:`start` does, require the status of its end, and return what the script prints."""
    done = start(script, *arguments)
    assert done.returncode == expect, (done.returncode, done.stdout, done.stderr)
    return done.stdout
