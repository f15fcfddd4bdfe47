"""A model that takes a known time, and writes down in a file what it encodes: workers may be killed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """The vectors (n, 64) of texts, each made from its text alone."""
    numbers = b"".join(hashlib.sha512(text.encode()).digest() for text in texts)
    return np.frombuffer(numbers, np.uint8).reshape(-1, 64).astype(np.float32)


def stand_in(log: Path, name: str, texts_a_second: float | None = None) -> Callable[[list[str]], Any]:
    """Return a model.

    Args:
        log: the directory where each process writes what it encodes.
        name: how its file begins.
        texts_a_second: how fast it is; None: as fast as it can be.
    """
    log.mkdir(parents=True, exist_ok=True)

    def encode(texts: list[str]) -> Any:
        began = time.time()
        if texts_a_second is not None:
            time.sleep(len(texts) / texts_a_second)
        with (log / f"{name}-{os.getpid()}").open("a") as file:
            file.write(json.dumps([began, time.time(), list(texts)]) + "\n")
        return vectors(texts)

    return encode


def calls(log: Path) -> list[tuple[float, float, list[str]]]:
    """Begin, end and texts of the calls of all processes."""
    lines = [line for path in log.glob("*-*") for line in path.read_text().splitlines()]
    found = []
    for line in lines:
        try:
            found.append(tuple(json.loads(line)))
        except ValueError:
            continue  # It is being written.
    return found


def encoded(log: Path) -> list[str]:
    """All texts that were encoded, those of killed processes too."""
    return [text for _, _, texts in calls(log) for text in texts]
