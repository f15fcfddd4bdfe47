"""The checksum of a row is that of its bytes, wherever it lies."""

from __future__ import annotations

import numpy as np
import pytest

from dejavec import _core
from dejavec.remote.checksums import row_checksums
from dejavec.vectors.ragged import Ragged


def first_half(row: np.ndarray) -> int:
    (found,) = _core.fingerprint_blocks([row.reshape(-1).view(np.uint8)])
    return int.from_bytes(found[:8], "little")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "|i1"])
def test_dense_rows_have_the_checksums_of_their_bytes(dtype: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3000, 7)).astype(dtype)
    assert row_checksums(rows).tolist() == [first_half(row) for row in rows]
    assert row_checksums(rows[:0]).tolist() == []


def test_ragged_and_sparse_rows_have_the_checksums_of_their_elements() -> None:
    draw = np.random.default_rng(1)
    indptr = np.concatenate([[0], np.cumsum(draw.integers(0, 5, 2000))])
    data = draw.standard_normal((indptr[-1], 3)).astype(np.float32)
    rows = Ragged(data, indptr)
    assert row_checksums(rows).tolist() == [first_half(row) for row in rows]
    indices = draw.integers(0, 50, len(data)).astype(np.int32)
    sparse = Ragged(np.ascontiguousarray(data[:, 0]), indptr, indices, 50)
    changed = indices.copy()
    changed[indptr[7] :][:1] ^= 1
    row = int(np.searchsorted(indptr, indptr[7], side="right")) - 1
    other = Ragged(sparse.data, indptr, changed, 50)
    assert np.flatnonzero(row_checksums(sparse) != row_checksums(other)).tolist() == [row]


def test_rows_that_lie_elsewhere_are_refused() -> None:
    data, out = np.zeros(10, np.uint8), np.zeros((2, 16), np.uint8)
    for ends in ([4, 3], [-1, 3], [4, 11], [4]):
        with pytest.raises(ValueError, match="one behind the other"):
            _core.fingerprint_rows(data, np.array(ends, np.int64), out)
