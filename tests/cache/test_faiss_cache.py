"""vectors.faiss is at every moment what FAISS itself would have written, or what FAISS refuses to read."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import faiss
import mteb
import numpy as np
import pytest
import torch
from comparing import bits_equal, flip_bit
from hypothesis import given, settings
from hypothesis import strategies as st
from mteb.mocks import mock_tasks
from mteb_models import FieldsModel, evaluate

import dejavec
from dejavec import CachedEmbeddingWrapper, EmbeddingCache, FaissCache, NumpyCache

HEADER = 45
METRICS = {"l2": faiss.IndexFlatL2, "ip": faiss.IndexFlatIP}


def written_by_faiss(rows: np.ndarray, metric: str) -> bytes:
    index = METRICS[metric](rows.shape[1])
    index.add(np.ascontiguousarray(rows))
    with tempfile.NamedTemporaryFile() as file:
        faiss.write_index(index, file.name)
        return Path(file.name).read_bytes()


adds = st.tuples(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 3))


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(adds | st.sampled_from(["save", "reopen"]), min_size=1, max_size=8),
    metric=st.sampled_from(["l2", "ip"]),
    dim=st.sampled_from([1, 3, 8]),
)
def test_the_file_is_byte_for_byte_what_faiss_writes_of_the_same_rows(
    steps: list[Any], metric: Any, dim: int
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        cache = FaissCache(directory, metric=metric)
        for step in steps:
            if step == "save":
                cache.save()
            elif step == "reopen":
                cache.close()
                cache = FaissCache(directory, metric=metric)
            else:
                items, version = step
                vectors = np.array([[item + version / 8] * dim for item in items], np.float32)
                cache.add([str(item) for item in items], vectors)
        cache.save()
        rows = np.array(cache.vectors)
        cache.close()
        path = Path(directory) / "vectors.faiss"
        if rows.size:
            whole = written_by_faiss(rows, metric)
            assert path.read_bytes()[: len(whole)] == whole
            assert len(whole) == HEADER + rows.size * 4
        else:
            assert not path.exists()


READER = """
import sys
import faiss
path, flags, refused, seen = sys.argv[1], [0, faiss.IO_FLAG_MMAP_IFC], 0, 0
print("ready", flush=True)
while True:
    for flag in flags:
        try:
            index = faiss.read_index(path, flag)
        except RuntimeError:
            refused += 1
            continue
        assert index.ntotal >= seen and index.ntotal % 50 == 0, (index.ntotal, seen)
        seen = index.ntotal
        for row in range(0, seen, 7):
            assert index.reconstruct(row).tolist() == [row] * 16, row
    if seen == 50 * 200:
        print(refused)
        break
