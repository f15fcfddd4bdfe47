"""Python processes that find the slow libraries imported.

Importing them takes most of the time of a small script. A fork server imports them once. It does not import
mteb and dejavec: how a script imports these is tested.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest

SLOW = (
    "faiss",
    "scipy.stats",
    "sklearn.linear_model",
    "pandas",
    "datasets",
    "torch.utils.data",
    "transformers",
    "sentence_transformers",
)


TOO_LONG = 300
"""Seconds."""


def run_python(
    *words: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Do what ``python words`` does: a script or ``-m module``, with its arguments.

    Progress bars are off. Variables that the slow libraries read when they are imported have no effect.

    Returns:
        Exit status, or the signal that ended the process as a negative number; output; messages.

    Raises:
        TimeoutError: it did not end in time.
    """
    cwd, environment = cwd or Path.cwd(), {**os.environ, **(environment or {})}
    if sys.platform != "linux":  # Elsewhere libraries may not survive a fork.
        done = subprocess.run(
            [sys.executable, *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=environment,
            timeout=TOO_LONG,
        )
        return done.returncode, done.stdout, done.stderr
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(SLOW))
    # The server starts with these variables, and progress bars would stand between messages.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DISABLE", "1")
        forkserver.ensure_running()
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in ("output", "messages")]
        process = context.Process(target=_run, args=(words, cwd, environment, paths))
        process.start()
        process.join(TOO_LONG)
        status = process.exitcode
        if status is None:
            process.kill()
            raise TimeoutError(f"{words} did not end in {TOO_LONG} seconds")
        output, messages = (path.read_text() if path.exists() else "" for path in paths)
    return status, output, messages


def _run(words: Sequence[str], cwd: Path, environment: dict[str, str], paths: Sequence[Path]) -> None:
    for path, stream in zip(paths, (sys.stdout, sys.stderr), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if words[0] == "-m":
            sys.argv[:] = words[1:]
            sys.path.insert(0, str(cwd))
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv[:] = words
            sys.path.insert(0, str((cwd / words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except KeyboardInterrupt:
        # A process of multiprocessing would end with status 1.
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
