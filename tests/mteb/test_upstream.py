"""What docs/upstream.md offers to mteb works: in copies of mteb's own modules, patched here."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import scipy.sparse
import torch
from mteb import _create_dataloaders as create_dataloaders
from mteb.mocks.mock_tasks import MockRetrievalTask
from mteb.models.cache_wrappers import cache_wrapper
from mteb.models.cache_wrappers.cache_backends import faiss_cache
from mteb.models.cache_wrappers.cache_backends import numpy_cache as mteb_numpy_cache
from mteb.types import PromptType
from torch.utils.data import DataLoader

from dejavec import EmbeddingCache, FaissCache, NumpyCache
from dejavec.errors import IdentityMismatchError

IDENTIFY = (
    """            cache.load()
""",
    """            cache.load()
            if hasattr(cache, "identify") and self.mteb_model_meta is not None:
                meta = self.mteb_model_meta
                role = prompt_type.value if prompt_type is not None else None
                model = {"name": meta.name, "revision": meta.revision}
                cache.identify({"model": model, "role": role, "arguments": encode_kwargs or {}})
""",
)
ASK_ONCE = (
    """            for i, item in enumerate(all_items):
                vector""",
    """            result = None
            if hasattr(cache, "get_vectors"):
                items = list(all_items)
                found, result = cache.get_vectors(items)
                uncached_indices = np.flatnonzero(~found).tolist()
                uncached_items = [items[i] for i in uncached_indices]

            for i, item in enumerate([] if hasattr(cache, "get_vectors") else all_items):
                vector""",
)
ANSWER_AT_ONCE = (
    """            final_results = []
""",
    """            if hasattr(cache, "get_vectors"):
                if result is None:
                    return new_vectors
                if uncached_indices:
                    result[uncached_indices] = new_vectors
                return result
            final_results = []
""",
)
PREPARE_ONCE = (
    """                dl = create_dataloader(
                    dataset,
                    task_metadata=task_metadata,
                    prompt_type=prompt_type,
                    **kwargs,
                )
""",
    """                from torch.utils.data import DataLoader as Loader

                dl = Loader(dataset, batch_size=inputs.batch_size, collate_fn=inputs.collate_fn)
""",
)
PASS_THROUGH = (
    """                if isinstance(new_vectors, torch.Tensor):
""",
    """                dense = isinstance(new_vectors, (np.ndarray, torch.Tensor)) and new_vectors.ndim == 2
                if not dense or getattr(new_vectors, "layout", torch.strided) is not torch.strided:
                    logger.warning("Output that is sparse or not two-dimensional is not cached")
                    return new_vectors
                if isinstance(new_vectors, torch.Tensor):
""",
)
OF_A_BATCH = (
    "def _corpus_to_dict(\n",
    """def _corpus_of_batch(rows):
    titles = rows.get("title", [""] * len(rows["text"]))
    pairs = zip(titles, rows["text"], strict=True)
    texts = [f"{title} {text}".strip() if title else text.strip() for title, text in pairs]
    return {"text": texts, "body": rows["text"]}


