"""Late-interaction, padded and sparse models are scored through the cache as without it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import mteb
import numpy as np
import pytest
import torch
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.mocks import mock_tasks
from mteb_models import FieldsModel, evaluate, meta
from mteb_tasks import ALL_CLASSES, Calls, each_video_once, half, outcome, small
from threadpoolctl import threadpool_limits
from token_models import PaddingModel, late_interaction, sparse_model

from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, FaissCache
from dejavec.errors import SpotCheckError
from dejavec.mteb.wrapper import engine_of

pytestmark = pytest.mark.slow
HIDDEN = {late_interaction: "_encode", sparse_model: "encode", PaddingModel: "encode"}


@pytest.fixture(scope="module", autouse=True)
def settings() -> Iterator[None]:
    with threadpool_limits(1), each_video_once():
        yield


def watched(make_model: Any) -> tuple[Any, Calls]:
    """A model, and the calls that make its vectors."""
    model, calls = make_model(), Calls()
    name = HIDDEN.get(make_model, "encode")
    setattr(model, name, calls.watch(getattr(model, name)))
    return model, calls


def same(one: Any, other: Any) -> bool:
    """Whether two results have one kind, and every item the same bytes."""
    if type(one) is not type(other) or len(one) != len(other):
        return False
    if isinstance(one, list):
        return all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if one.layout is not other.layout or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.layout is torch.sparse_coo:
        pairs = ((one._indices(), other._indices()), (one._values(), other._values()))
        return one.is_coalesced() == other.is_coalesced() and all(torch.equal(*pair) for pair in pairs)
    return one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def close(one: Any, other: Any) -> bool:
    """Whether two results differ only by the rounding of another batch."""
    pairs = zip(one, other, strict=True)
    return all(torch.allclose(left.to_dense(), right.to_dense(), atol=1e-5) for left, right in pairs)


@pytest.mark.parametrize("make_model", HIDDEN, ids=lambda made: made.__name__)
@pytest.mark.parametrize("task_class", ALL_CLASSES, ids=lambda made: made.__name__)
def test_uncached_cold_and_warm_are_equal_and_no_item_is_encoded_warm(
    task_class: type, make_model: Any, tmp_path: Path
) -> None:
    model, calls = watched(make_model)
    uncached = outcome(model, small(task_class))
    made = list(calls.made)
    for run in ("cold", "warm"):
        calls.made.clear()
        with CachedEmbeddingWrapper(model, tmp_path, model_name="tests/model@1") as wrapper:
            found = outcome(wrapper, small(task_class))
            assert found == uncached or "Error" in found.partition(":")[0] == uncached.partition(":")[0]
            assert run == "cold" or (calls.made == [] and wrapper.totals.hits == wrapper.totals.items)
            for inputs, arguments, vectors in made if found == uncached else []:
                # Other tasks encode some texts in several calls, and a transformer pads each batch otherwise.
                exact = make_model is PaddingModel or issubclass(task_class, AbsTaskRetrieval)
                cached = engine_of(wrapper).encode(inputs, dict(arguments))
                assert (same if exact else close)(cached, vectors)


@pytest.mark.parametrize("make_model", HIDDEN, ids=lambda made: made.__name__)
def test_half_warm_is_equal_as_far_as_the_model_repeats_itself(make_model: Any, tmp_path: Path) -> None:
    model, calls = watched(make_model)
    uncached = evaluate(model, mock_tasks.MockRetrievalTask())
    made = list(calls.made)
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        for inputs, arguments, _ in made:
            engine_of(wrapper).encode(half(inputs), dict(arguments))
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        found = evaluate(wrapper, mock_tasks.MockRetrievalTask())
        assert wrapper.totals.hits > 0
        assert wrapper.totals.misses > 0
        # A transformer pads, so another batch changes its last bits.
        assert found == uncached or make_model is not PaddingModel
        for inputs, arguments, vectors in made:
            half_warm = engine_of(wrapper).encode(inputs, dict(arguments))
            assert (same if make_model is PaddingModel else close)(half_warm, vectors)


@pytest.mark.parametrize("make_model", HIDDEN, ids=lambda made: made.__name__)
def test_a_model_that_is_not_named_is_asked_once_and_a_changed_one_gets_vectors_of_its_own(
    make_model: Any, tmp_path: Path
) -> None:
    model, calls = watched(make_model)
    task = mock_tasks.MockRetrievalTask
    uncached = evaluate(model, task())
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        assert evaluate(wrapper, task()) == uncached
    with CachedEmbeddingWrapper(model, tmp_path, spot_check=2) as wrapper:
        assert evaluate(wrapper, task()) == uncached
        assert 0 < wrapper.totals.confirmed < wrapper.totals.items == wrapper.totals.hits
    calls.made.clear()
    method = getattr(model, HIDDEN[make_model])

    @functools.wraps(method)
    def changed(inputs: Any, **arguments: Any) -> Any:
        made = method(inputs, **arguments)
        return [item * 2 for item in made] if isinstance(made, list) else made * 2

    setattr(model, HIDDEN[make_model], changed)
    with (
        CachedEmbeddingWrapper(model, tmp_path, model_name="tests/model@1", spot_check=2) as wrapper,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", DejavecWarning)
        evaluate(wrapper, task())
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper, pytest.warns(DejavecWarning, match="go to"):
        evaluate(wrapper, task())


def half_precise(vectors: Any) -> Any:
    """The same vectors, rounded to float16."""
    if isinstance(vectors, list):
        return [half_precise(item) for item in vectors]
    if isinstance(vectors, np.ndarray):
        return vectors.astype(np.float16).astype(vectors.dtype)
    copied = vectors.clone()
    numbers = copied._values() if copied.is_sparse else copied
    numbers.copy_(numbers.half())
    return copied


@pytest.mark.filterwarnings("ignore:.*these vectors go to")
@pytest.mark.parametrize("make_model", [*HIDDEN, FieldsModel], ids=lambda made: made.__name__)
def test_float16_is_stored_if_asked_and_the_first_run_is_rounded_too(make_model: Any, tmp_path: Path) -> None:
    model, calls = watched(make_model)
    evaluate(model, mock_tasks.MockRetrievalTask())
    made = list(calls.made)
    dtypes: list[tuple[Literal["float16"] | None, int]] = [
        ("float16", 0),
        ("float16", 2),
        (None, 0),
        (None, 2),
    ]
    for store_dtype, checked in dtypes:
        calls.made.clear()
        with CachedEmbeddingWrapper(
            model, tmp_path, model_name="m@1", store_dtype=store_dtype, spot_check=checked
        ) as wrapper:
            for inputs, arguments, vectors in made:
                found = engine_of(wrapper).encode(inputs, dict(arguments))
                assert same(found, vectors if store_dtype is None else half_precise(vectors))
            assert (wrapper.totals.misses == 0) == (checked > 0)


def test_float16_that_is_asked_for_again_is_not_the_float32_of_another_model(tmp_path: Path) -> None:
    model = FieldsModel()
    for confirmed in (False, True):
        # Not named, so the model is asked whether the rounded vectors are its own.
        setattr(model, "note", confirmed)  # noqa: B010
        with CachedEmbeddingWrapper(model, tmp_path, store_dtype="float16") as wrapper:
            evaluate(wrapper, mock_tasks.MockRetrievalTask())
            assert (wrapper.totals.misses == 0) == confirmed
    with pytest.raises(ValueError, match="expected NumpyCache with store_dtype"):
        CachedEmbeddingWrapper(model, tmp_path, FaissCache, store_dtype="float16")


@pytest.mark.parametrize("make_model", HIDDEN, ids=lambda made: made.__name__)
def test_texts_are_kept_beside_vectors_of_any_form(make_model: Any, tmp_path: Path) -> None:
    task = mock_tasks.MockRetrievalTask()
    model, _ = watched(make_model)
    with CachedEmbeddingWrapper(model, tmp_path, model_name="m@1", keep_texts=True) as wrapper:
        uncached = evaluate(model, mock_tasks.MockRetrievalTask())
        assert evaluate(wrapper, task) == uncached
    (directory,) = {path.parent for path in tmp_path.rglob("query*/meta.json")}
    with EmbeddingCache(directory, mode="r") as cache:
        found = [str(text) for text in cache.texts()]
        assert cache.verify()["damaged_texts"] == []
        assert cache.stats()["texts"] == len(found)
        assert all(cache.get(found)[0])


def test_a_spot_check_finds_another_models_token_vectors(tmp_path: Path) -> None:
    model, _ = watched(PaddingModel)
    with CachedEmbeddingWrapper(model, tmp_path, model_name="m@1") as wrapper:
        evaluate(wrapper, mock_tasks.MockRetrievalTask())
    model.vector = lambda item, prompt_type: PaddingModel.vector(model, item, prompt_type) * 1.01
    with (
        CachedEmbeddingWrapper(model, tmp_path, model_name="m@1", spot_check=2) as wrapper,
        pytest.raises(SpotCheckError),
    ):
        evaluate(wrapper, mock_tasks.MockRetrievalTask())


def test_a_float32_backend_passes_other_forms_through_with_one_warning(tmp_path: Path) -> None:
    model, _ = watched(sparse_model)
    uncached = evaluate(model, mock_tasks.MockRetrievalTask())
    with (
        CachedEmbeddingWrapper(model, tmp_path, cache_backend=FaissCache) as wrapper,
        pytest.warns(DejavecWarning, match="passed to the model uncached"),
    ):
        assert evaluate(wrapper, mock_tasks.MockRetrievalTask()) == uncached


@pytest.mark.parametrize("name", ["mteb/baseline-random-cross-encoder", "mteb/baseline-random-colbert"])
def test_a_model_without_vectors_is_evaluated_as_it_is_with_one_warning(name: str, tmp_path: Path) -> None:
    model = mteb.get_model(name)
    uncached = outcome(model, mock_tasks.MockRerankingTask())
    with pytest.warns(DejavecWarning, match="expected vectors to cache"):
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DejavecWarning)
        assert outcome(wrapper, mock_tasks.MockRerankingTask()) == uncached
    with pytest.warns(DejavecWarning, match="expected vectors to cache"):
        lazy = CachedEmbeddingWrapper(name, tmp_path)
    assert outcome(lazy, mock_tasks.MockRerankingTask()) == uncached


@pytest.mark.parametrize("own", [False, True])
def test_a_function_that_makes_a_model_without_vectors_is_evaluated_so_too(own: bool, tmp_path: Path) -> None:
    built = []

    def build(*_: Any, **__: Any) -> OtherSignature:
        built.append(OtherSignature())
        return built[-1]

    made = meta(loader=build, model_type=["sparse"])
    uncached = evaluate(OtherSignature(), mock_tasks.MockRetrievalTask())
    recipe = {"model": build, "model_meta": made} if own else {"model": made}
    with pytest.warns(DejavecWarning, match="a search without a method that makes them"):
        wrapper = CachedEmbeddingWrapper(**recipe, cache_path=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DejavecWarning)
        assert evaluate(wrapper, mock_tasks.MockRetrievalTask()) == uncached
    assert len(built) == 1
    assert wrapper.mteb_model_meta.name == made.name


class OtherSignature:
    """A late-interaction model whose ``_encode`` takes other arguments, as mteb's may one day."""

    def __init__(self) -> None:
        self.mteb_model_meta = meta()

    def _encode(self, inputs: Any) -> Any:
        return [torch.ones(2, 3) for batch in inputs for _ in batch["text"]]

    def index(self, corpus: Any, **_: Any) -> None:
        self.corpus = corpus

    def search(self, queries: Any, **_: Any) -> Any:
        return {row["id"]: {self.corpus[0]["id"]: 1.0} for row in queries}


def test_a_hidden_encode_with_other_arguments_runs_uncached_with_one_warning(tmp_path: Path) -> None:
    uncached = evaluate(OtherSignature(), mock_tasks.MockRetrievalTask())
    with pytest.warns(DejavecWarning, match="a search without a method that makes them"):
        wrapper = CachedEmbeddingWrapper(OtherSignature(), tmp_path)
    assert evaluate(wrapper, mock_tasks.MockRetrievalTask()) == uncached


def test_mteb_still_calls_the_method_that_is_shadowed() -> None:
    """If mteb renames ``_encode``, late-interaction models run uncached."""
    import inspect

    from mteb.models import sentence_transformer_wrapper as wrappers
    from mteb.models.model_implementations import pylate_models

    wanted = {"self", "inputs", "task_metadata", "hf_split", "hf_subset", "prompt_type", "kwargs"}
    for model in (wrappers.MultiVectorWrapper, pylate_models.MultiVectorModel):
        assert set(inspect.signature(model._encode).parameters) == wanted
        assert "self._encode(" in inspect.getsource(model.search)
        assert not hasattr(model, "encode")
