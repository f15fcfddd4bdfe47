"""A dict with a NumPy array: what one writes oneself, without a disk."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benches.contestants.base import Reader
from benches.model import NumberedModel
from benches.work import Vectors, Work


class Dictionary(Reader):
    """Text to row in a dict, rows in one array; all in memory before the clock starts."""

    name = "dict + NumPy"
    why = "no disk: loaded before the clock starts; keys are the texts themselves"
    store = "dictionary"

    def fill(self, work: Work) -> None:
        self.path.mkdir(parents=True)
        (self.path / "texts.json").write_text(json.dumps(work.texts()))
        np.save(self.path / "vectors.npy", work.vectors())

    def open(self) -> None:
        """Nothing: :meth:`warm_up` loads."""

    def warm_up(self) -> None:
        texts = json.loads((self.path / "texts.json").read_text())
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = np.load(self.path / "vectors.npy")

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:  # noqa: ARG002 - all is held
        return self.get(inputs)

    def get(self, texts: list[str]) -> Vectors:
        rows = self._rows
        return self._vectors[[rows[text] for text in texts]]

    def get_one(self, text: str) -> Any:
        row = self._rows.get(text)
        return None if row is None else self._vectors[row]

    def close(self) -> None:
        """Nothing is open."""
