"""EmbeddingCache refuses what does not fit, writes nothing then, and stays good."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal, files_below
from hypothesis import given
from hypothesis import strategies as st
from toy_model import ToyModel

import dejavec
from dejavec import EmbeddingCache, Plan, cached

pytestmark = pytest.mark.usefixtures("container")

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
TEXTS = ["a", "b", "a", "c"]


@pytest.fixture
def cache(tmp_path: Path, model: Any) -> EmbeddingCache:
    """A cache that holds a and b."""
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1")
    cache.put(["a", "b"], model.vectors(["a", "b"]))
    return cache


def test_importing_dejavec_imports_no_heavy_package() -> None:
    script = (
        "import sys, dejavec; heavy = {'mteb', 'torch', 'pandas', 'pyarrow', 'datasets', 'tqdm', 'faiss'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there() -> None:
    for name in dejavec.__all__:
        assert getattr(dejavec, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        dejavec.nothing  # noqa: B018


def test_a_new_cache_is_empty_and_makes_no_directory(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1")
    assert len(cache) == 0
    assert cache.dim is None
    assert cache.dtype is None
    assert cache._store.output is None
    assert cache.vectors.shape == (0, 0)
    assert cache.refresh() == 0
    assert cache.stats()["rows"] == 0
    assert cache.verify()["problems"] == []
    assert "a" not in cache
    found, vectors = cache.get(TEXTS)
    assert found.tolist() == [False] * 4
    assert vectors.shape == (4, 0)
    assert cache.plan(TEXTS) == Plan(items=4, hits=0, misses=3, duplicates=1, bytes=0)
    cache.sync()
    cache.close()
    assert not (tmp_path / "cache").exists()


def test_dimension_and_dtype_are_learnt_from_the_first_vectors(cache: EmbeddingCache) -> None:
    assert cache.dim == 4
    assert cache.dtype == np.float32
    assert cache._store.output == dejavec.vectors.arrays.Output("numpy", "float32")


def test_get_tells_which_texts_are_held_and_gives_zeros_for_the_others(
    cache: EmbeddingCache, model: Any
) -> None:
    found, vectors = cache.get(["c", "b", "a", "b"])
    assert found.tolist() == [False, True, True, True]
    assert not vectors[0].any()
    assert bits_equal(vectors[1:], model.vectors(["b", "a", "b"]))
    assert "a" in cache
    assert "c" not in cache


def test_get_fills_the_callers_array(cache: EmbeddingCache, model: Any) -> None:
    out = np.full((3, 4), 7, np.float32)
    found, vectors = cache.get(["b", "c", "a"], out=out)
    assert vectors is out
    assert bits_equal(out[[0, 2]], model.vectors(["b", "a"]))
    assert not out[1].any()
    assert found.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "out", [np.empty((2, 4), "f8"), np.empty((2, 3), "f4"), np.empty((3, 4), "f4"), np.empty((4, 2), "f4").T]
)
def test_an_array_that_does_not_fit_is_not_filled(cache: EmbeddingCache, out: np.ndarray) -> None:
    with pytest.raises(dejavec.errors.VectorsError, match="out=: expected C-contiguous float32"):
        cache.get(["a", "b"], out=out)


def test_put_replaces_what_differs_and_appends_nothing_twice(cache: EmbeddingCache, model: Any) -> None:
    vectors = model.vectors(["a", "b"])
    assert cache.put(["a", "b"], vectors) == 0
    assert cache.put(["a", "b"], vectors[::-1]) == 2
    assert bits_equal(cache.get(["a", "b"])[1], np.ascontiguousarray(vectors[::-1]))
    assert len(cache) == 2
    assert cache.stats()["rows"] == 4


def test_of_equal_texts_in_one_put_the_last_counts(cache: EmbeddingCache) -> None:
    cache.put(["x", "x"], np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.float32))
    assert cache.get(["x"])[1].tolist() == [[2, 2, 2, 2]]


def test_putting_nothing_is_fine(cache: EmbeddingCache) -> None:
    assert cache.put([], np.empty((0, 4), np.float32)) == 0


@pytest.mark.npy_only
def test_vectors_are_all_rows_read_only_and_a_plain_npy_file(cache: EmbeddingCache, model: Any) -> None:
    expected = model.vectors(["a", "b"])
    assert bits_equal(np.array(cache.vectors), expected)
    assert not cache.vectors.flags.writeable
    mapped = np.load(cache.path / "vectors.npy", mmap_mode="r")
    assert mapped.shape == (2, 4)
    assert bits_equal(np.array(mapped), expected)


def test_what_is_returned_is_the_callers_own(cache: EmbeddingCache, model: Any) -> None:
    texts = [f"text {number}" for number in range(2_000)]
    wide = EmbeddingCache(cache.path.with_name("wide"), model="toy@1")
    big = np.random.default_rng(0).standard_normal((2_000, 256)).astype(np.float32)
    wide.put(texts, big)
    for count in (2_000, 10):
        vectors = wide.get(texts[:count])[1]
        vectors[:] = 0
        assert bits_equal(wide.get(texts[:count])[1], big[:count])
    kept = wide.encode(texts, model)
    wide.close()
    shutil.rmtree(wide.path)
    assert bits_equal(kept, big)


REFUSED: list[tuple[Callable[[int], Any], str]] = [
    (lambda n: np.zeros((n + 1, 4), np.float32), "rows"),
    (lambda n: np.zeros((n, 5), np.float32), "dimension 4, found 5"),
    (lambda n: np.zeros((n, 4), np.float64), "float64"),
    (lambda n: torch.zeros(n, 4, dtype=torch.bfloat16), "dtype float32, found bfloat16"),
    (lambda n: np.zeros(n, np.float32), "shape"),
    (lambda n: np.zeros((n, 4, 1), np.float32), "shape"),
    (lambda n: np.zeros((n, 4), object), "object"),
    (lambda n: None, "found None"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_written(
    cache: EmbeddingCache,
    model: Any,
    make: Callable[[int], Any],
    message: str,
) -> None:
    before = files_below(cache.path)
    with pytest.raises(dejavec.errors.VectorsError, match=message):
        cache.encode(["c", "d"], lambda texts: make(len(texts)))
    with pytest.raises(dejavec.errors.VectorsError, match=message):
        cache.put(["c", "d"], make(2))
    assert files_below(cache.path) == before
    assert bits_equal(cache.encode(TEXTS, model), model.vectors(TEXTS))
    assert model.encoded == ["c"]


@pytest.mark.parametrize("texts", ["a", ["a", 7], ["a", None], [b"a"], 7, {"text": "a"}, np.zeros(3)])
def test_what_is_no_text_is_refused_by_every_call(cache: EmbeddingCache, model: Any, texts: Any) -> None:
    for call in (
        lambda: cache.encode(texts, model),
        lambda: cache.get(texts),
        lambda: cache.put(texts, np.zeros((2, 4), np.float32)),
        lambda: cache.plan(texts),
    ):
        with pytest.raises(dejavec.errors.ItemError, match="expected"):
            call()
    assert model.calls == []


def test_no_texts_give_an_empty_array_of_the_right_width(cache: EmbeddingCache, model: Any) -> None:
    vectors = cache.encode([], model)
    assert vectors.shape == (0, 4)
    assert vectors.dtype == np.float32
    assert model.calls == []
    assert cache.get([])[1].shape == (0, 4)


def test_odd_texts_are_ordinary_texts(tmp_path: Path, model: Any) -> None:
    texts = ["", "\0", "a\0", "a", "\udc80", "x" * 10_000_000, " a", "a "]
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1")
    for _ in range(2):
        assert bits_equal(cache.encode(texts, model), model.vectors(texts))
    assert model.encoded == texts


def test_another_models_vectors_are_never_served(cache: EmbeddingCache, model: Any) -> None:
    for settings in (
        {"model": "toy@2"},
        {"model": "other@1"},
        {},
        {"model": "toy@1", "identity": {"prompt": "p"}},
    ):
        with pytest.raises(
            dejavec.errors.IdentityMismatchError,
            match=r"expected .*, found .* use another directory|no named model, found .*; pass",
        ):
            EmbeddingCache(cache.path, **settings)
    with pytest.raises(
        dejavec.errors.IdentityMismatchError, match=r"expected model toy@2, found model toy@1"
    ):
        EmbeddingCache(cache.path, model="toy@2", mode="r")
    assert EmbeddingCache(cache.path, model="toy@1").get(["a"])[0].all()


def test_another_models_vectors_go_to_a_sibling_with_one_warning(cache: EmbeddingCache, model: Any) -> None:
    with pytest.warns(dejavec.DejavecWarning, match=r"go to .*cache@[0-9a-f]{12} instead") as warned:
        other = EmbeddingCache(cache.path, model="toy@2", on_mismatch="sibling")
    assert len(warned) == 1
    assert Path(warned[0].filename).name == "test_cache.py"
    other.encode(TEXTS, model)
    assert other.path == cache.path.with_name(other.path.name)
    assert model.encoded == ["a", "b", "c"]
    assert len(cache) == 2
    assert bits_equal(EmbeddingCache(other.path, model="toy@2").get(["c"])[1], model.vectors(["c"]))


@pytest.mark.npy_only
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | UNICODE))
def test_an_identity_comes_back_as_it_was_given(values: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            with EmbeddingCache(directory, identity={"values": values}, durability="close") as cache:
                cache.put(["a"], [[1.0]])


def test_two_makers_of_one_directory_are_told_apart(tmp_path: Path, model: Any) -> None:
    first = EmbeddingCache(tmp_path / "cache", model="toy@1")
    second = EmbeddingCache(tmp_path / "cache", model="toy@2")
    first.encode(["a"], model)
    with pytest.raises(dejavec.errors.IdentityMismatchError):
        second.encode(["a"], model)


def test_reading_only_takes_any_model_and_writes_nothing(cache: EmbeddingCache, model: Any) -> None:
    cache.close()
    before = files_below(cache.path)
    reader = EmbeddingCache(cache.path, mode="r")
    assert reader.get(["a", "c"])[0].tolist() == [True, False]
    with pytest.raises(dejavec.errors.ReadOnlyCacheError):
        reader.put(["c"], model.vectors(["c"]))
    reader.close()
    assert files_below(cache.path) == before


def test_reading_only_needs_a_cache(tmp_path: Path) -> None:
    with pytest.raises(dejavec.errors.CacheNotFoundError):
        EmbeddingCache(tmp_path / "none", mode="r")
    assert not (tmp_path / "none").exists()


def test_a_foreign_directory_is_refused_before_the_model_runs(tmp_path: Path, model: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = files_below(tmp_path)
    with pytest.raises(dejavec.errors.ForeignDirectoryError):
        EmbeddingCache(tmp_path).encode(["a"], model)
    assert model.calls == []
    assert files_below(tmp_path) == before


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path, model: Any) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(dejavec.DejavecError):
        EmbeddingCache(tmp_path / "cache").encode(["a"], model)
    assert (tmp_path / "cache").read_text() == "mine"
    assert model.calls == []


@pytest.mark.parametrize("mode", ["r", "a"])
def test_an_old_mteb_directory_is_refused_with_the_command_that_imports_it(tmp_path: Path, mode: Any) -> None:
    (tmp_path / "vectors.npy").write_bytes(bytes(64))
    (tmp_path / "index.json").write_text("{}")
    (tmp_path / "dimension").write_text("4")
    before = files_below(tmp_path)
    with pytest.raises(
        dejavec.errors.ForeignDirectoryError, match=f"dejavec import {tmp_path} {tmp_path}-imported"
    ):
        EmbeddingCache(tmp_path, mode=mode)
    assert files_below(tmp_path) == before


def test_a_cache_may_have_others_below_it(tmp_path: Path, model: Any) -> None:
    EmbeddingCache(tmp_path / "query", model="toy@1").encode(["a"], model)
    EmbeddingCache(tmp_path, model="toy@1").encode(["b"], model)
    assert len(EmbeddingCache(tmp_path, model="toy@1")) == 1


@pytest.mark.parametrize(
    "settings",
    [{"mode": "w"}, {"miss": "none"}, {"durability": "never"}, {"on_nonfinite": ""}, {"chunk_rows": 0}],
)
def test_settings_that_do_not_exist_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(settings))}"):
        EmbeddingCache(tmp_path / "cache", **settings)


def test_a_closed_cache_says_so(cache: EmbeddingCache, model: Any) -> None:
    with cache:
        pass
    cache.close()
    for call in (
        lambda: cache.get(["a"]),
        lambda: cache.encode(["a"], model),
        lambda: len(cache),
        cache.sync,
    ):
        with pytest.raises(dejavec.errors.ClosedCacheError):
            call()


def test_another_handles_rows_are_seen_after_refresh_and_by_encode(cache: EmbeddingCache, model: Any) -> None:
    reader = EmbeddingCache(cache.path, model="toy@1")
    cache.put(["c"], model.vectors(["c"]))
    assert reader.refresh() == 3
    assert "c" in reader
    cache.put(["d"], model.vectors(["d"]))
    reader.encode(["d"], model)
    assert model.calls == []


def test_plan_tells_what_encode_will_do(cache: EmbeddingCache, model: Any) -> None:
    plan = cache.plan(["a", "c", "c", "d", "b", "a"])
    assert plan == Plan(items=6, hits=3, misses=2, duplicates=1, bytes=2 * (16 + 40))
    cache.encode(["a", "c", "c", "d", "b", "a"], model)
    assert model.encoded == ["c", "d"]
    assert cache.plan(["a", "c"]) == Plan(items=2, hits=2, misses=0, duplicates=0, bytes=0)


def test_each_encode_logs_one_line(cache: EmbeddingCache, model: Any, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="dejavec"):
        cache.encode(TEXTS, model)
    (record,) = caplog.records
    assert record.getMessage() == f"{cache.path}: 3 hits, 1 misses, 0 duplicates, 56 bytes added"


def test_a_bar_is_shown_only_if_texts_are_encoded(tmp_path: Path, model: Any, capsys: Any) -> None:
    cache = EmbeddingCache(tmp_path / "cache", progress=True)
    cache.encode(TEXTS, model)
    assert "3/3" in capsys.readouterr().err
    cache.encode(TEXTS, model)
    assert capsys.readouterr().err == ""
    EmbeddingCache(cache.path, progress=None).encode(["d"], model)
    assert capsys.readouterr().err == ""


def test_the_decorator_caches_a_function(tmp_path: Path, model: Any) -> None:
    @cached(tmp_path / "cache", model="toy@1")
    def embed(texts: list[str]) -> np.ndarray:
        """Make vectors."""
        return model(texts)

    assert embed.__name__ == "embed"  # type: ignore[attr-defined]
    assert embed.__doc__ == "Make vectors."
    for _ in range(2):
        assert bits_equal(embed(TEXTS), model.vectors(TEXTS))
    assert model.encoded == ["a", "b", "c"]
    assert len(embed.cache) == 3


@pytest.mark.parametrize("through_encode", [False, True])
def test_a_cache_of_another_dtype_in_the_same_place_is_not_mixed(
    tmp_path: Path, through_encode: bool
) -> None:
    path, wide, narrow = tmp_path / "cache", ToyModel(), ToyModel(dtype="bfloat16")
    early = EmbeddingCache(path, model="toy@1")  # before there is a cache
    replaced = EmbeddingCache(path, model="toy@1")
    replaced.put(["a"], wide.vectors(["a"]))
    shutil.rmtree(path)
    other = EmbeddingCache(path, model="toy@1")
    other.put(["q"], narrow.vectors(["q"]))
    # Of the first the vectors are at fault, of the second the directory.
    for cache, expected, found in ((early, "bfloat16", "float32"), (replaced, "float32", "bfloat16")):
        store = partial(cache.encode if through_encode else cache.put, ["x"])
        with pytest.raises(dejavec.errors.VectorsError, match=rf"expected.*{expected}.*found.*\W{found}"):
            store(wide if through_encode else wide.vectors(["x"]))
    other.refresh()
    assert len(other) == 1
    assert bits_equal(other.get(["q"])[1], narrow.vectors(["q"]))


def test_an_array_for_a_cache_that_is_not_there_yet_is_filled_with_zeros(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    out = np.full((2, 3), 7, np.float32)
    found, vectors = cache.get(["a", "b"], out=out)
    assert vectors is out
    assert not found.any()
    assert not out.any()


@pytest.mark.parametrize("exists", [False, True])
def test_what_cannot_take_vectors_is_refused_in_one_sentence(tmp_path: Path, exists: bool) -> None:
    cache = EmbeddingCache(tmp_path / "cache")
    if exists:
        cache.put(["a"], np.ones((1, 3), np.float32))
    read_only = np.ones((2, 3), np.float32)
    read_only.flags.writeable = False
    odd: list[tuple[Any, str]] = [
        (read_only, "read-only"),
        ([[1.0] * 3] * 2, "found list"),
        (np.ones((9, 9)), r"\(9, 9\)"),
        (np.ones(2, np.float32), r"\(2,\)"),
        (np.ones((2, 3), object), "object"),
        (np.ones((2, 6), np.float32)[:, ::2], "not C-contiguous"),
    ]
    for out, found in odd:
        with pytest.raises(dejavec.errors.VectorsError, match=f"^out=: expected C-contiguous [^\n]*{found}"):
            cache.get(["a", "b"], out=out)


def test_threads_that_use_a_new_cache_first_share_one_store(tmp_path: Path) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for run in range(20):
            path = tmp_path / f"{run}"
            with EmbeddingCache(path, durability="close") as cache:
                barrier = threading.Barrier(6)

                def work(number: int, cache: Any = cache, barrier: Any = barrier) -> bool:
                    barrier.wait()
                    cache.put([f"{number}"], np.full((1, 2), number, np.float32))
                    return f"{number}" in cache

                with ThreadPoolExecutor(6) as pool:
                    assert all(pool.map(work, range(6)))
            stats = EmbeddingCache(path, mode="r").stats()
            assert stats["rows"] == stats["synced"] == 6
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_a_lock_that_a_thread_of_its_parent_held(
    cache: EmbeddingCache, model: Any
) -> None:
    script = """
import os, signal, sys, threading
from dejavec import EmbeddingCache
cache = EmbeddingCache(sys.argv[1], model="toy@1")
held, done = threading.Event(), threading.Event()
def hold():
    with cache._store._handle._opening:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if "a" in cache else 1)
status = os.waitpid(child, 0)[1]
done.set()
sys.exit(status)
"""
    subprocess.run([sys.executable, "-c", script, str(cache.path)], check=True, timeout=60)
