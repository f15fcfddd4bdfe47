"""Multi-vector and sparse embeddings come back as the model returned them, to the bit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from scipy import sparse

from dejavec import DejavecWarning, EmbeddingCache
from dejavec.errors import IdentityMismatchError, NonFiniteVectorsError, VectorsError
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.ragged import Ragged, joined

Encode = Callable[[list[str]], Any]

DIM, COLUMNS = 3, 50
TEXTS = ["two", "", "one much longer text than all the others", "a", "two"]


def tokens(text: str) -> np.ndarray:
    """A vector for each letter; none for the empty text. No vector is zero."""
    rows = [[ord(letter), place, 1 / (place + 3)] for place, letter in enumerate(text)]
    return np.array(rows, np.float32).reshape(-1, DIM)


def weights(text: str) -> np.ndarray:
    row = np.zeros(COLUMNS, np.float32)
    for letter in text:
        row[ord(letter) % COLUMNS] += 0.1
    return row


def items(dtype: str) -> Encode:
    return lambda texts: [tokens(text).astype(dtype) for text in texts]


def tensors(dtype: torch.dtype) -> Encode:
    return lambda texts: [torch.from_numpy(tokens(text)).to(dtype) for text in texts]


def padded(texts: list[str]) -> np.ndarray:
    found = [tokens(text) for text in texts]
    whole = np.zeros((len(found), max(map(len, found)), DIM), np.float32)
    for row, item in zip(whole, found, strict=True):
        row[: len(item)] = item
    return whole


def dense(texts: list[str]) -> np.ndarray:
    return np.stack([weights(text) for text in texts])


def coo(texts: list[str]) -> torch.Tensor:
    """As sentence-transformers makes it: rows one behind the other, not marked as coalesced."""
    rows = torch.from_numpy(dense(texts)).to_sparse()
    return torch.sparse_coo_tensor(rows.indices(), rows.values(), rows.shape)


def of_class(made: type[Any], texts: list[str]) -> Any:
    return made(dense(texts))


def unordered_csr(texts: list[str]) -> sparse.csr_array:
    rows = sparse.csr_array(dense(texts))
    data, indices = rows.data.copy(), rows.indices.copy()
    for start, end in zip(rows.indptr, rows.indptr[1:], strict=False):
        data[start:end], indices[start:end] = data[start:end][::-1], indices[start:end][::-1]
    return sparse.csr_array((data, indices, rows.indptr), shape=rows.shape)


FORMS: dict[str, Encode] = {
    **{f"items {dtype}": items(dtype) for dtype in ("float32", "float16", "float64", "int8")},
    **{f"tensors {dtype}": tensors(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)},
    "padded": padded,
    "padded tensor": lambda texts: torch.from_numpy(padded(texts)),
    "padded bfloat16": lambda texts: torch.from_numpy(padded(texts)).bfloat16(),
    "coo": coo,
    "coo coalesced": lambda texts: coo(texts).coalesce(),
    "coo bfloat16": lambda texts: coo(texts).bfloat16(),
    "list of coo": lambda texts: list(coo(texts)),
    "torch csr": lambda texts: torch.from_numpy(dense(texts)).to_sparse_csr(),
    **{
        made.__name__: partial(of_class, made)
        for made in (
            sparse.csr_array,
            sparse.csr_matrix,
            sparse.csc_array,
            sparse.coo_array,
            sparse.coo_matrix,
            sparse.lil_matrix,
            sparse.dok_array,
        )
    },
    "csr in no order": unordered_csr,
}


def parts(vectors: Any) -> list[Any]:
    """What of vectors has to be equal: kind, shape, dtypes and every byte."""
    if isinstance(vectors, list):
        return ["list", *(parts(item) for item in vectors)]
    if isinstance(vectors, torch.Tensor):
        head: list[Any] = [vectors.layout, vectors.dtype, tuple(vectors.shape), str(vectors.device)]
        if vectors.layout is torch.sparse_coo:
            return [*head, vectors.is_coalesced(), parts(vectors._indices()), parts(vectors._values())]
        if vectors.layout is torch.sparse_csr:
            inner = (vectors.crow_indices(), vectors.col_indices(), vectors.values())
            return [*head, *map(parts, inner)]
        return [*head, vectors.contiguous().view(torch.uint8).numpy().tobytes() if vectors.numel() else b""]
    if sparse.issparse(vectors):
        csr = vectors.tocsr()
        inner = (csr.indptr, csr.indices, csr.data)
        return [type(vectors), vectors.dtype, vectors.shape, *(part.tobytes() for part in inner)]
    return [type(vectors), vectors.dtype, vectors.shape, vectors.tobytes()]


def never(texts: list[str]) -> Any:
    raise AssertionError(f"the model was asked for {texts}")


@pytest.mark.parametrize("form", FORMS)
def test_cold_warm_and_half_warm_equal_uncached(form: str, tmp_path: Path) -> None:
    encode = FORMS[form]
    uncached = parts(encode(TEXTS))
    with EmbeddingCache(tmp_path / "whole", model="m@1") as cache:
        assert parts(cache.encode(TEXTS, encode)) == uncached
        assert parts(cache.encode(TEXTS, never)) == uncached
        assert parts(cache.encode(TEXTS[::-1], never)) == parts(encode(TEXTS[::-1]))
    with EmbeddingCache(tmp_path / "half", model="m@1", chunk_rows=2) as cache:
        cache.encode(TEXTS[::2], encode)
        assert parts(cache.encode(TEXTS, encode)) == uncached
    with EmbeddingCache(tmp_path / "half", model="m@1", mode="r") as cache:
        assert parts(cache.encode(TEXTS, never)) == uncached
        assert cache.container == ("sparse" if "co" in form or "cs" in form or "_" in form else "ragged")


@pytest.mark.parametrize("form", ["items float32", "tensors torch.bfloat16", "padded", "coo", "csr_array"])
def test_put_and_get_are_as_encode(form: str, tmp_path: Path) -> None:
    encode = FORMS[form]
    with EmbeddingCache(tmp_path) as cache:
        assert cache.put(TEXTS[:3], encode(TEXTS[:3])) == 3
        assert cache.put(TEXTS[:3], encode(TEXTS[:3])) == 0
        found, vectors = cache.get([*TEXTS[:3], "another"])
        assert found.tolist() == [True, True, True, False]
        first = vectors[:3] if isinstance(vectors, list | np.ndarray) else None
        if first is not None:
            assert parts(first) == parts(encode(TEXTS[:3]))
        plan = cache.plan(TEXTS)
        assert (plan.hits, plan.misses, plan.duplicates) == (4, 1, 0)
        assert plan.bytes > 0


def test_nested_lists_come_back_as_nested_lists(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> list[list[list[float]]]:
        return [[[0.1, len(text)], [float(len(text)), 2]] for text in texts]

    with EmbeddingCache(tmp_path, model="m@1") as cache:
        for _ in range(2):
            assert cache.encode(["a", "bb"], encode) == encode(["a", "bb"])


def test_the_first_call_may_have_no_items_and_the_first_item_no_tokens(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        assert len(cache.encode([], items("float32"))) == 0
        (empty,) = cache.encode([""], items("float32"))
        assert empty.shape == (0, DIM)
        assert [len(item) for item in cache.encode(["", "ab"], items("float32"))] == [0, 2]
        assert cache.encode([], never) == []


def test_a_cache_of_items_without_tokens_is_sound_for_every_reader(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(["", "nothing"], [np.zeros((0, DIM), np.float32)] * 2)
        assert cache.verify()["damaged"] == []
    with EmbeddingCache(tmp_path, mode="r") as cache:
        found, items = cache.get(["nothing", "absent", ""])
        assert found.tolist() == [True, False, True]
        assert [len(item) for item in items] == [0, 0, 0]


def test_contiguous_rows_are_views_of_one_mapping_that_the_caller_may_change(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(1000)]
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        cache.encode(texts, items("float32"))
        found = cache.encode(texts, never)
        assert len({id(item.base) for item in found}) == 1
        found[7][:] = 0
        assert parts(cache.encode(texts, never)) == parts(items("float32")(texts))


def test_items_are_stored_where_they_lie_without_a_copy() -> None:
    made = [*items("float32")(TEXTS), np.asfortranarray(tokens("abc")), tokens("long")[::2]]
    rows, _ = to_rows(made, len(made), "the model")
    assert isinstance(rows, Ragged)
    shared = [np.shares_memory(part, item) for part, item in zip(rows.parts, made, strict=True) if len(item)]
    # An array that is not C-contiguous has no bytes in order.
    assert shared == [True] * 4 + [False] * 2
    both = joined([rows.astype(np.float16), rows])
    wide = [item.astype(np.float16).astype(np.float32) for item in made]
    assert [row.tobytes() for row in both] == [item.tobytes() for item in [*wide, *made]]


def test_items_that_lie_apart_are_dropped_replaced_and_kept_one_by_one(tmp_path: Path) -> None:
    texts = [f"text {i}" * (i % 5) + str(i) for i in range(300)]
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        cache.encode(texts[::3], items("float32"))
        # A third is stored already, another has other vectors, and each comes twice.
        changed = {text: 2 * tokens(text) for text in texts[1::3]}
        now = [changed.get(text, tokens(text)) for text in texts]
        assert cache.put([*texts, *texts], [*now, *now]) == 200
        assert parts(cache.get(texts)[1]) == parts(now)
        assert cache.verify()["problems"] == []


def test_items_with_nan_are_returned_and_not_stored(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> list[np.ndarray]:
        return [tokens(text) * (np.nan if text == "bad" else 1) for text in texts]

    with EmbeddingCache(tmp_path, model="m@1") as cache:
        with pytest.warns(DejavecWarning, match="NaN"):
            found = cache.encode(["good", "bad", ""], encode)
        assert [np.isnan(item).any() for item in found] == [False, True, False]
        assert [len(item) for item in found] == [4, 3, 0]
        assert "good" in cache
        assert "bad" not in cache
    with (
        EmbeddingCache(tmp_path / "raise", on_nonfinite="raise") as cache,
        pytest.raises(NonFiniteVectorsError, match="position 1"),
    ):
        cache.put(["good", "bad"], encode(["good", "bad"]))


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("items float32", dense, "vectors of one row each"),
        ("items float32", coo, "sparse vectors"),
        ("coo", items("float32"), "multi-vector items"),
        ("items float32", items("float64"), "float64"),
        ("items float32", lambda texts: [np.ones((2, 4), np.float32) for _ in texts], "4"),
        ("items float32", lambda texts: [np.ones((2, DIM), np.float32) for _ in texts[1:]], "1"),
        ("coo", lambda texts: coo(texts).to_dense()[:, :5].to_sparse(), "5"),
    ],
)
def test_vectors_of_another_form_are_refused_and_nothing_is_lost(
    first: str, second: Encode, found: str, tmp_path: Path
) -> None:
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        before = parts(cache.encode(["a", "b"], FORMS[first]))
        with pytest.raises(VectorsError, match=rf"expected .*found .*{found}"):
            cache.encode(["c", "d"], second)
        assert parts(cache.encode(["a", "b"], never)) == before


def test_an_array_whose_width_is_not_that_of_its_longest_item_is_refused(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> np.ndarray:
        return np.pad(padded(texts), ((0, 0), (0, 2), (0, 0)))

    with (
        EmbeddingCache(tmp_path, model="m@1") as cache,
        pytest.raises(VectorsError, match="expected an array padded to its longest item"),
    ):
        cache.encode(["a", "bb"], encode)


def test_zeros_at_the_beginning_and_inside_are_data_and_minus_zero_is_no_padding(tmp_path: Path) -> None:
    whole = np.zeros((2, 4, 1), np.float32)
    whole[0, :, 0] = [0, 1, 0, 2]
    whole[1, :2, 0] = [0, -0.0]
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        for _ in range(2):
            assert bits_equal(cache.encode(["a", "b"], lambda _: whole), whole)
        assert cache.vectors.lengths.tolist() == [4, 2]


@pytest.mark.parametrize("form", ["items float32", "coo", "padded tensor"])
def test_float16_is_stored_only_if_asked_and_the_first_run_is_rounded_too(form: str, tmp_path: Path) -> None:
    encode = FORMS[form]
    with EmbeddingCache(tmp_path, model="m@1", store_dtype="float16") as cache:
        first = cache.encode(TEXTS, encode)
        assert parts(first) != parts(encode(TEXTS))
        assert parts(cache.encode(TEXTS, never)) == parts(first)
        assert cache.dtype == np.float16
        dtype = first[0].dtype
        assert dtype in (np.float32, torch.float32)
    with pytest.raises(IdentityMismatchError, match="store_dtype"):
        EmbeddingCache(tmp_path, model="m@1")


def test_dense_vectors_may_be_float16_too_and_what_it_cannot_hold_is_an_error(
    tmp_path: Path,
) -> None:
    with EmbeddingCache(tmp_path, model="m@1", store_dtype="float16") as cache:
        found = cache.encode(["a", "b"], dense)
        assert found.dtype == np.float32
        assert bits_equal(found, dense(["a", "b"]).astype(np.float16).astype(np.float32))
        with pytest.raises(VectorsError, match="expected numbers up to 65,504"):
            cache.encode(["c"], lambda texts: dense(texts) + 1e5)


def test_a_function_may_yield_blocks_of_items(tmp_path: Path) -> None:
    def encode(texts: list[str]) -> Iterator[list[np.ndarray]]:
        for text in texts:
            yield [tokens(text)]

    with EmbeddingCache(tmp_path, model="m@1") as cache:
        for _ in range(2):
            assert parts(cache.encode(TEXTS, encode)) == parts(items("float32")(TEXTS))
        assert parts(cache.encode(["x", "yy"], items("float32"), batch_size=1)) == parts(
            items("float32")(["x", "yy"])
        )


@pytest.mark.parametrize(
    ("form", "output", "kind"),
    [
        ("items float32", "torch", torch.Tensor),
        ("tensors torch.float32", "numpy", np.ndarray),
        ("items float32", "list", list),
    ],
)
def test_output_chooses_the_library_of_items(form: str, output: Any, kind: type, tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, model="m@1", output=output) as cache:
        assert all(isinstance(item, kind) for item in cache.encode(TEXTS, FORMS[form]))


def test_output_chooses_the_library_of_sparse_vectors(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, model="m@1", output="numpy") as cache:
        assert isinstance(cache.encode(TEXTS, coo), sparse.csr_array)
    with (
        EmbeddingCache(tmp_path, model="m@1", output="list") as cache,
        pytest.raises(VectorsError, match="output="),
    ):
        cache.encode(TEXTS, never)


def test_vectors_are_a_sequence_or_a_sparse_array(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "ragged") as cache:
        cache.put(TEXTS[:4], items("float32")(TEXTS[:4]))
        rows = cache.vectors
        assert isinstance(rows, Ragged)
        assert [len(item) for item in rows] == [len(text) for text in TEXTS[:4]]
        assert bits_equal(rows[2], tokens(TEXTS[2]))
        assert rows[-1].shape == (1, DIM)
        with pytest.raises(IndexError):
            rows[4]
        with pytest.raises(ValueError, match="read-only"):
            rows[0][:] = 0
        assert cache.stats()["elements"] == sum(map(len, TEXTS[:4]))
    with EmbeddingCache(tmp_path / "sparse") as cache:
        cache.put(TEXTS[:4], coo(TEXTS[:4]))
        assert bits_equal(cache.vectors.toarray(), dense(TEXTS[:4]))


def test_a_function_that_made_other_vectors_is_found_out(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(20)]
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(texts, items("float32"))
    with EmbeddingCache(tmp_path) as cache:
        cache.encode(texts, items("float32"))
        with pytest.raises(IdentityMismatchError, match="of 16 items encoded again"):
            cache.encode(texts, lambda some: [item * 1.01 for item in items("float32")(some)])
    with EmbeddingCache(tmp_path / "sparse") as cache:
        cache.encode(texts, coo)
    with EmbeddingCache(tmp_path / "sparse") as cache, pytest.raises(IdentityMismatchError):
        cache.encode(texts, lambda some: coo(some) * 1.01)


READER = """
import sys
import numpy as np
import pyarrow as pa
from scipy import sparse

