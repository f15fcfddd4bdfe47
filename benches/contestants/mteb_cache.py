"""mteb's own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from benches.contestants.base import Reader
from benches.model import NumberedModel, arguments, loader, task
from benches.work import Vectors


class Numpy(Reader):
    """mteb's ``CachedEmbeddingWrapper`` over its ``NumpyCache``."""

    name = "mteb NumpyCache"
    why = "as it comes: it has no settings of speed"
    store = "mteb-numpy"
    packages: ClassVar[tuple[str, ...]] = ("mteb",)
    input_form = "mteb's loader"
    backend: ClassVar[str] = "NumpyCache"
    titled: ClassVar[bool] = False

    def inputs(self, dataset: Any) -> Any:
        return loader(dataset, self.titled)

    def open(self) -> None:
        """Load index and vectors into memory, as the wrapper does in its first call."""
        self._backend = self._backend_class()(self.path / task(self.titled).name)
        self._backend.load()

    def run(self, inputs: Any, model: NumberedModel) -> Any:
        return self.encode(inputs, model)

    def encode(self, inputs: Any, model: NumberedModel) -> Any:
        from mteb.models.cache_wrappers import CachedEmbeddingWrapper

        wrapper = CachedEmbeddingWrapper(model, self.path, self._backend_class())
        return wrapper.encode(inputs, **arguments(self.titled))

    def get(self, texts: list[str]) -> Vectors:
        return np.array([self.get_one(text) for text in texts])

    def get_one(self, text: str) -> Any:
        return self._backend.get_vector({"text": text})

    def single_gets(self, texts: list[str]) -> tuple[Callable[[Any], Any], Sequence[Any]]:
        return self._backend.get_vector, [{"text": text} for text in texts]

    def close(self) -> None:
        """Nothing: the wrapper saves when it has encoded."""

    def _backend_class(self) -> Any:
        from mteb.models.cache_wrappers import cache_backends

        return getattr(cache_backends, self.backend)


class TitledNumpy(Numpy):
    """The same, given titled documents."""

    name = "mteb NumpyCache, titled documents"
    store = "mteb-numpy-titled"
    titled = True


class Faiss(Numpy):
    """mteb's ``CachedEmbeddingWrapper`` over its ``FaissCache``."""

    name = "mteb FaissCache"
    store = "mteb-faiss"
    packages = ("mteb", "faiss-cpu")
    backend = "FaissCache"
