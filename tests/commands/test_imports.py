"""`dejavec import`: the vectors of other programs, each by its own text, and no other."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from comparing import bits_equal, files_below, flip_bit
from terminal import on_terminal

from dejavec import EmbeddingCache
from dejavec.cli.main import main
from dejavec.errors import IdentityMismatchError

TEXTS = [f"text {number}" for number in range(7)]
VECTORS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
MODEL = ["--model", "toy@1"]


def write_texts(path: Path, texts: list[str], **columns: list[Any]) -> str:
    rows = [
        {"text": text, **{name: column[at] for name, column in columns.items()}}
        for at, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def held(path: Path) -> Any:
    with EmbeddingCache(path, model="toy@1", mode="r") as cache:
        found, vectors = cache.get(TEXTS)
        assert found.all()
        return vectors


def test_a_matrix_is_imported_by_the_order_of_its_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "m.npy", VECTORS)
    words = ["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL]
    words += ["--texts", write_texts(tmp_path / "t.jsonl", TEXTS)]
    assert main([*words, "--dry-run"]) == 0
    assert "7 vectors would be imported" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()
    assert main([*words, "--keep-texts"]) == 0
    assert "You answer for the imported vectors: toy@1 made them." in capsys.readouterr().out
    assert bits_equal(held(tmp_path / "cache"), VECTORS)
    assert EmbeddingCache(tmp_path / "cache", mode="r").texts().to_pylist() == TEXTS
    assert main([*words, "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["sources"]
    assert (report["taken"], report["held"]) == (0, 7)


@pytest.mark.parametrize("count", [6, 8])
def test_a_matrix_of_another_length_than_its_texts_is_refused(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "m.npy", VECTORS)
    texts = write_texts(tmp_path / "t.jsonl", [f"t{number}" for number in range(count)])
    words = ["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL, "--texts", texts]
    assert main(words) == 1
    assert "expected 7 texts" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", [".npy", ".txt"])
def test_a_matrix_is_imported_by_ids(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = np.random.default_rng(1).permutation(7)
    np.save(tmp_path / "m.npy", VECTORS[order])
    ids = tmp_path / f"ids{form}"
    if form == ".npy":
        np.save(ids, order + 100)
    else:
        ids.write_text("".join(f"{number + 100}\n" for number in order))
    texts = write_texts(tmp_path / "t.jsonl", [*TEXTS, "of no row"], id=[number + 100 for number in range(8)])
    words = ["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL, "--texts", texts]
    assert main([*words, "--ids", str(ids)]) == 0
    assert "1 left out: without a row in SRC" in capsys.readouterr().out
    assert bits_equal(held(tmp_path / "cache"), VECTORS)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_parquet_file_is_imported(fixed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = pa.list_(pa.float32(), 4) if fixed else pa.list_(pa.float32())
    table = pa.table({"body": TEXTS, "embedding": pa.array(VECTORS.tolist(), kind)})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    words = ["import", str(tmp_path / "t.parquet"), str(tmp_path / "cache"), *MODEL, "--column", "body"]
    assert main(words) == 1
    assert (
        "expected a column 'vector', found body, embedding; name another with --vectors"
        in capsys.readouterr().err
    )
    assert main([*words, "--vectors", "embedding"]) == 0
    assert bits_equal(held(tmp_path / "cache"), VECTORS)


def test_what_is_exported_is_imported_again(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "one", model="toy@1", keep_texts=True) as cache:
        cache.put(TEXTS, VECTORS)
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "t.parquet")]) == 0
    assert main(["import", str(tmp_path / "t.parquet"), str(tmp_path / "two"), *MODEL]) == 0
    assert bits_equal(held(tmp_path / "two"), VECTORS)
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "m.npy")]) == 0
    words = ["import", str(tmp_path / "m.npy"), str(tmp_path / "three"), *MODEL]
    assert main([*words, "--texts", str(tmp_path / "m.texts.jsonl")]) == 0
    assert bits_equal(held(tmp_path / "three"), VECTORS)


@pytest.mark.parametrize("encoder", ["sha1", "sha256", "blake2b", "sha512"])
@pytest.mark.parametrize("namespace", ["", "org/model"])
def test_the_files_of_langchain_are_imported_for_what_langchain_returned(
    encoder: Any, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings = pytest.importorskip("langchain_classic.embeddings")
    storage = pytest.importorskip("langchain_classic.storage")
    core = pytest.importorskip("langchain_core.embeddings")

    class Model(core.Embeddings):  # type: ignore[misc,name-defined]
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [VECTORS[TEXTS.index(text)].astype(np.float64).tolist() for text in texts]

        def embed_query(self, text: str) -> list[float]:
            raise NotImplementedError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cached = embeddings.CacheBackedEmbeddings.from_bytes_store(
            Model(), storage.LocalFileStore(tmp_path / "store"), namespace=namespace, key_encoder=encoder
        )
    returned = cached.embed_documents(TEXTS)
    texts = write_texts(tmp_path / "t.jsonl", [*TEXTS, "never embedded"])
    words = ["import", str(tmp_path / "store"), str(tmp_path / "cache"), *MODEL, "--texts", texts]
    before = files_below(tmp_path / "store")
    other = "sha256" if encoder != "sha256" else "sha512"
    assert main([*words, "--namespace", namespace, "--key-encoder", other]) == 1
    assert "check --namespace, --key-encoder and --texts" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    assert main([*words, "--namespace", namespace, "--key-encoder", encoder]) == 0
    assert "1 left out: without a file of their own in SRC" in capsys.readouterr().out
    assert files_below(tmp_path / "store") == before
    assert held(tmp_path / "cache") == returned
    rounded = [*words, "--namespace", namespace, "--key-encoder", encoder, "--dtype", "float32"]
    rounded[2] = str(tmp_path / "rounded")
    assert main(rounded) == 0
    assert EmbeddingCache(tmp_path / "rounded", mode="r").dtype == np.float32


def test_a_damaged_file_of_langchain_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import hashlib

    name = hashlib.sha256(b"text 0").hexdigest()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).write_bytes(b"[1.0, ")
    texts = write_texts(tmp_path / "t.jsonl", TEXTS)
    words = ["import", str(tmp_path / "store"), str(tmp_path / "cache"), *MODEL, "--texts", texts]
    assert main([*words, "--key-encoder", "sha256"]) == 1
    assert f"{name}: expected a JSON list of numbers" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dense", "ragged", "faiss-ip"])
def test_another_cache_is_imported_with_its_texts_and_identity(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors: Any = [row[None] for row in VECTORS] if kind == "ragged" else VECTORS
    container: Any = kind if kind == "faiss-ip" else None
    with EmbeddingCache(
        tmp_path / "one", model="toy@1", prompt="p", keep_texts=True, container=container
    ) as cache:
        cache.put(TEXTS[:4], vectors[:4])
    with EmbeddingCache(tmp_path / "one", model="toy@1", prompt="p") as cache:
        cache.put(TEXTS[4:], vectors[4:])
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert f"7 vectors imported to {tmp_path / 'two'}" in capsys.readouterr().out
    with EmbeddingCache(tmp_path / "two", model="toy@1", prompt="p", mode="r") as cache:
        found, got = cache.get(TEXTS)
        assert found.all()
        assert all(
            bits_equal(np.asarray(one), np.asarray(two)) for one, two in zip(got, vectors, strict=True)
        )
        assert cache.texts().to_pylist() == [*TEXTS[:4], None, None, None]
        assert cache.container == (container or {"ragged": "ragged"}.get(kind, "npy"))
    with EmbeddingCache(tmp_path / "other", model="toy@2") as cache:
        cache.put(TEXTS, VECTORS)
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "other")]) == 1
    assert "model toy@1" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "one")]) == 1


def test_damaged_rows_of_another_cache_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache(tmp_path / "one", model="toy@1") as cache:
        cache.put(TEXTS, VECTORS)
    flip_bit(tmp_path / "one" / "vectors.npy", 128 + 3)
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["sources"]
    assert (report["taken"], report["left"]) == (6, {"damaged": 1})


def test_vectors_of_another_function_are_asked_about_after_an_import(tmp_path: Path) -> None:
    def one(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1] for text in texts], np.float32)

    def other(texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 2] for text in texts], np.float32)

    for name, function, texts in (("one", one, TEXTS[:3]), ("two", other, TEXTS[3:])):
        with EmbeddingCache(tmp_path / name) as cache:
            cache.encode(texts, function)
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    with EmbeddingCache(tmp_path / "two") as cache:
        cache.encode(TEXTS[3:], other)
        with pytest.raises(IdentityMismatchError):
            cache.encode(TEXTS[:3], other)


def test_vectors_that_are_not_finite_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = VECTORS.copy()
    broken[2, 1] = np.nan
    np.save(tmp_path / "m.npy", broken)
    texts = write_texts(tmp_path / "t.jsonl", TEXTS)
    assert main(["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL, "--texts", texts]) == 0
    assert "1 left out: not finite, so never stored" in capsys.readouterr().out
    assert len(EmbeddingCache(tmp_path / "cache", mode="r")) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m.npy", "cache", "--texts", "t.jsonl"], "Missing option '--model'"),
        (["m.npy", "cache", *MODEL], "Missing option '--texts'"),
        (["one", "cache", *MODEL], "leave out --model"),
    ],
)
def test_what_is_missing_is_a_wrong_call(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("m.npy", VECTORS)
    write_texts(tmp_path / "t.jsonl", TEXTS)
    with EmbeddingCache("one", model="toy@1") as cache:
        cache.put(TEXTS, VECTORS)
    assert main(["import", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no npy", np.zeros(3), np.array([{}], object), np.zeros((2, 2, 2))])
def test_a_file_that_is_no_matrix_is_one_sentence(
    content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "m.npy").write_bytes(content)
    else:
        np.save(tmp_path / "m.npy", content)
    texts = write_texts(tmp_path / "t.jsonl", TEXTS)
    assert main(["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL, "--texts", texts]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupted_import_keeps_what_it_stored_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dejavec.cli import table_file
    from dejavec.storage.keyed_cache import KeyedCache

    monkeypatch.setattr(table_file, "BLOCK", 2)
    np.save(tmp_path / "m.npy", VECTORS)
    texts = write_texts(tmp_path / "t.jsonl", TEXTS)
    append, calls = KeyedCache.append, []

    def interrupted(*args: Any, **named: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return append(*args, **named)

    words = ["import", str(tmp_path / "m.npy"), str(tmp_path / "cache"), *MODEL, "--texts", texts]
    with monkeypatch.context() as patched:
        patched.setattr(KeyedCache, "append", interrupted)
        status, screen = on_terminal(patched, lambda: main(words))
    assert (status, "what was imported is kept; run it again to continue" in screen) == (130, True)
    assert len(EmbeddingCache(tmp_path / "cache", mode="r")) == 4
    assert main(words) == 0
    assert bits_equal(held(tmp_path / "cache"), VECTORS)
