"""The cache as mteb's backend, and as the TextVectorMap of mteb 1.x."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import torch
from comparing import files_below
from mteb.models.cache_wrappers import CachedEmbeddingWrapper
from mteb.models.cache_wrappers.cache_backend_protocol import CacheBackendProtocol as MtebProtocol
from torch.utils.data import DataLoader

import dejavec
from dejavec import CacheBackendProtocol, EmbeddingCache, NumpyCache, TextVectorMap

pytestmark = pytest.mark.usefixtures("container")

VECTORS = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A directory in which three texts lie."""
    vector_map = TextVectorMap(tmp_path / "Task")
    vector_map.add(["a", {"text": "b", "id": "7"}, {"text": "c", "title": "t"}], VECTORS)
    vector_map.save()
    vector_map.close()
    return tmp_path / "Task"


def test_it_is_what_mteb_asks_of_a_backend(tmp_path: Path) -> None:
    backend = NumpyCache(tmp_path, initial_vectors=10)
    assert isinstance(backend, MtebProtocol)
    assert isinstance(backend, CacheBackendProtocol)


def test_one_class_has_both_names() -> None:
    assert NumpyCache is TextVectorMap


def test_a_map_is_loaded_and_its_vectors_read_without_zero_rows(task: Path) -> None:
    vector_map = TextVectorMap(task)
    vector_map.load(name="Task")
    vectors = np.asarray(vector_map.vectors)
    zero_mask = (vectors == 0).all(axis=1)
    assert np.array_equal(vectors[~zero_mask], VECTORS)
    assert vector_map.vector_dim == 4
    assert np.array_equal(TextVectorMap(task).load(name="Task").vectors, VECTORS)


@pytest.mark.npy_only
def test_the_file_is_a_plain_npy_of_the_right_shape(task: Path) -> None:
    mapped = np.load(task / "vectors.npy", mmap_mode="r")
    assert mapped.shape == (3, 4)
    assert np.array_equal(mapped, VECTORS)


def same(found: np.ndarray | None, expected: np.ndarray) -> bool:
    return found is not None and np.array_equal(found, expected)


def test_items_are_strings_or_dicts(task: Path) -> None:
    vector_map = TextVectorMap(task)
    assert "a" in vector_map
    assert {"text": "a"} in vector_map
    assert "c" not in vector_map
    assert {"text": "c", "title": "t"} in vector_map
    assert same(vector_map.get_vector({"text": "b"}), VECTORS[1])
    assert same(vector_map.get_vector({"text": "c", "title": "t", "label": 1}), VECTORS[2])
    assert vector_map.get_vector("unknown") is None


def test_the_hash_of_a_text_leads_to_its_row(task: Path) -> None:
    vector_map = TextVectorMap(task)
    assert sorted(vector_map.hash_to_index.values()) == [0, 1, 2]
    assert vector_map.hash_to_index[hashlib.sha256(b"b").hexdigest()] == 1
    vector_map.add("b", VECTORS[0])
    assert vector_map.hash_to_index[hashlib.sha256(b"b").hexdigest()] == 3


@pytest.mark.parametrize(
    "vector",
    [
        VECTORS[0],
        VECTORS[:1],
        pytest.param(VECTORS[0].tolist(), marks=pytest.mark.npy_only),  # float64
        torch.from_numpy(VECTORS[0]),
        torch.from_numpy(VECTORS[:1]),
    ],
)
def test_one_vector_is_added_flat_or_as_a_row(tmp_path: Path, vector: Any) -> None:
    forms: list[Any] = ["a", {"text": "b"}, ["c"]]
    for number, items in enumerate(forms):
        vector_map = TextVectorMap(tmp_path / str(number))
        vector_map.add(items, vector)
        item = items[0] if isinstance(items, list) else items
        assert same(vector_map.get_vector(item), VECTORS[0])


