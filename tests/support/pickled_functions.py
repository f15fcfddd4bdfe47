"""Functions that other processes import by name."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dejavec import cached


@cached(os.environ.get("PICKLED_FUNCTIONS_CACHE", "/tmp/never-written"), model="m@1")
def embed(texts: list[str]) -> Any:
    return np.array([[len(text), 1.0] for text in texts], np.float32)
