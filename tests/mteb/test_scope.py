"""With ``scope="model"`` tasks share vectors, where only text, prompt and role make them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal
from datasets import Dataset
from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
from mteb.models.cache_wrappers.cache_backends import NumpyCache as MtebNumpyCache
from mteb_models import (
    DOCUMENT,
    QUERY,
    TASK,
    FieldsModel,
    count_batches,
    encode,
    evaluate,
    instruct_minilm,
    loader,
    meta,
    minilm,
)
from PIL import Image

from dejavec import CachedEmbeddingWrapper

pytestmark = pytest.mark.slow

TEXTS = ["a b", "c d e"]
OTHER = TASK.model_copy(update={"name": "OtherTask", "type": "STS", "prompt": "Another instruction."})


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """Sharing is nothing to warn of, nor is a prompt of its own for each task."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="mteb")
        yield


def prompts(path: Path) -> set[tuple[Any, Any]]:
    found = [json.loads(stored.read_text())["identity"] for stored in path.rglob("meta.json")]
    return {(identity["role"], identity["prompt"]["text"]) for identity in found}


def test_a_text_is_encoded_once_for_all_tasks(tmp_path: Path) -> None:
    model = minilm()
    batches = count_batches(model)
    wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model", model_name="org/mini@1")
    first = encode(wrapper, TEXTS)
    assert bits_equal(encode(wrapper, TEXTS, task_metadata=OTHER), first)
    assert sum(batches) == 2
    assert [path.name.partition("@")[0] for path in tmp_path.iterdir()] == ["org%2Fmini"]


def test_tasks_do_not_share_unless_asked(tmp_path: Path) -> None:
    model = minilm()
    wrapper = CachedEmbeddingWrapper(model, tmp_path, model_name="org/mini@1")
    batches = count_batches(model)
    for task in (TASK, OTHER):
        encode(wrapper, TEXTS, task_metadata=task)
    assert sum(batches) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MockRetrievalTask", "OtherTask"]


def test_roles_stay_apart_even_with_equal_prompts(tmp_path: Path) -> None:
    model = minilm()
    batches = count_batches(model)
    wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
    for arguments in ({}, {"prompt_type": QUERY}, {"prompt_type": DOCUMENT}):
        encode(wrapper, TEXTS, **arguments)
    assert sum(batches) == 6
    assert {role for role, _ in prompts(tmp_path)} == {None, "query", "document"}


def test_tasks_with_prompts_of_their_own_stay_apart(tmp_path: Path) -> None:
    model = minilm()
    model.model_prompts = {"query": "q: ", "STS-query": "s: "}
    wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
    for task in (TASK, OTHER):
        expected = encode(model, TEXTS, task_metadata=task, prompt_type=QUERY)
        assert bits_equal(encode(wrapper, TEXTS, task_metadata=task, prompt_type=QUERY), expected)
    assert prompts(tmp_path) == {("query", "q: "), ("query", "s: ")}


def test_documents_without_instruction_are_shared(tmp_path: Path) -> None:
    model = instruct_minilm(apply_instruction_to_passages=False)
    wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
    batches = count_batches(model)
    for task in (TASK, OTHER):
        for role in (QUERY, DOCUMENT):
            expected = encode(model, TEXTS, task_metadata=task, prompt_type=role)
            batches.clear()
            assert bits_equal(encode(wrapper, TEXTS, task_metadata=task, prompt_type=role), expected)
    assert not batches
    assert len(prompts(tmp_path)) == 3


def test_scores_are_those_without_a_cache(tmp_path: Path) -> None:
    model = minilm()
    for task in (MockRetrievalTask, MockSTSTask, MockRetrievalTask):
        wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
        assert evaluate(wrapper, task()) == evaluate(model, task())
    assert wrapper.totals.misses == 0


def test_another_backend_shares_too(tmp_path: Path) -> None:
    model = minilm()
    batches = count_batches(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with CachedEmbeddingWrapper(model, tmp_path, MtebNumpyCache, scope="model") as wrapper:
            for task in (TASK, OTHER):
                encode(wrapper, TEXTS, task_metadata=task)
    assert sum(batches) == 2


def test_another_models_vectors_are_never_shared(tmp_path: Path) -> None:
    for scale in (1, 2):
        model = minilm()
        model.model[0].auto_model.embeddings.word_embeddings.weight.data.mul_(scale)
        expected = encode(model, TEXTS)
        wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
        assert bits_equal(encode(wrapper, TEXTS), expected)


class TestRefused:
    def test_a_model_with_an_encode_of_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="an encode of its own"):
            CachedEmbeddingWrapper(FieldsModel(), tmp_path, scope="model")

    def test_such_a_model_that_is_built_later(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel, tmp_path, scope="model", model_meta=meta())
        with pytest.raises(ValueError, match="an encode of its own"):
            encode(wrapper, TEXTS)

    def test_items_that_are_not_text(self, tmp_path: Path) -> None:
        model = minilm()
        batches = count_batches(model)
        image = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
        rows = Dataset.from_dict({"text": ["a"], "image": [image]})
        wrapper = CachedEmbeddingWrapper(model, tmp_path, scope="model")
        with pytest.raises(ValueError, match="items that are not text"):
            encode(wrapper, loader(rows))
        assert not batches

    def test_another_word(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="scope"):
            CachedEmbeddingWrapper(minilm(), tmp_path, scope="all")  # type: ignore[arg-type]
