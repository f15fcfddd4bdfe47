"""A backend as a third party may write one, by mteb's protocol."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np


class FileBackend:
    """Another's backend: one file for each item, looked up one by one.

    Attributes:
        given: the texts of all items that all instances were given to add, in order.
    """

    given: list[str]
    fails = False

    def __init__(self, directory: Path | None = None, **kwargs: Any) -> None:
        assert directory is not None
        self.directory = directory

    def _path(self, item: dict[str, Any]) -> Path:
        return self.directory / f"{hashlib.sha256(item['text'].encode()).hexdigest()}.json"

    def add(self, item: list[dict[str, Any]], vectors: Any) -> None:
        if self.fails:
            raise OSError("no space left")
        for one, vector in zip(item, vectors, strict=True):
            self.given.append(one["text"])
            self._path(one).write_text(json.dumps(np.asarray(vector).tolist()))

    def get_vector(self, item: dict[str, Any]) -> Any | None:
        path = self._path(item)
        return np.array(json.loads(path.read_text()), np.float32) if path.exists() else None

    def __contains__(self, item: dict[str, Any]) -> bool:
        return self._path(item).exists()

    def save(self) -> None: ...

    def load(self) -> None: ...

    def close(self) -> None: ...