def _corpus_to_dict(
""",
)
BATCH_BY_BATCH = (
    """                _corpus_to_dict,
""",
    """                _corpus_of_batch,
                batched=True,
""",
)
NUMBER_BY_ROWS = ("= start_id + i\n", "= start_id + len(vectors_to_add)\n")
TEXTS = ["a", "b", "c", "d"]


def patched(module: ModuleType, *patches: tuple[str, str]) -> ModuleType:
    """A copy of a module with some of its text replaced."""
    source = inspect.getsource(module)
    for old, new in patches:
        assert source.count(old) == 1, f"mteb changed: {old}"
        source = source.replace(old, new)
    copy = ModuleType(f"mteb.patched_{module.__name__.rpartition('.')[2]}")
    exec(compile(source, str(module.__file__), "exec"), vars(copy))
    return copy


@pytest.fixture(scope="module")
def wrapper_class() -> Any:
    return patched(
        cache_wrapper, IDENTIFY, ASK_ONCE, ANSWER_AT_ONCE, PREPARE_ONCE, PASS_THROUGH
    ).CachedEmbeddingWrapper


class Meta:
    experiment_kwargs = None

    def __init__(self, name: str, revision: str = "1") -> None:
        self.name, self.revision = name, revision


class Model:
    """Makes each vector of its text, and remembers what it was given."""

    def __init__(self, name: str = "toy", factor: float = 1.0) -> None:
        self.mteb_model_meta = Meta(name)
        self.factor = factor
        self.given: list[str] = []

    def encode(self, inputs: Any, **arguments: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        self.given += texts
        return np.array([[ord(text[0]) * self.factor, len(text)] for text in texts], np.float32)


def loader(texts: list[str], **columns: list[str]) -> Any:
    return DataLoader(datasets.Dataset.from_dict({"text": texts, **columns}), batch_size=2)


def encode(wrapper: Any, inputs: Any, prompt_type: PromptType | None = None, **arguments: Any) -> Any:
    return wrapper.encode(
        inputs,
        task_metadata=MockRetrievalTask.metadata,
        hf_split="test",
        hf_subset="default",
        prompt_type=prompt_type,
        **arguments,
    )


@pytest.mark.parametrize("backend", [NumpyCache, FaissCache, mteb_numpy_cache.NumpyCache])
@pytest.mark.filterwarnings("ignore")
def test_the_patched_wrapper_returns_the_same_with_and_without_the_extension(
    backend: Any, wrapper_class: Any, tmp_path: Path
) -> None:
    expected = Model().encode(loader(TEXTS))
    for texts, missing in ((TEXTS[:2], TEXTS[:2]), (TEXTS, TEXTS[2:]), (TEXTS[::-1], [])):
        model = Model()
        wrapper = wrapper_class(model, tmp_path, cache_backend=backend)
        found = encode(wrapper, loader(texts))
        wrapper.close()
        assert model.given == missing
        assert found.dtype == expected.dtype
        assert np.array_equal(found, [expected[TEXTS.index(text)] for text in texts])


@pytest.mark.parametrize("backend", [NumpyCache, FaissCache])
def test_it_asks_once_for_all_items(
    backend: Any, wrapper_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real: Callable[..., Any] = backend.get_vectors

    def get_vectors(self: Any, items: Any) -> Any:
        asked.append(len(items))
        return real(self, items)

    monkeypatch.setattr(backend, "get_vectors", get_vectors)
    monkeypatch.setattr(backend, "get_vector", lambda self, item: pytest.fail("asked for one item"))
    for _ in range(2):
        wrapper = wrapper_class(Model(), tmp_path, cache_backend=backend)
        encode(wrapper, loader(TEXTS))
        wrapper.close()
    assert asked == [4, 4]


@pytest.mark.parametrize("backend", [NumpyCache, FaissCache])
@pytest.mark.parametrize(
    ("model", "arguments"),
    [(Model("another"), {}), (Model("toy"), {"normalize_embeddings": True})],
    ids=["another model", "another argument"],
)
def test_the_vectors_of_one_model_are_never_served_to_another(
    model: Model, arguments: dict[str, Any], backend: Any, wrapper_class: Any, tmp_path: Path
) -> None:
    encode(wrapper_class(Model(), tmp_path, cache_backend=backend), loader(TEXTS), PromptType.query)
    other = wrapper_class(model, tmp_path, cache_backend=backend)
    with pytest.raises(IdentityMismatchError, match=r"expected (model|arguments)"):
        encode(other, loader(TEXTS), PromptType.query, **arguments)
    assert model.given == []


def test_items_are_prepared_once(wrapper_class: Any, tmp_path: Path) -> None:
    # Prepared again, a document with a title would have it twice.
    model = Model()
    titled = loader(["t body"], id=["1"], title=["t"], body=["body"])
    encode(wrapper_class(model, tmp_path, cache_backend=NumpyCache), titled, PromptType.document)
    assert model.given == ["t body"]
    unpatched = Model()
    titled = loader(["t body"], id=["1"], title=["t"], body=["body"])
    wrapper = cache_wrapper.CachedEmbeddingWrapper(unpatched, tmp_path / "old", cache_backend=NumpyCache)
    encode(wrapper, titled, PromptType.document)
    assert unpatched.given == ["t t body"], "mteb prepares once now: docs/upstream.md is out of date"


def test_a_duplicate_moves_no_vector_of_the_patched_faiss_cache(tmp_path: Path) -> None:
    items = [{"text": "a"}, {"text": "a"}, {"text": "b"}, {"text": "c"}]
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    served = []
    for name, module in (("old", faiss_cache), ("new", patched(faiss_cache, NUMBER_BY_ROWS))):
        cache = module.FaissCache(tmp_path / name)
        cache.add(items, vectors)
        served.append(cache.get_vector({"text": "b"}).tolist())
    assert served[1] == [4, 5]
    assert served[0] != [4, 5], "mteb numbers by rows now: docs/upstream.md is out of date"


class OutputModel(Model):
    """Returns what no cache of mteb can hold."""

    def __init__(self, make: Callable[[np.ndarray], Any]) -> None:
        super().__init__()
        self.make = make

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        return self.make(super().encode(inputs))


OTHER_OUTPUT: dict[str, Callable[[np.ndarray], Any]] = {
    "one matrix for an item": lambda rows: np.repeat(rows[:, None], 3, axis=1),
    "padded tensors": lambda rows: torch.from_numpy(rows)[:, None].repeat(1, 3, 1),
    "sparse tensors": lambda rows: torch.from_numpy(rows).to_sparse(),
    "SciPy's sparse rows": scipy.sparse.csr_array,
}


@pytest.mark.parametrize("make", OTHER_OUTPUT.values(), ids=list(OTHER_OUTPUT))
def test_output_that_is_not_dense_is_returned_as_it_is(
    make: Callable[[np.ndarray], Any], wrapper_class: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = OutputModel(make).encode(loader(TEXTS))
    wrapper = wrapper_class(OutputModel(make), tmp_path, cache_backend=NumpyCache)
    for _ in range(2):
        found = encode(wrapper, loader(TEXTS))
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        dense = [rows.todense() if scipy.sparse.issparse(rows) else rows for rows in (found, expected)]
        dense = [rows.to_dense().numpy() if torch.is_tensor(rows) else rows for rows in dense]
        assert np.array_equal(*dense)
    assert "not cached" in caplog.text


@pytest.mark.parametrize("name", ["one matrix for an item", "sparse tensors"])
def test_mteb_itself_fails_at_such_output(name: str, tmp_path: Path) -> None:
    model = OutputModel(OTHER_OUTPUT[name])
    wrapper = cache_wrapper.CachedEmbeddingWrapper(model, tmp_path)
    with pytest.raises((TypeError, ValueError)):  # Else docs/upstream.md is out of date.
        encode(wrapper, loader(TEXTS))


def test_a_corpus_that_is_prepared_in_batches_is_the_same() -> None:
    batched = patched(create_dataloaders, OF_A_BATCH, BATCH_BY_BATCH)
    columns = {
        "id": ["1", "2", "3"],
        "text": [" a ", "b", ""],
        "title": ["", " t", "u "],
        "language": list("xyz"),
    }
    for left_out in ((), ("title",), ("language",)):
        given = {name: column for name, column in columns.items() if name not in left_out}
        corpus = datasets.Dataset.from_dict(given)
        one_by_one, by_batch = (
            module._prepare_dataset(corpus, MockRetrievalTask.metadata, PromptType.document)
            for module in (create_dataloaders, batched)
        )
        assert by_batch.features == one_by_one.features
        assert by_batch[:] == one_by_one[:]


class TestBackends:
    @pytest.fixture(params=[NumpyCache, FaissCache])
    def backend(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def test_many_vectors_are_those_of_each_item(self, backend: Any, tmp_path: Path) -> None:
        cache = backend(tmp_path)
        vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
        cache.add(["a", {"text": "b"}, {"text": "c", "title": "t"}], vectors)
        items = [{"text": "c", "title": "t"}, "x", "a", {"text": "b"}, "a"]
        found, held = cache.get_vectors(items)
        assert found.tolist() == [True, False, True, True, True]
        assert np.array_equal(held[found], vectors[[2, 0, 1, 0]])
        held[~found] = 7  # The array is the caller's own.
        assert cache.get_vector("a").tolist() == [0, 1]

    def test_half_precision_comes_back_as_it_was_added(self, backend: Any, tmp_path: Path) -> None:
        cache = backend(tmp_path)
        cache.add(["a"], torch.ones((1, 2), dtype=torch.float16))
        found, held = cache.get_vectors(["a"])
        assert found.all()
        assert held.dtype == np.float16

    def test_an_empty_cache_has_no_dimension_to_answer_with(self, backend: Any, tmp_path: Path) -> None:
        found, held = backend(tmp_path).get_vectors(["a", "b"])
        assert found.tolist() == [False, False]
        assert held is None

    def test_an_identity_is_kept_and_another_refused(self, backend: Any, tmp_path: Path) -> None:
        identity = {"model": {"name": "toy", "revision": "1"}, "role": "query"}
        cache = backend(tmp_path)
        cache.identify(identity)
        cache.add(["a"], np.ones((1, 2), np.float32))
        for again in (cache, pickle.loads(pickle.dumps(cache)), cache.load()):
            assert again.get_vectors(["a"])[0].all()
            again.add(["b"], np.ones((1, 2), np.float32))
        cache.close()
        assert "b" in cache.load()
        assert EmbeddingCache(tmp_path, mode="r").identity == identity
        other = backend(tmp_path)
        with pytest.raises(IdentityMismatchError, match='expected role "document", found role "query"'):
            other.identify({**identity, "role": "document"})
        assert "a" in other  # As it was before: reading is allowed.
        other.identify(identity)
        other.add(["c"], np.ones((1, 2), np.float32))

    def test_vectors_of_nobody_are_not_taken_for_a_models(self, backend: Any, tmp_path: Path) -> None:
        cache = backend(tmp_path)
        cache.add(["a"], np.ones((1, 2), np.float32))
        with pytest.raises(IdentityMismatchError):
            cache.identify({"model": {"name": "toy", "revision": "1"}})
        cache.add(["b"], np.ones((1, 2), np.float32))

    def test_a_directory_that_another_model_fills_meanwhile_is_refused(
        self, backend: Any, tmp_path: Path
    ) -> None:
        cache = backend(tmp_path)
        cache.identify({"model": {"name": "toy", "revision": "1"}})
        cache.close()
        other = backend(tmp_path)
        other.identify({"model": {"name": "another", "revision": "1"}})
        other.add(["a"], np.ones((1, 2), np.float32))
        with pytest.raises(IdentityMismatchError, match="another"):
            cache.load()
