"""Texts beside the vectors: what is read is the text of its key, or none, and no vector is harmed."""

from __future__ import annotations

import builtins
import hashlib
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

from dejavec import EmbeddingCache, cached
from dejavec.cli.main import main
from dejavec.errors import ReadOnlyCacheError
from dejavec.keys.items import text_keys

TEXTS = ["one", "", "zwei ü", "三", "🙂 four"]


def embed(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text_keys([text])[0, 0]] for text in texts], np.float32)


@pytest.mark.parametrize("container", ["npy", "faiss-l2"])
def test_encode_and_put_keep_the_texts_of_the_rows_that_they_append(tmp_path: Path, container: Any) -> None:
    with EmbeddingCache(tmp_path, container=container, keep_texts=True, chunk_rows=2) as cache:
        cache.encode([*TEXTS, TEXTS[0]], embed)
        assert cache.texts().equals(pa.array(TEXTS, pa.large_string()))
        cache.put((text for text in ["put", "one"]), [[1, 2], [3, 4]])
        assert cache.texts([5, 6, -1, 99]).to_pylist() == ["put", "one", None, None]
        assert cache.stats()["texts"] == 6  # The empty text needs no bytes.
    with EmbeddingCache(tmp_path, mode="r") as cache:
        assert cache.texts().to_pylist() == [*TEXTS, "put", "one"]
        with pytest.raises(ReadOnlyCacheError):
            cache.put_texts(["one"])


@pytest.mark.parametrize("container", ["ragged", "sparse"])
def test_texts_are_kept_beside_rows_with_elements(tmp_path: Path, container: Any) -> None:
    def tokens(texts: list[str]) -> Any:
        if container == "ragged":
            return [np.full((len(text), 3), len(text), np.float32) for text in texts]
        return scipy.sparse.csr_array(np.array([[len(text), 0, 1] for text in texts], np.float32))

    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.encode(TEXTS, tokens)
        assert cache.container == container
        assert cache.texts().to_pylist() == TEXTS
        assert cache.verify()["damaged_texts"] == []


def test_a_cache_keeps_no_texts_unless_it_is_asked_to(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert len(cache.texts()) == 0
        assert cache.put_texts(["one"]) == 0
        cache.encode(TEXTS, embed)
        assert cache.texts().to_pylist() == [None, "", None, None, None]
    assert not list((tmp_path / "cache").glob("texts*"))


def test_texts_are_filled_in_later(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, durability="close") as cache:
        cache.encode(TEXTS, embed)
        assert cache.put_texts(pa.array([TEXTS[3], "not cached", TEXTS[3]])) == 1
        assert cache.put_texts(TEXTS) == 3
        assert cache.put_texts(TEXTS) == 0
        assert cache.texts().to_pylist() == TEXTS


def test_a_lone_surrogate_is_null_in_arrow_and_a_text_in_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["plain", "half \ud83d", "ü"]
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.encode(texts, embed)
        column = cache.texts()
        column.validate(full=True)
        assert column.to_pylist() == ["plain", None, "ü"]
        real = builtins.__import__

        def without_arrow(name: str, *arguments: Any) -> Any:
            if name == "pyarrow":
                raise ImportError(name)
            return real(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", without_arrow)
        assert cache.texts([1, 2, 7]) == ["half \ud83d", "ü", None]


def test_pickled_caches_and_decorated_functions_keep_texts_too(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "one", keep_texts=True) as cache:
        with pickle.loads(pickle.dumps(cache)) as other:
            other.encode(TEXTS, embed)
        cache.refresh()
        assert cache.texts().to_pylist() == TEXTS
    function = cached(tmp_path / "two", keep_texts=True, model="toy@1")(embed)
    function(["a", "b"])
    assert function.cache.texts().to_pylist() == ["a", "b"]
    function.cache.close()
    with pytest.raises(TypeError, match="keep_texts"):
        EmbeddingCache(tmp_path / "three", keep_texts="yes")  # type: ignore[arg-type]


def test_the_text_of_a_vector_that_is_not_stored_is_not_kept(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        with pytest.warns(UserWarning, match="NaN"):
            cache.put(["a", "b", "c"], [[1.0], [np.nan], [3.0]])
        assert cache.texts().to_pylist() == ["a", "c"]


def test_a_damaged_text_is_named_repaired_and_never_an_error_for_its_vector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        vectors = cache.encode(["one", "two"], embed)
    with (tmp_path / "texts.npy").open("r+b") as file:
        file.seek(128)
        file.write(b"X")
    with EmbeddingCache(tmp_path, mode="r") as cache:
        assert cache.texts().to_pylist() == [None, "two"]
        found, again = cache.get(["one", "two"])
        assert found.all()
        assert (again == vectors).all()
        report = cache.verify()
        assert (report["texts"], report["damaged_texts"], report["damaged"]) == (1, [0], [])
    assert main(["verify", str(tmp_path)]) == 1
    assert "sound rows with a damaged text: 0" in capsys.readouterr().out
    assert main(["verify", "--repair", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["stats", str(tmp_path)]) == 0
    assert re.search(r"texts +1\n", capsys.readouterr().out)
    with EmbeddingCache(tmp_path) as cache:
        assert cache.put_texts(["one"]) == 1


def test_files_of_texts_that_are_no_files_cost_texts_only(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.encode(["one", "two"], embed)
    (tmp_path / "texts-spans.npy").unlink()
    (tmp_path / "texts-spans.npy").symlink_to("nowhere")
    with EmbeddingCache(tmp_path) as cache:
        assert cache.get(["one", "two"])[0].all()
        assert cache.texts().to_pylist() == [None, None]
        cache.encode(["three"], embed)
        assert "three" in cache


READER = """
import sys
import numpy as np, pyarrow as pa
data = np.load("texts.npy", mmap_mode="r")
spans = np.load("texts-spans.npy")
texts = [bytes(data[start:end]).decode() for start, end in spans]
# Spans that follow each other are Arrow's offsets: no text is copied.
offsets = np.append(spans[:, 0], spans[-1, 1])
column = pa.LargeStringArray.from_buffers(len(spans), pa.py_buffer(offsets), pa.py_buffer(data))
column.validate(full=True)
assert column.to_pylist() == texts
assert not any(name.startswith("dejavec") for name in sys.modules)
print(texts)
"""


def test_numpy_and_arrow_read_the_texts_without_dejavec(tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text]
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.encode(texts, embed)
        keys = cache.keys()
    command = [sys.executable, "-c", READER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, encoding="utf-8")
    assert done.stdout == f"{texts}\n"
    assert [hashlib.sha256(text.encode()).digest() for text in texts] == [key.tobytes() for key in keys]
