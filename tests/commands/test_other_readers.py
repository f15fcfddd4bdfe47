"""Programs that know nothing of dejavec read its files."""

from __future__ import annotations

import io
import json
import re
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from dejavec import EmbeddingCache

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
READERS = ROOT / ".venv" / "readers" / "bin" / "python"


def vectors_of(rows: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 5)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_embedding_reader_reads_vectors_npy(tmp_path: Path, dtype: type) -> None:
    if not READERS.exists():
        pytest.fail(f"{READERS} is missing: run `make readers`")
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        for first, rows in ((0, 9), (9, 91)):
            cache.put([f"text {first + i}" for i in range(rows)], vectors_of(rows, dtype))
    expected = np.concatenate([vectors_of(9, dtype), vectors_of(91, dtype)]).astype(np.float32)
    command = [READERS, ROOT / "tests" / "commands" / "readers" / "read_embeddings.py", tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == {"count": 100, "dimension": 5, "sha256": sha256(expected.tobytes()).hexdigest()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, np.bool_])
@pytest.mark.parametrize("rows", [1, 9, 10, 12_345])
def test_the_header_of_vectors_npy_is_the_one_that_numpy_writes(
    tmp_path: Path, dtype: type, rows: int
) -> None:
    vectors: np.ndarray = (vectors_of(rows, np.float64) * 9).astype(dtype)
    with EmbeddingCache(tmp_path, model="m@1") as cache:
        cache.put([f"text {i}" for i in range(rows)], vectors)
    saved = io.BytesIO()
    np.save(saved, vectors)
    assert (tmp_path / "vectors.npy").read_bytes() == saved.getvalue()
    assert re.search(rb"'shape': \(([0-9]+), ([0-9]+)\)", saved.getvalue())
