"""The list of all caches below a directory, as a user waits for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, timed
from benches.work import Setup

LS, START = "dejavec ls", "dejavec --version"
"""The command; and the same program as it starts and ends."""
_ROWS = 20


class Listing(Case):
    """``dejavec ls`` in a process of its own; the rows of a setup are caches here."""

    name = "ls"
    title = "List the caches below a directory"
    item = "cache"
    texts = False

    def setups(self, small: bool) -> Sequence[Setup]:
        return (Setup(100 if small else 1_000, 4),)

    def contestants(self) -> Sequence[str]:
        return LS, START

    def prepare(self, place: Place) -> None:
        from dejavec import EmbeddingCache

        numbers = range(place.setup.rows)
        first, *others = (_directory(place) / f"task-{at // 10}" / f"cache-{at}" for at in numbers)
        if first.exists():
            return
        with EmbeddingCache(first, model="org/numbered@1", role="query", prompt="query: ") as cache:
            cache.put([f"text {row}" for row in range(_ROWS)], np.ones((_ROWS, place.setup.dim), np.float32))
        for other in others:
            shutil.copytree(first, other)

    def measure(self, place: Place) -> Measured:
        words = ["--version"] if place.contestant == START else ["ls", str(_directory(place)), "--json"]
        seconds, done = timed(
            lambda: subprocess.run(
                [sys.executable, "-m", "dejavec", *words], check=True, capture_output=True, text=True
            )
        )
        if place.contestant == LS:
            checks.equal("caches", len(json.loads(done.stdout)["caches"]), place.setup.rows)
        return Measured(seconds, place.setup.rows)


def _directory(place: Place) -> Path:
    return place.directory / f"listing-{place.setup.slug}"
