"""mteb scores a model through the cache exactly as it scores it without, on every text task."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.mocks import mock_tasks
from mteb_models import FieldsModel, evaluate, loader, minilm, same_bits

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.demo_corpus import read_corpus
from dejavec.demo_task import docstring_task


def mock_classes() -> list[type]:
    modules = [
        importlib.import_module(f"{mock_tasks.__name__}.{part.name}")
        for part in pkgutil.iter_modules(mock_tasks.__path__)
    ]
    return [
        made
        for module in modules
        for name, made in vars(module).items()
        if name.startswith("Mock") and isinstance(made, type) and made.__module__ == module.__name__
    ]


ALL_CLASSES = mock_classes()
TEXT_CLASSES = [made for made in ALL_CLASSES if made.metadata.modalities == ["text"]]


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


def half(inputs: Any) -> Any:
    return loader(inputs.dataset.select(range(0, len(inputs.dataset), 2)), collate_fn=inputs.collate_fn)


def random_baseline() -> Any:
    return mteb.get_model("mteb/baseline-random-encoder")


def test_all_mock_tasks_are_found() -> None:
    assert len(ALL_CLASSES) == 74
    assert len(TEXT_CLASSES) == 28


@pytest.mark.parametrize("make_model", [random_baseline, FieldsModel])
@pytest.mark.parametrize("task_class", TEXT_CLASSES, ids=lambda made: made.__name__)
def test_uncached_cold_warm_and_half_warm_scores_are_equal(
    task_class: type, make_model: Any, tmp_path: Path
) -> None:
    model = make_model()
    recorder = Recorder(model)
    uncached = evaluate(recorder, task_class())

    def cached(directory: str) -> CachedEmbeddingWrapper:
        return CachedEmbeddingWrapper(model, tmp_path / directory, model_name="tests/model@1")

    with cached("full") as wrapper:
        assert evaluate(wrapper, task_class()) == uncached
    with cached("full") as wrapper:
        assert evaluate(wrapper, task_class()) == uncached
        assert wrapper.totals.items == wrapper.totals.hits > 0
    with cached("half") as wrapper:
        for inputs, arguments in recorder.calls:
            wrapper.encode(half(inputs), **arguments)
    with cached("half") as wrapper:
        assert evaluate(wrapper, task_class()) == uncached
        assert wrapper.totals.hits > 0


class FailingModel(FieldsModel):
    def encode(self, inputs: Any, **arguments: Any) -> Any:
        raise ConnectionError("the GPU is gone")


def test_the_models_exception_reaches_the_caller_unchanged(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"^the GPU is gone$"):
        evaluate(CachedEmbeddingWrapper(FailingModel(), tmp_path), mock_tasks.MockSTSTask())


@pytest.mark.parametrize(
    "task_class",
    [made for made in ALL_CLASSES if made.metadata.modalities in (["image"], ["image", "text"])],
    ids=lambda made: made.__name__,
)
def test_media_pass_through_uncached_with_one_warning(task_class: type, tmp_path: Path) -> None:
    model = random_baseline()
    uncached = evaluate(model, task_class())
    wrapper = CachedEmbeddingWrapper(model, tmp_path, model_name="tests/model@1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert evaluate(wrapper, task_class()) == uncached
    ours = [str(warning.message) for warning in caught if warning.category is DejavecWarning]
    assert len(ours) == 1
    assert "images, audio or video" in ours[0]


@pytest.fixture(scope="module")
def corpus() -> Any:
    return read_corpus(96, 40)


@pytest.mark.parametrize("chunk_rows", [10_000, 32])
def test_a_model_that_pads_is_equal_to_the_bit_cold_and_warm(
    corpus: Any, chunk_rows: int, tmp_path: Path
) -> None:
    model = minilm()
    uncached = VectorLog(model)
    scores = evaluate_docstrings(uncached, corpus)
    for run in ("cold", "warm"):
        with CachedEmbeddingWrapper(model, tmp_path, chunk_rows=chunk_rows) as wrapper:
            log = VectorLog(wrapper)
            assert evaluate_docstrings(log, corpus) == scores
            assert wrapper.totals.hits == (wrapper.totals.items if run == "warm" else 0)
        assert len(log.vectors) == len(uncached.vectors) == 2
        assert all(map(same_bits, log.vectors, uncached.vectors))


def test_a_model_that_pads_is_equal_within_its_rounding_half_warm(corpus: Any, tmp_path: Path) -> None:
    model = minilm()
    uncached = VectorLog(model)
    evaluate_docstrings(uncached, corpus)
    recorder = Recorder(model)
    evaluate_docstrings(recorder, corpus)
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        for inputs, arguments in recorder.calls:
            wrapper.encode(half(inputs), **arguments)
        log = VectorLog(wrapper)
        evaluate_docstrings(log, corpus)
    for cached, expected in zip(log.vectors, uncached.vectors, strict=True):
        np.testing.assert_allclose(cached, expected, rtol=0, atol=1e-6)


class VectorLog(Recorder):
    """Keeps the vectors of each call too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.vectors: list[Any] = []

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.vectors.append(super().encode(inputs, **arguments))
        return self.vectors[-1]


def evaluate_docstrings(model: Any, corpus: Any) -> Any:
    task = docstring_task(corpus)
    task.load_data()
    return [evaluate(model, task), task.digest()]