"""


def test_another_process_reads_a_committed_index_or_faisss_own_error_while_rows_are_added(
    tmp_path: Path,
) -> None:
    cache = EmbeddingCache(tmp_path, container="faiss-l2")

    def add(group: int) -> None:
        rows = np.arange(group * 50, (group + 1) * 50)
        cache.put([str(row) for row in rows], np.repeat(rows[:, None], 16, axis=1).astype(np.float32))

    add(0)
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "vectors.faiss")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for group in range(1, 200):
        add(group)
    _, errors = reader.communicate(timeout=120)
    assert reader.returncode == 0, errors


def bytes_written() -> int:
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar"))
    return int(line.split()[1])


def test_adding_rows_writes_those_rows_whatever_is_there_already(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, container="faiss-l2")
    cache.put([f"first {row}" for row in range(20_000)], np.ones((20_000, 64), np.float32))
    before = bytes_written()
    cache.put([f"then {row}" for row in range(100)], np.ones((100, 64), np.float32))
    assert bytes_written() - before < 2 * 100 * (64 * 4 + 40)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int16", "bool"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_what_float32_holds_exactly_comes_back_in_its_own_dtype(
    dtype: str, library: str, tmp_path: Path
) -> None:
    if library == "numpy" and dtype == "bfloat16":
        vectors: Any = np.ones((3, 4), np.float32)
    elif library == "numpy":
        vectors = (np.arange(12).reshape(3, 4) % 2 / (4 if dtype == "float16" else 1)).astype(dtype)
    else:
        vectors = (torch.arange(12).reshape(3, 4) % 2).to(getattr(torch, dtype))
    texts = ["a", "b", "c"]
    for _ in range(2):
        with EmbeddingCache(tmp_path / "cache", container="faiss-l2") as cache:
            assert bits_equal(cache.encode(texts, lambda _: vectors), vectors)
    backend = FaissCache(tmp_path / "backend")
    backend.add(texts, vectors)
    expected = vectors.float().numpy() if dtype == "bfloat16" and library == "torch" else np.asarray(vectors)
    assert bits_equal(backend.get_vector("b"), expected[1])
    assert faiss.read_index(str(tmp_path / "cache" / "vectors.faiss")).ntotal == 3


def test_float64_is_refused_with_what_would_be_lost_unless_float32_is_asked_for(tmp_path: Path) -> None:
    vectors = np.full((1, 2), 0.1)
    with pytest.raises(
        dejavec.errors.VectorsError, match="found float64, of which it would lose half of its digits"
    ):
        FaissCache(tmp_path / "refused").add(["a"], vectors)
    assert not (tmp_path / "refused").exists()
    rounded = FaissCache(tmp_path / "rounded", dtype="float32")
    rounded.add(["a"], vectors)
    found = rounded.get_vector("a")
    assert found is not None
    assert found.tolist() == vectors[0].astype(np.float32).tolist()


class WideModel(FieldsModel):
    """Returns float64, which float32 does not hold."""

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        return np.asarray(super().encode(inputs, **arguments)).astype(np.float64) / 3


def test_in_mteb_what_float32_does_not_hold_passes_through_with_one_warning(tmp_path: Path) -> None:
    uncached = evaluate(WideModel(), mock_tasks.MockSTSTask())
    with (
        CachedEmbeddingWrapper(WideModel(), tmp_path, FaissCache) as wrapper,
        pytest.warns(dejavec.DejavecWarning, match="keeps float32, which does not hold float64") as caught,
    ):
        assert evaluate(wrapper, mock_tasks.MockSTSTask()) == uncached
    assert len(caught) == 1
    assert not list(tmp_path.rglob("vectors.faiss"))


def test_another_backend_on_the_same_path_serves_no_vector_that_is_not_the_models(tmp_path: Path) -> None:
    uncached = evaluate(FieldsModel(), mock_tasks.MockSTSTask())
    for backend, fills in ((NumpyCache, True), (FaissCache, True), (NumpyCache, False), (FaissCache, False)):
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend, on_mismatch="sibling") as wrapper:
            if backend is FaissCache:
                with pytest.warns(dejavec.DejavecWarning, match="these vectors go to"):
                    assert evaluate(wrapper, mock_tasks.MockSTSTask()) == uncached
            else:
                assert evaluate(wrapper, mock_tasks.MockSTSTask()) == uncached
            assert (wrapper.totals.misses > 0) == fills
    assert len(list(tmp_path.rglob("vectors.npy"))) == len(list(tmp_path.rglob("vectors.faiss"))) == 1


def test_mteb_s_own_wrapper_scores_the_same_with_it(tmp_path: Path) -> None:
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper as MtebWrapper

    model = mteb.get_model("mteb/baseline-random-encoder")
    uncached = evaluate(model, mock_tasks.MockSTSTask())
    for _ in range(2):
        wrapper = MtebWrapper(model, tmp_path, FaissCache)
        assert evaluate(wrapper, mock_tasks.MockSTSTask()) == uncached
        wrapper.close()
    (path,) = tmp_path.rglob("vectors.faiss")
    assert faiss.read_index(str(path)).ntotal > 0


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_every_float16_comes_back_from_rows_of_float32_bit_for_bit(tmp_path: Path, library: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    vectors = every[np.isfinite(every)].reshape(-1, 31)
    texts = [f"text {i}" for i in range(len(vectors))]
    held: Any = torch.from_numpy(vectors) if library == "torch" else vectors
    with EmbeddingCache(tmp_path, model="m@1", container="faiss-ip") as cache:
        cold = cache.encode(texts, lambda some: held[[int(text[5:]) for text in some]])
        order = np.random.default_rng(0).permutation(len(texts))
        warm = cache.encode([texts[i] for i in order], refuse)
        found, got = cache.get([texts[7], "another", texts[8]])
    for vectors_read, expected in ((cold, held), (warm, held[order])):
        assert vectors_read.dtype == expected.dtype
        assert bits(vectors_read) == bits(expected)
    assert found.tolist() == [True, False, True]
    assert bits(got[[0, 2]]) == bits(held[[7, 8]])


def test_a_damaged_row_of_float32_is_encoded_again_for_float16(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float16).reshape(3, 4)
    with EmbeddingCache(tmp_path, model="m@1", container="faiss-l2") as cache:
        cache.put(["a", "b", "c"], vectors)
        flip_bit(tmp_path / "vectors.faiss", 45 + 16)
        asked: list[str] = []

        def again(some: list[str]) -> np.ndarray:
            asked.extend(some)
            return vectors[1:2]

        assert bits(cache.encode(["a", "b", "c"], again)) == bits(vectors)
    assert asked == ["b"]


def bits(vectors: Any) -> bytes:
    return bytes(np.asarray(vectors).tobytes())


def refuse(texts: list[str]) -> Any:
    raise AssertionError(f"encoded {texts}")
