"""mteb scores a model through the cache exactly as it scores it without, on every task that it has."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from comparing import bits_equal
from mteb._evaluators import retrieval_metrics
from mteb.mocks import mock_tasks
from mteb_models import FieldsModel, evaluate, minilm
from mteb_tasks import ALL_CLASSES, FAIL_UNCACHED, each_video_once, half, small
from per_item_backend import FileBackend
from threadpoolctl import threadpool_limits

from dejavec import CachedEmbeddingWrapper, FaissCache, NumpyCache
from dejavec.demo.corpus import read_corpus
from dejavec.demo.task import docstring_task

pytestmark = pytest.mark.slow


class ThirdParty(FileBackend):
    """A backend that is asked item by item."""

    given: list[str] = []  # noqa: RUF012 - kept by the class, and of no interest here


class Recorder:
    """Keeps the loader and arguments of each call on its way to a model."""

    def __init__(self, model: Any) -> None:
        self.mteb_model_meta = model.mteb_model_meta
        self.similarity = model.similarity
        self.similarity_pairwise = model.similarity_pairwise
        self.calls: list[tuple[Any, dict[str, Any]]] = []
        self._model = model

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.calls.append((inputs, arguments))
        return self._model.encode(inputs, **arguments)


def random_baseline() -> Any:
    return mteb.get_model("mteb/baseline-random-encoder")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of k-means wait for each other longer than they work on a handful of vectors."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module", autouse=True)
def videos() -> Iterator[None]:
    with each_video_once():
        yield


@pytest.fixture(scope="module", autouse=True)
def each_area_once() -> Iterator[None]:
    """mteb computes areas under curves for half of the time, here ten times from equal numbers."""
    known: dict[bytes, float] = {}
    computed = retrieval_metrics.nauc

    def nauc(*curve: Any) -> float:
        key = pickle.dumps([np.asarray(part) for part in curve])
        return known[key] if key in known else known.setdefault(key, computed(*curve))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval_metrics, "nauc", nauc)
        yield


def test_all_mock_tasks_are_found() -> None:
    assert len(ALL_CLASSES) == 74


@pytest.mark.skipif(not os.environ.get("CI"), reason="only there FFmpeg is installed by us")
def test_mteb_can_evaluate_every_task_uncached_in_ci() -> None:
    assert FAIL_UNCACHED == []


@pytest.mark.parametrize("make_model", [random_baseline, FieldsModel])
@pytest.mark.parametrize("task_class", ALL_CLASSES, ids=lambda made: made.__name__)
def test_uncached_cold_warm_and_half_warm_scores_are_equal(
    task_class: type, make_model: Any, tmp_path: Path
) -> None:
    model = make_model()
    recorder = Recorder(model)
    if task_class.__name__ in FAIL_UNCACHED:
        with pytest.raises(RuntimeError, match="Could not load libtorchcodec"):
            evaluate(recorder, small(task_class))
        return
    uncached = evaluate(recorder, small(task_class))
    for backend in (NumpyCache, FaissCache, ThirdParty):
        options: dict[str, Any] = {"cache_backend": backend}
        full, filled_by_half = tmp_path / backend.__name__ / "full", tmp_path / backend.__name__ / "half"
        with CachedEmbeddingWrapper(model, full, **options) as wrapper:
            assert evaluate(wrapper, small(task_class)) == uncached
        with CachedEmbeddingWrapper(model, full, **options) as wrapper:
            assert evaluate(wrapper, small(task_class)) == uncached
            assert wrapper.totals.items == wrapper.totals.hits > 0
            # Neither model can be seen whole, so each directory's vectors are asked about once.
            assert 0 < wrapper.totals.confirmed <= wrapper.totals.items
        with CachedEmbeddingWrapper(model, filled_by_half, **options) as wrapper:
            for inputs, arguments in recorder.calls:
                wrapper.encode(half(inputs), **arguments)
        with CachedEmbeddingWrapper(model, filled_by_half, **options) as wrapper:
            assert evaluate(wrapper, small(task_class)) == uncached
            assert wrapper.totals.hits > 0


class FailingModel(FieldsModel):
    def encode(self, inputs: Any, **arguments: Any) -> Any:
        raise ConnectionError("the GPU is gone")


def test_the_models_exception_reaches_the_caller_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"^the GPU is gone$"):
        evaluate(CachedEmbeddingWrapper(FailingModel(), tmp_path), mock_tasks.MockSTSTask())


class VectorLog(Recorder):
    """Keeps the vectors of each call too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.vectors: list[Any] = []

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.vectors.append(super().encode(inputs, **arguments))
        return self.vectors[-1]


class PaddingModel:
    """all-MiniLM-L6-v2, and what it makes of a search of docstrings without a cache."""

    def __init__(self) -> None:
        self.model = minilm()
        self.corpus = read_corpus(96, 40)
        self.uncached = VectorLog(self.model)
        self.scores = self.search(self.uncached)

    def search(self, model: Any) -> Any:
        task = docstring_task(self.corpus)
        task.load_data()
        return [evaluate(model, task), task.digest()]


@pytest.fixture(scope="module")
def padding() -> PaddingModel:
    return PaddingModel()


@pytest.mark.parametrize("chunk_rows", [10_000, 32])
def test_a_model_that_pads_is_equal_to_the_bit_cold_and_warm(
    padding: PaddingModel, chunk_rows: int, tmp_path: Path
) -> None:
    for run in ("cold", "warm"):
        with CachedEmbeddingWrapper(padding.model, tmp_path, chunk_rows=chunk_rows) as wrapper:
            log = VectorLog(wrapper)
            assert padding.search(log) == padding.scores
            assert wrapper.totals.hits == (wrapper.totals.items if run == "warm" else 0)
        assert len(log.vectors) == len(padding.uncached.vectors) == 2
        assert all(map(bits_equal, log.vectors, padding.uncached.vectors))


def test_a_model_that_pads_is_equal_within_its_rounding_half_warm(
    padding: PaddingModel, tmp_path: Path
) -> None:
    with CachedEmbeddingWrapper(padding.model, tmp_path) as wrapper:
        for inputs, arguments in padding.uncached.calls:
            wrapper.encode(half(inputs), **arguments)
        log = VectorLog(wrapper)
        padding.search(log)
    for cached, expected in zip(log.vectors, padding.uncached.vectors, strict=True):
        np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary"])
def test_scores_of_quantised_vectors_are_equal(precision: str, padding: PaddingModel, tmp_path: Path) -> None:
    def scored(model: Any) -> str:
        return evaluate(model, mock_tasks.MockClassificationTask(), precision=precision)

    uncached = scored(padding.model)
    for _ in range(2):
        with CachedEmbeddingWrapper(padding.model, tmp_path) as wrapper:
            assert scored(wrapper) == uncached
    assert wrapper.totals.misses == 0