ragged, flat = sys.argv[1], sys.argv[2]
tokens, indptr = np.load(ragged + "/vectors.npy", mmap_mode="r"), np.load(ragged + "/indptr.npy")
for item in np.split(tokens, indptr[1:-1]):
    print(item.tolist())
column = pa.LargeListArray.from_arrays(pa.array(indptr), pa.array(tokens[:, 0]))
print(column.to_pylist())
parts = (np.load(f"{flat}/{name}.npy", mmap_mode="r") for name in ("values", "indices", "indptr"))
print(sparse.csr_array(tuple(parts), shape=(4, 50)).toarray().tolist())
assert not any(name.startswith("dejavec") for name in sys.modules)
"""


def test_numpy_arrow_and_scipy_read_the_files_without_us(tmp_path: Path) -> None:
    texts = TEXTS[:4]
    with EmbeddingCache(tmp_path / "ragged") as cache:
        cache.put(texts, items("float32")(texts))
    with EmbeddingCache(tmp_path / "sparse") as cache:
        cache.put(texts, coo(texts))
    arguments = [sys.executable, "-c", READER, str(tmp_path / "ragged"), str(tmp_path / "sparse")]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [
        *(str(tokens(text).tolist()) for text in texts),
        str([tokens(text)[:, 0].tolist() for text in texts]),
        str(dense(texts).tolist()),
    ]
