"""This project's cache, in the ways in which it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from benches.contestants.base import Contestant, Reader
from benches.model import NAME, NumberedModel, arguments, loader
from benches.work import Vectors
from dejavec import CachedEmbeddingWrapper, EmbeddingCache, FaissCache, NumpyCache


class Wrapper(Contestant):
    """mteb's wrapper by the same name: the data set goes in as mteb hands it over."""

    name = "dejavec"
    why = "as it comes: checksums verified, groups synced"
    store = "dejavec-wrapper"
    packages = ("dejavec", "mteb")
    input_form = "mteb's loader"
    titled: ClassVar[bool] = False
    backend: ClassVar[type[NumpyCache] | type[FaissCache]] = NumpyCache

    def inputs(self, dataset: Any) -> Any:
        return loader(dataset, self.titled)

    def open(self) -> None:
        """Nothing: the first call opens the cache."""

    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        # The case "identity" measures what looking at a model takes; this one has its vectors for weights.
        self._wrapper = CachedEmbeddingWrapper(model, self.path, self.backend, model_name=NAME)
        return self._wrapper.encode(inputs, **arguments(self.titled))

    def close(self) -> None:
        self._wrapper.close()


class TitledWrapper(Wrapper):
    """The wrapper, given titled documents."""

    name = "dejavec, titled documents"
    store = "dejavec-titled"
    titled = True


class FaissWrapper(Wrapper):
    """The wrapper over the file that FAISS reads."""

    name = "dejavec FaissCache"
    store = "dejavec-faiss"
    backend = FaissCache


class Cache(Reader):
    """``EmbeddingCache``, given a ``list[str]``."""

    name = "dejavec, list[str]"
    why = "as it comes: checksums verified, groups synced"
    store = "dejavec"
    packages = ("dejavec",)
    verify: ClassVar[bool] = True
    durability: ClassVar[Literal["commit", "close"]] = "commit"

    def open(self) -> None:
        self._cache = EmbeddingCache(
            self.path, model=NAME, verify=self.verify, durability=self.durability, chunk_rows=8_192
        )

    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        return self._cache.encode(inputs, model)

    def get(self, texts: list[str]) -> Vectors:
        vectors: Vectors = self._cache.get(texts)[1]
        return vectors

    def get_one(self, text: str) -> Any:
        found, vectors = self._cache.get([text])
        return vectors[0] if found[0] else None

    def close(self) -> None:
        self._cache.close()


class UnverifiedCache(Cache):
    """``EmbeddingCache`` without checksums, given a column of a data set."""

    name = "dejavec, verify=False"
    why = "verify=False: durable rows are not checked against their checksums"
    input_form = "a data set's column"
    verify = False

    def inputs(self, dataset: Any) -> Any:
        return dataset["text"]


class UnsyncedCache(Cache):
    """``EmbeddingCache`` that syncs only when it is closed."""

    name = "dejavec, synced at close"
    why = 'durability="close"'
    store = "dejavec-unsynced"
    durability = "close"


class CacheIntoArray(Cache):
    """``EmbeddingCache`` that puts vectors into an array of the caller's, used again and again."""

    name = "dejavec, out="
    why = "get(out=): no new memory"

    def open(self) -> None:
        super().open()
        self._out: Vectors = np.ones((0, self.setup.dim), self.setup.dtype)

    def get(self, texts: list[str]) -> Vectors:
        if len(self._out) != len(texts):
            self._out = np.ones((len(texts), self.setup.dim), self.setup.dtype)
        self._cache.get(texts, out=self._out)
        return self._out


class Backend(Reader):
    """``NumpyCache`` by mteb's backend protocol."""

    name = "dejavec NumpyCache"
    why = "get_vector of mteb's backend protocol"
    store = "dejavec-backend"
    packages = ("dejavec",)

    def open(self) -> None:
        self._backend = NumpyCache(self.path)

    def encode(self, inputs: list[str], model: NumberedModel) -> Any:
        self._backend.add(inputs, model(inputs))
        return self.get(inputs)

    def get(self, texts: list[str]) -> Vectors:
        return np.array([self._backend.get_vector(text) for text in texts])

    def get_one(self, text: str) -> Any:
        return self._backend.get_vector(text)

    def single_gets(self, texts: list[str]) -> tuple[Callable[[Any], Any], Sequence[Any]]:
        return self._backend.get_vector, texts

    def close(self) -> None:
        self._backend.close()