def test_items_without_vectors_are_refused(tmp_path: Path) -> None:
    vector_map = TextVectorMap(tmp_path)
    with pytest.raises(dejavec.errors.VectorsError, match="expected 2 rows, found 3"):
        vector_map.add(["a", "b"], VECTORS)
    with pytest.raises(dejavec.errors.ItemError, match="image"):
        vector_map.add([{"text": "a", "image": object()}], VECTORS[:1])


def test_an_empty_map_has_no_vectors(tmp_path: Path) -> None:
    vector_map = TextVectorMap(tmp_path / "Task").load()
    assert np.asarray(vector_map.vectors).shape == (0, 0)
    assert vector_map.vector_dim is None
    assert vector_map.hash_to_index == {}
    assert "a" not in vector_map
    assert vector_map.get_vector("a") is None
    vector_map.save()


def test_a_closed_map_can_be_loaded_again(task: Path) -> None:
    vector_map = TextVectorMap(task)
    vector_map.close()
    vector_map.close()
    assert "a" in vector_map.load()


def test_vectors_that_lie_in_query_and_document_below_are_named(tmp_path: Path) -> None:
    for role in ("query", "document"):
        TextVectorMap(tmp_path / "Task" / role).add("a", VECTORS[0])
    above = TextVectorMap(tmp_path / "Task")
    for read in (above.load, lambda: above.vectors, lambda: above.hash_to_index):
        with pytest.raises(dejavec.errors.CacheNotFoundError, match=r"Task/query and .*Task/document below"):
            read()
    above.add("b", VECTORS[1])
    assert above.load().vectors.shape == (1, 4)


def test_a_named_models_cache_is_read_but_never_added_to(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, model="toy@1").put(["a"], VECTORS[:1])
    vector_map = TextVectorMap(tmp_path)
    assert same(vector_map.get_vector("a"), VECTORS[0])
    with pytest.raises(dejavec.errors.IdentityMismatchError, match=r"no named model.*toy"):
        vector_map.add("b", VECTORS[0])


@pytest.mark.parametrize("name", [None, "Task"])
def test_a_named_models_vectors_are_read_by_item_and_never_added_to(name: str | None, tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, model="toy@1").put(["a"], VECTORS[:1])
    before = files_below(tmp_path)
    vector_map = TextVectorMap(tmp_path).load(name=name)
    assert np.array_equal(vector_map.vectors, VECTORS[:1])
    assert "a" in vector_map
    assert same(vector_map.get_vector({"text": "a"}), VECTORS[0])
    assert {"text": "b"} not in vector_map
    for add in ("a", {"text": "b"}):
        with pytest.raises(dejavec.errors.IdentityMismatchError, match=r"no named model.*toy"):
            vector_map.add(add, VECTORS[0])
    assert files_below(tmp_path) == before


def test_a_map_is_never_taken_for_a_named_models_cache(task: Path) -> None:
    with pytest.raises(dejavec.errors.IdentityMismatchError):
        EmbeddingCache(task, model="toy@1")


def test_mteb_itself_runs_on_it_and_encodes_nothing_twice(tmp_path: Path) -> None:
    texts = ["a", "b", "c", "a"]
    encoded: list[str] = []

    class Model:
        mteb_model_meta = None

        def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
            batch = [text for part in inputs for text in part["text"]]
            encoded.extend(batch)
            return np.array([[ord(text), 1] for text in batch], np.float32)

    (task,) = mteb.get_tasks(["STS12"])
    for run in range(2):
        wrapper = CachedEmbeddingWrapper(Model(), tmp_path, cache_backend=NumpyCache)
        loader = DataLoader(datasets.Dataset.from_dict({"text": texts}), batch_size=2)
        vectors = wrapper.encode(loader, task_metadata=task.metadata, hf_split="test", hf_subset="default")
        wrapper.close()
        assert vectors[:, 0].tolist() == [ord(text) for text in texts]
        assert encoded == texts, run
    assert TextVectorMap(tmp_path / "STS12").load(name="STS12").vectors.shape == (3, 2)


def test_an_old_mteb_cache_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "dimension").write_text("4")
    with pytest.raises(dejavec.errors.ForeignDirectoryError, match="dejavec import"):
        TextVectorMap(tmp_path)
