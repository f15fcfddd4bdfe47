"""Multi-vector rows are found by MaxSim and sparse rows by the inner product, as plain loops find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from dejavec import EmbeddingCache
from dejavec.errors import VectorsError
from dejavec.search import multi_vector

DIM = 6
TEXTS = [f"text {number}" for number in range(60)]


def items(seed: int, lengths: Any, dtype: Any = np.float32) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((length, DIM)).astype(dtype) * (length + 1) for length in lengths]


def max_sim(query: np.ndarray, item: np.ndarray, metric: str) -> float:
    one, other = query.astype(np.float64), item.astype(np.float64)
    if metric == "cosine":
        one, other = (part / np.linalg.norm(part, axis=1)[:, None] for part in (one, other))
    return float((one @ other.T).max(axis=1).sum())


@pytest.mark.parametrize("most", [None, 5], ids=["one block", "a block for each row or two"])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_max_sim_is_that_of_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any, dtype: Any, most: int | None
) -> None:
    if most is not None:
        monkeypatch.setattr(multi_vector, "_MOST_BLOCK_ELEMENTS", most)
        monkeypatch.setattr(multi_vector, "_TOKENS", 3)
    lengths = [*range(1, 21), 0, *range(20, 0, -1), *range(1, 20)]
    stored, queries = items(0, lengths, dtype), items(1, [4, 1, 7, 0])
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS, stored)
        cache.put(TEXTS[3:4], items(2, [5], dtype))
        found = cache.search(queries, 6, metric=metric, texts=TEXTS)
        among = cache.search(queries, 6, metric=metric, among=TEXTS[30:33])
    live = {row: item for row, item in enumerate([*stored, *items(2, [5], dtype)]) if len(item) and row != 3}
    for query, distances, rows, texts in zip(
        queries[:3], found.distances, found.rows, found.texts or [], strict=False
    ):
        scores = {row: max_sim(query, item, metric) for row, item in live.items()}
        right = sorted(scores, key=lambda row: -scores[row])[:6]
        assert rows.tolist() == right
        assert texts == [TEXTS[3] if row == 60 else TEXTS[row] for row in right]
        np.testing.assert_allclose(distances, [scores[row] for row in right], rtol=1e-4)
    assert [sorted(rows[:3]) for rows in among.rows] == [[30, 31, 32]] * 4
    assert (among.rows[:, 3:] == -1).all()


def test_a_row_that_lies_nowhere_is_not_found(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:5], items(0, [2, 3, 1, 2, 2]))
    offsets = np.fromfile(tmp_path / "indptr.npy", "<i8", offset=128)
    with (tmp_path / "indptr.npy").open("r+b") as file:
        file.seek(128 + 2 * 8)
        file.write(np.int64(offsets[-1] + 50).tobytes())
    with EmbeddingCache(tmp_path, mode="r") as cache:
        assert sorted(cache.search(items(1, [2]), 5).rows[0]) == [-1, -1, 0, 3, 4]


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_sparse_rows_are_found_by_their_products(tmp_path: Path, metric: Any) -> None:
    dense = scipy.sparse.random(60, 40, 0.2, "csr", np.float32, random_state=np.random.default_rng(0))
    queries = scipy.sparse.random(4, 40, 0.3, "csr", np.float32, random_state=np.random.default_rng(1))
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS, dense)
        found = cache.search(queries, 5, metric=metric, texts=TEXTS)
    one, other = queries.toarray().astype(np.float64), dense.toarray().astype(np.float64)
    if metric == "cosine":
        one, other = (
            part / np.maximum(np.linalg.norm(part, axis=1), 1e-30)[:, None] for part in (one, other)
        )
    scores = one @ other.T
    right = np.argsort(-scores, axis=1)[:, :5]
    assert found.rows.tolist() == right.tolist()
    assert found.texts == [[TEXTS[row] for row in rows] for rows in right]
    np.testing.assert_allclose(found.distances, np.take_along_axis(scores, right, 1), rtol=1e-5)


def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path) as cache:
        cache.put(TEXTS[:2], items(0, [2, 3]))
        cases: tuple[tuple[Any, Any, str], ...] = (
            (
                np.ones((2, DIM)),
                None,
                r"expected multi-vector items \(tokens, dim\), found dense",
            ),
            (items(0, [2]), "l2", "expected dense vectors, for metric='l2', found the container ragged"),
            ([np.ones((2, DIM + 1))], None, f"the queries: expected dimension {DIM}, found {DIM + 1}"),
        )
        for queries, metric, message in cases:
            with pytest.raises(VectorsError, match=message):
                cache.search(queries, 1, metric=metric)
        with pytest.raises(VectorsError, match="expected one dense vector for each text, to build an index"):
            cache.build_index("Flat")
