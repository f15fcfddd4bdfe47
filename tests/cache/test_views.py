"""Data sets and tables have the vectors of their texts, bit for bit, and copy nothing that need not be."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from comparing import bits_equal, flip_bit
from torch.utils.data import DataLoader, StackDataset

from dejavec import EmbeddingCache
from dejavec.errors import ItemError, MissingPackageError, MissingVectorsError

TEXTS = [f"text {number}" for number in range(100)]
VECTORS = np.random.default_rng(0).standard_normal((100, 5)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    with EmbeddingCache(tmp_path / "cache", model="m@1") as cache:
        cache.put(TEXTS[50:], VECTORS[50:])
        cache.put(TEXTS[:50], VECTORS[:50])
        yield cache


@pytest.mark.slow
@pytest.mark.parametrize("start", ["in this process", "fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_loader_read_the_vectors_of_their_texts(cache: EmbeddingCache, start: str) -> None:
    workers: dict[str, Any] = (
        {}
        if start == "in this process"
        else {
            "num_workers": 2,
            "multiprocessing_context": start,
        }
    )
    texts = [*TEXTS[::-1], TEXTS[3]]
    loader = DataLoader(cache.as_dataset(texts), batch_size=16, **workers)  # type: ignore[arg-type]
    batches = list(loader)
    assert [len(batch) for batch in batches] == [16] * 6 + [5]
    assert bits_equal(torch.cat(batches).numpy(), np.concatenate([VECTORS[::-1], VECTORS[3:4]]))


def test_a_data_set_pickles_and_stands_beside_labels(cache: EmbeddingCache) -> None:
    dataset = pickle.loads(pickle.dumps(cache.as_dataset(pa.array(TEXTS))))
    assert bits_equal(dataset[7], VECTORS[7])
    assert bits_equal(dataset[-1], VECTORS[99])
    with pytest.raises(IndexError):
        dataset[100]
    both = StackDataset(dataset, range(100))
    vectors, labels = next(iter(DataLoader(both, batch_size=10)))
    assert bits_equal(vectors.numpy(), VECTORS[:10])
    assert labels.tolist() == list(range(10))


def test_a_data_set_has_the_array_kind_of_the_cache(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "half") as half:
        half.put(TEXTS, torch.from_numpy(VECTORS).to(torch.bfloat16))
        (batch,) = DataLoader(half.as_dataset(TEXTS), batch_size=100)  # type: ignore[arg-type]
        assert batch.dtype == torch.bfloat16
    with EmbeddingCache(tmp_path / "tokens") as tokens:
        tokens.put(TEXTS[:3], [VECTORS[:2], VECTORS[:1], VECTORS[:4]])
        loader = DataLoader(tokens.as_dataset(TEXTS[:3]), batch_size=3, collate_fn=list)  # type: ignore[arg-type]
        assert [len(item) for item in next(iter(loader))] == [2, 1, 4]


def test_a_text_without_a_vector_is_named(cache: EmbeddingCache) -> None:
    with pytest.raises(MissingVectorsError, match="found 2 that are not, the first at position 1; encode"):
        cache.as_dataset([TEXTS[0], "no", TEXTS[1], "none"])
    dataset = cache.as_dataset(TEXTS)
    flip_bit(cache.path / "vectors.npy", 128 + 3 * 20)
    with pytest.raises(MissingVectorsError, match="found 1 that are not, the first at position 53"):
        dataset.__getitems__([1, 53, 54])


def test_a_table_has_the_corpus_in_its_order_and_nulls(cache: EmbeddingCache) -> None:
    corpus = [*TEXTS[::-1], "not cached", TEXTS[3]]
    for texts in (corpus, pa.array(corpus), pa.chunked_array([corpus]), pd.Series(corpus)):
        table = cache.to_arrow(texts)
        table.validate(full=True)
        assert table.column_names == ["text", "vector"]
        assert table["text"].to_pylist() == corpus
        assert table["vector"].is_null().to_pylist() == [text == "not cached" for text in corpus]
        found = table["vector"].drop_null().combine_chunks().flatten().to_numpy().reshape(-1, 5)
        assert bits_equal(found, np.concatenate([VECTORS[::-1], VECTORS[3:4]]))
    frame = cache.to_pandas(corpus)
    assert frame["text"].tolist() == corpus
    assert frame["vector"][100] is None
    assert bits_equal(np.stack(frame["vector"].drop(100)), np.concatenate([VECTORS[::-1], VECTORS[3:4]]))


def test_rows_in_the_order_of_storage_are_not_copied(tmp_path: Path) -> None:
    many = np.random.default_rng(0).standard_normal((3_000, 128)).astype(np.float32)
    texts = [f"text {number}" for number in range(3_000)]
    with EmbeddingCache(tmp_path) as cache:
        cache.put(texts, many)
        for given in (texts, None):
            before = pa.total_allocated_bytes()
            column = cache.to_arrow(given)["vector"]
            assert pa.total_allocated_bytes() - before < many.nbytes / 10
            memory = column.chunk(0).flatten().to_numpy()
            assert bits_equal(memory.reshape(-1, 128), many)
            maps = Path("/proc/self/maps")
            if maps.exists():
                address = memory.__array_interface__["data"][0]
                assert any(
                    int(start, 16) <= address < int(end, 16)
                    for line in maps.read_text().splitlines()
                    if line.endswith("vectors.npy")
                    for start, end in [line.split()[0].split("-")]
                )


def test_a_whole_cache_is_a_table_of_what_counts(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        assert cache.to_arrow().num_rows == 0
        assert cache.to_arrow(["a"])["vector"].to_pylist() == [None]
        cache.put(TEXTS, VECTORS)
        cache.put(TEXTS[:1], VECTORS[5:6])
        table = cache.to_arrow()
        assert table["text"].to_pylist() == [*TEXTS[1:], TEXTS[0]]
        assert bits_equal(table["vector"].combine_chunks().flatten().to_numpy()[-5:], VECTORS[5])


def test_a_damaged_vector_is_null(cache: EmbeddingCache) -> None:
    flip_bit(cache.path / "vectors.npy", 128 + 3 * 20)
    for table in (
        cache.to_arrow(),
        cache.to_arrow([*TEXTS[50:], *TEXTS[:50]]),
        cache.to_arrow(TEXTS[53:50:-1]),
    ):
        nulls = table["vector"].is_null().to_pylist()
        assert nulls.count(True) == 1
        assert table["text"][nulls.index(True)].as_py() in (None, "text 53")


def test_ragged_and_sparse_rows_are_lists(tmp_path: Path) -> None:
    items = [VECTORS[:2], VECTORS[:0], VECTORS[2:5]]
    with EmbeddingCache(tmp_path / "ragged") as cache:
        cache.put(TEXTS[:3], items)
        table = cache.to_arrow([*TEXTS[:3], "no"])
        table.validate(full=True)
        assert table["vector"].to_pylist() == [*(item.tolist() for item in items), None]
    dense = np.array([[1, 0, 2], [0, 0, 0]], np.float32)
    with EmbeddingCache(tmp_path / "sparse") as cache:
        cache.put(TEXTS[:2], scipy.sparse.csr_array(dense))
        table = cache.to_arrow([*TEXTS[:2], "no"])
        assert table["indices"].to_pylist() == [[0, 2], [], None]
        assert table["values"].to_pylist() == [[1.0, 2.0], [], None]


def test_what_is_missing_is_said_in_one_sentence(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ItemError, match="the texts: expected Unicode, as Arrow has it"):
        cache.to_arrow(["half \ud83d"])
    found = builtins.__import__
    for missing in ("pandas", "pyarrow"):

        def without(name: str, *rest: Any, missing: str = missing) -> Any:
            if name == missing:
                raise ImportError(f"No module named {missing!r}")
            return found(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(MissingPackageError, match=f"expected the package {missing}, .*; pip install"):
            cache.to_pandas(TEXTS)
