"""`dejavec export`: other programs read what it writes, for every container, and get no other vector."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import scipy.sparse
from comparing import files_below, flip_bit

from dejavec import EmbeddingCache
from dejavec.cli import selection
from dejavec.cli.main import main
from dejavec.cli.selection import opened, select
from dejavec.errors import VectorsError

TEXTS = [f"text {number} ü" for number in range(9)]
KEYS = [hashlib.sha256(text.encode()).digest() for text in TEXTS]
DENSE = np.arange(27, dtype=np.float32).reshape(9, 3)
RAGGED = [np.arange(3 * (number % 3), dtype=np.float16).reshape(-1, 3) + number for number in range(9)]
SPARSE = scipy.sparse.csr_array(
    np.where(np.arange(45).reshape(9, 5) % 4 == 0, np.arange(45.0).reshape(9, 5), 0)
)
KINDS: dict[str, Any] = {"dense": DENSE, "ragged": RAGGED, "sparse": SPARSE}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_BLOCK_BYTES", 150)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(path: Path, kind: str, **settings: Any) -> Path:
    with EmbeddingCache(path, model="toy@1", **settings) as cache:
        first = KINDS[kind][:2] if kind != "sparse" else SPARSE[:2]
        cache.put(TEXTS[:2], first if kind == "ragged" else first + first)  # Replaced by the next.
        cache.put(TEXTS, KINDS[kind])
    return path


def dense(vectors: Any) -> list[list[float]]:
    return np.asarray(vectors, np.float64).tolist()


def rows_of_table(table: pa.Table, kind: str) -> dict[bytes, Any]:
    found = {}
    for row in table.to_pylist():
        vector = row["vector"]
        if kind == "sparse":
            full = np.zeros(5)
            full[vector["indices"]] = vector["values"]
            vector = full.tolist()
        found[row["key"]] = vector
    return found


def expected_rows(kind: str) -> dict[bytes, Any]:
    rows = dense(DENSE) if kind == "dense" else dense(SPARSE.toarray())
    if kind == "ragged":
        rows = [dense(item) for item in RAGGED]  # type: ignore[misc]
    return dict(zip(KEYS, rows, strict=True))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("texts", ["none", "kept", "given"])
def test_tables_have_keys_texts_and_vectors(form: str, texts: str, kind: str, tmp_path: Path) -> None:
    fill(tmp_path / "cache", kind, keep_texts=texts == "kept")
    words = ["export", str(tmp_path / "cache"), str(tmp_path / "out" / f"file.{form}")]
    if texts == "given":
        (tmp_path / "texts.txt").write_text("\n".join([*TEXTS[3:], "not cached"]))
        words += ["--texts", str(tmp_path / "texts.txt")]
    before = files_below(tmp_path / "cache")
    assert main(words) == 0
    assert files_below(tmp_path / "cache") == before
    path = tmp_path / "out" / f"file.{form}"
    table = pa.parquet.read_table(path) if form == "parquet" else pa.ipc.open_file(path).read_all()
    assert rows_of_table(table, kind) == expected_rows(kind)
    if texts == "none":
        assert "text" not in table.column_names
    else:
        found = dict(zip(table["key"].to_pylist(), table["text"].to_pylist(), strict=True))
        known = TEXTS if texts == "kept" else [None, None, None, *TEXTS[3:]]
        assert found == dict(zip(KEYS, known, strict=True))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_archives_of_arrays_hold_every_container(form: str, kind: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    fill(tmp_path / "cache", kind, keep_texts=True)
    path = tmp_path / f"file.{form}"
    assert main(["export", str(tmp_path / "cache"), str(path)]) == 0
    found = dict(np.load(path)) if form == "npz" else load_file(path)
    keys = [key.tobytes() for key in found["keys"]]
    if kind == "dense":
        rows: list[Any] = dense(found["vectors"])
    elif kind == "ragged":
        assert found["vectors"].dtype == np.float16
        bounds = found["indptr"]
        rows = [dense(found["vectors"][start:end]) for start, end in pairwise(bounds)]
    elif form == "npz":
        rows = dense(scipy.sparse.load_npz(path).toarray())
    else:
        parts = (found["data"], found["indices"], found["indptr"])
        rows = dense(scipy.sparse.csr_array(parts, shape=tuple(found["shape"])).toarray())
    assert dict(zip(keys, rows, strict=True)) == expected_rows(kind)
    bounds, texts = found["text_offsets"], found["texts"].tobytes()
    decoded = [texts[start:end].decode() for start, end in pairwise(bounds)]
    assert dict(zip(keys, decoded, strict=True)) == dict(zip(KEYS, TEXTS, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_a_matrix_has_keys_and_texts_beside_it(dtype: Any, tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "cache", model="toy@1", keep_texts=True) as cache:
        cache.put(TEXTS, DENSE.astype(dtype))
    assert main(["export", str(tmp_path / "cache"), str(tmp_path / "m.npy")]) == 0
    assert np.load(tmp_path / "m.npy").tobytes() == DENSE.astype(dtype).tobytes()
    assert [key.tobytes() for key in np.load(tmp_path / "m.keys.npy")] == KEYS
    texts = [json.loads(line)["text"] for line in (tmp_path / "m.texts.jsonl").read_text().splitlines()]
    assert texts == TEXTS


@pytest.mark.parametrize("metric", [None, "l2", "ip"])
def test_faiss_reads_the_index_and_searches_it(metric: str | None, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    fill(tmp_path / "cache", "dense")
    words = ["export", str(tmp_path / "cache"), str(tmp_path / "i.faiss")]
    assert main(words + (["--metric", metric] if metric else [])) == 0
    index = faiss.read_index(str(tmp_path / "i.faiss"))
    assert index.metric_type == (faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2)
    keys = [key.tobytes() for key in np.load(tmp_path / "i.keys.npy")]
    for text in (0, 4, 8):
        assert index.reconstruct(keys.index(KEYS[text])).tolist() == DENSE[text].tolist()


@pytest.mark.parametrize("form", ["npy", "faiss"])
def test_a_format_that_cannot_hold_the_rows_is_one_sentence(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("ragged", "sparse"):
        fill(tmp_path / kind, kind)
        assert main(["export", str(tmp_path / kind), str(tmp_path / "out"), "--format", form]) == 1
        assert f"found {kind} ones; pass --format parquet" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_damaged_rows_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "cache", "dense")
    flip_bit(tmp_path / "cache" / "vectors.npy", 128 + 5 * 12)
    words = ["export", str(tmp_path / "cache"), str(tmp_path / "m.npy")]
    assert main([*words, "--dry-run"]) == 0
    assert "8 vectors would go to" in capsys.readouterr().out
    assert not list(tmp_path.glob("*m.*"))
    assert main([*words, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["caches"]
    assert (report["written"], report["replaced"], report["damaged"]) == (8, 2, 1)
    assert len(np.load(tmp_path / "m.npy")) == 8


def test_an_existing_file_and_a_full_disk_leave_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "cache", "dense")
    (tmp_path / "m.npy").write_text("mine")
    assert main(["export", str(tmp_path / "cache"), str(tmp_path / "m.npy")]) == 1
    assert "expected a new file, found one that is there" in capsys.readouterr().err
    assert (tmp_path / "m.npy").read_text() == "mine"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["export", str(tmp_path / "cache"), str(tmp_path / "n.npy")]) == 1
    assert "n.npy: could not be written: No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m.npy"]


def test_an_interrupt_in_the_middle_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "cache", "dense")
    texts_of, calls = selection.Selection.texts_of, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return texts_of(*args)

    monkeypatch.setattr(selection.Selection, "texts_of", interrupted)
    assert main(["export", str(tmp_path / "cache"), str(tmp_path / "m.npy")]) == 130
    assert "nothing was exported; run it again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_an_empty_cache_is_an_empty_file(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "cache", model="toy@1") as cache:
        cache.put([], np.empty((0, 3), np.float32))
    for form in ("npy", "npz", "parquet", "arrow", "safetensors", "faiss"):
        assert main(["export", str(tmp_path / "cache"), str(tmp_path / f"m.{form}")]) == 0
    assert np.load(tmp_path / "m.npy").shape == (0, 3)
    assert pa.parquet.read_table(tmp_path / "m.parquet").num_rows == 0


def test_rows_that_are_numbered_anew_meanwhile_are_an_error_not_other_texts(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "c", model="toy@1", keep_texts=True) as cache:
        cache.put(["a", "b", "c"], np.eye(3, dtype=np.float32))
        with opened(tmp_path / "c") as read:
            selection = select(read)
            cache.delete(["a"])
            cache.compact()
            read.refresh()
            with pytest.raises(VectorsError, match="a compacted one"):
                list(selection.blocks("export"))
            with pytest.raises(VectorsError, match="a compacted one"):
                selection.texts_of(selection.rows)
            assert next(select(read).blocks("export")).texts == ["b", "c"]
