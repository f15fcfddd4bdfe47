"""What a contestant can be asked to do."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benches.model import NumberedModel
from benches.work import Setup, Vectors, Work


class Contestant(ABC):
    """A cache of vectors, set up as its documentation recommends for speed.

    Attributes:
        name: what tables call it.
        why: how it is set up and why, in a line.
        store: which directory it keeps its vectors in; contestants may share one.
        packages: whose versions belong to its results.
        input_form: what :meth:`inputs` makes of a data set.
    """

    name: ClassVar[str]
    why: ClassVar[str]
    store: ClassVar[str]
    packages: ClassVar[Sequence[str]] = ()
    input_form: ClassVar[str] = "list[str]"

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path = path
        self.setup = setup

    def inputs(self, dataset: Any) -> Any:
        """The texts of a Hugging Face data set in the form in which this cache is given them."""
        return dataset["text"][:]

    @abstractmethod
    def open(self) -> None:
        """Open what is on disk, or begin anew."""

    @abstractmethod
    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        """Return the vectors of all inputs (n, dim), having the model make and storing what is missing."""

    def warm_up(self) -> None:  # noqa: B027 - most have nothing to do here
        """Do what this contestant, and no other, may do before the clock starts."""

    def run(self, inputs: Any, model: NumberedModel) -> Any:
        """Open and encode, as a new process does."""
        self.open()
        return self.encode(inputs, model)

    @abstractmethod
    def close(self) -> None:
        """Release what is open."""

    def fill(self, work: Work) -> None:
        """Store the vectors of all texts."""
        self.run(self.inputs(work.dataset()), NumberedModel(work))
        self.close()


class Reader(Contestant):
    """A contestant that gives vectors of texts without a model."""

    @abstractmethod
    def get(self, texts: list[str]) -> Vectors:
        """The vectors of texts that are all held (n, dim), in a fresh array."""

    @abstractmethod
    def get_one(self, text: str) -> Any:
        """The vector of one text (dim,), None if it is not held."""

    def single_gets(self, texts: list[str]) -> tuple[Callable[[Any], Any], Sequence[Any]]:
        """What a user's loop calls for one vector, and its argument for each text."""
        return self.get_one, texts


class KeyValueStore(Reader):
    """A store of bytes under bytes: keys are SHA-256 of the text, as they must be short; values are rows."""

    group_rows = 8_192

    @abstractmethod
    def read(self, keys: list[bytes]) -> Sequence[Any]:
        """The values of keys, None for one that is not held."""

    @abstractmethod
    def write(self, keys: list[bytes], values: list[bytes]) -> None:
        """Store one group."""

    def get(self, texts: list[str]) -> Vectors:
        # One copy, straight into memory of our own.
        return self._rows(bytearray().join(self.read([_key(text) for text in texts])))

    def get_one(self, text: str) -> Any:
        value = self.read([_key(text)])[0]
        return None if value is None else np.frombuffer(bytearray(value), self.setup.dtype)

    def encode(self, inputs: list[str], model: Callable[[list[str]], Vectors]) -> Vectors:
        keys = [_key(text) for text in inputs]
        values = list(self.read(keys))
        missing = {key: i for i, (key, value) in enumerate(zip(keys, values, strict=True)) if value is None}
        if missing:
            made: dict[bytes, Any] = {}
            wanted = list(missing.items())
            for start in range(0, len(wanted), self.group_rows):
                group = wanted[start : start + self.group_rows]
                vectors = model([inputs[i] for _, i in group])
                names = [key for key, _ in group]
                rows = [vector.tobytes() for vector in vectors]
                self.write(names, rows)
                made.update(zip(names, rows, strict=True))
            values = [made[key] if value is None else value for key, value in zip(keys, values, strict=True)]
        return self._rows(bytearray().join(values))

    def _rows(self, values: bytearray) -> Vectors:
        return np.frombuffer(values, self.setup.dtype).reshape(-1, self.setup.dim)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
