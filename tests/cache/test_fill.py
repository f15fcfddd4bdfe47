"""Look up, encode what is missing, store it, read it back: whatever fails on the way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from comparing import bits_equal, flip_bit
from processes import run
from toy_model import ToyModel

import dejavec
from dejavec import EmbeddingCache
from dejavec.fill.fill import fill
from dejavec.fill.settings import FillSettings
from dejavec.keys.items import text_keys

pytestmark = pytest.mark.usefixtures("container")

TEXTS = [f"text {number}" for number in range(20)]


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "cache", model="toy@1", chunk_rows=5)


def test_misses_go_to_the_model_in_chunks_each_committed_before_the_next(cache: EmbeddingCache) -> None:
    class Watching(ToyModel):
        def __call__(self, texts: list[str]) -> Any:
            held.append(len(EmbeddingCache(cache.path, model="toy@1")))
            return super().__call__(texts)

    held: list[int] = []
    model = Watching()
    cache.encode(TEXTS[:12], model)
    assert [len(call) for call in model.calls] == [5, 5, 2]
    assert held == [0, 5, 10]


def test_duplicates_are_encoded_once(cache: EmbeddingCache, model: Any) -> None:
    texts = ["a", "b", "a", "a", "c", "b"]
    assert bits_equal(cache.encode(texts, model), model.vectors(texts))
    assert model.encoded == ["a", "b", "c"]


def test_a_failing_model_raises_its_own_error_and_earlier_chunks_stay(cache: EmbeddingCache) -> None:
    with pytest.raises(RuntimeError, match="the model broke"):
        cache.encode(TEXTS, ToyModel(fail_at=2))
    assert len(cache) == 10
    model = ToyModel()
    assert bits_equal(cache.encode(TEXTS, model), model.vectors(TEXTS))
    assert model.encoded == TEXTS[10:]


def test_an_interrupt_goes_through(cache: EmbeddingCache, model: Any) -> None:
    def interrupted(texts: list[str]) -> Any:
        if model.calls:
            raise KeyboardInterrupt
        return model(texts)

    with pytest.raises(KeyboardInterrupt):
        cache.encode(TEXTS, interrupted)
    assert len(cache) == 5


def test_a_chunk_that_does_not_fit_leaves_the_earlier_ones(cache: EmbeddingCache, model: Any) -> None:
    def changing(texts: list[str]) -> Any:
        return model(texts).astype(np.float32 if len(model.calls) < 3 else np.float64)

    with pytest.raises(dejavec.errors.VectorsError, match=r"5 items from item 10 .*float32, found float64"):
        cache.encode(TEXTS, changing)
    assert len(cache) == 10


def test_missing_texts_are_named_before_any_model_runs(cache: EmbeddingCache, model: Any) -> None:
    cache.put(TEXTS[:2], model.vectors(TEXTS[:2]))
    strict = EmbeddingCache(cache.path, model="toy@1", miss="raise")
    with pytest.raises(
        dejavec.errors.MissingVectorsError, match=r"found 18 missing: item 2 \('text 2'\), .* and 13 more"
    ):
        strict.encode(TEXTS, model)
    assert strict.encode(TEXTS[:2], model).shape == (2, 4)
    assert model.calls == []


def test_refresh_encodes_everything_again_and_replaces_it(cache: EmbeddingCache, model: Any) -> None:
    cache.put(TEXTS[:3], np.zeros((3, 4), np.float32))
    texts = [*TEXTS[:4], TEXTS[0]]
    renewing = EmbeddingCache(cache.path, model="toy@1", refresh=True, chunk_rows=3)
    plan = renewing.plan(texts)
    assert (plan.hits, plan.misses, plan.duplicates) == (0, 4, 1)
    assert bits_equal(renewing.encode(texts, model), model.vectors(texts))
    assert model.encoded == TEXTS[:4]
    cache.refresh()
    assert bits_equal(cache.get(texts)[1], model.vectors(texts))


def test_order_decides_what_is_encoded_first_and_not_what_is_returned(
    cache: EmbeddingCache, model: Any
) -> None:
    filled = fill(
        cache._store,
        text_keys(TEXTS),
        lambda positions: model([TEXTS[position] for position in positions]),
        FillSettings(chunk_rows=5),
        order=lambda misses: misses[::-1],
    )
    assert bits_equal(filled.vectors, model.vectors(TEXTS))
    assert model.encoded == TEXTS[::-1]
    assert filled.encoded == 20
    assert filled.counts == dejavec.Counts(items=20, hits=0, misses=20, duplicates=0, bytes=20 * (16 + 40))


def test_a_damaged_row_is_a_miss_that_is_written_again(
    cache: EmbeddingCache, model: Any, first_row: tuple[str, int]
) -> None:
    cache.encode(TEXTS, model)
    cache.close()
    for row in (3, 19):
        flip_bit(cache.path / first_row[0], first_row[1] + row * 16 + 5)
    model.calls.clear()
    with EmbeddingCache(cache.path, model="toy@1") as opened:
        found, vectors = opened.get(TEXTS)
        assert np.flatnonzero(~found).tolist() == [3, 19]
        assert not vectors[[3, 19]].any()
        texts = [*TEXTS, TEXTS[3]]
        assert bits_equal(opened.encode(texts, model), model.vectors(texts))
        assert model.encoded == [TEXTS[3], TEXTS[19]]
        assert opened.get(TEXTS)[0].all()
        assert opened.verify()["damaged"] == [3, 19]


def test_a_damaged_row_in_a_large_result_is_written_again(tmp_path: Path, first_row: tuple[str, int]) -> None:
    texts = [f"text {number}" for number in range(1_100)]
    model = ToyModel(dim=256)
    cache = EmbeddingCache(tmp_path / "cache", model="toy@1")
    expected = model.vectors(texts)
    cache.put(texts, expected)
    flip_bit(cache.path / first_row[0], first_row[1] + 700 * 1024 + 1)
    assert bits_equal(cache.encode(texts, model), expected)
    assert model.encoded == [texts[700]]


def test_a_damaged_row_is_missing_where_no_model_may_run(
    cache: EmbeddingCache, model: Any, first_row: tuple[str, int]
) -> None:
    cache.encode(TEXTS, model)
    flip_bit(cache.path / first_row[0], first_row[1])
    strict = EmbeddingCache(cache.path, model="toy@1", miss="raise")
    with pytest.raises(dejavec.errors.MissingVectorsError, match=r"found 1 missing: item 1 \('text 0'\)"):
        strict.encode([TEXTS[1], TEXTS[0]], model)


def nonfinite_model(texts: list[str]) -> Any:
    rows = np.array([[len(text), 0.5] for text in texts], np.float32)
    rows[[text.endswith("!") for text in texts], 1] = np.nan
    return rows


def test_vectors_with_nan_come_back_as_the_model_gave_them_and_are_never_stored(
    cache: EmbeddingCache,
) -> None:
    texts = ["a", "b!", "c", "b!", "d", "e", "f", "g!"]
    for known in (0, 5):
        with pytest.warns(
            dejavec.DejavecWarning, match=r"item 1 \('b!'\), item 7 \('g!'\); they are not"
        ) as warned:
            vectors = cache.encode(texts, nonfinite_model)
        assert len(warned) == 1
        assert Path(warned[0].filename).name == "test_fill.py"
        assert np.array_equal(vectors, nonfinite_model(texts), equal_nan=True)
        assert cache.get(texts)[0].tolist() == [not text.endswith("!") for text in texts]
        assert len(cache) == 5, known


def test_a_vector_with_nan_stands_for_a_damaged_row_and_is_encoded_once(
    cache: EmbeddingCache, first_row: tuple[str, int]
) -> None:
    cache.put(["a!", "b"], np.ones((2, 2), np.float32))
    flip_bit(cache.path / first_row[0], first_row[1])
    calls = []

    def model(texts: list[str]) -> Any:
        calls.append(texts)
        return nonfinite_model(texts)

    renewing = EmbeddingCache(cache.path, model="toy@1", refresh=True)
    with pytest.warns(dejavec.DejavecWarning, match="NaN"):
        vectors = renewing.encode(["a!", "b"], model)
    assert np.array_equal(vectors, nonfinite_model(["a!", "b"]), equal_nan=True)
    assert calls == [["a!", "b"]]


def test_vectors_that_are_all_nan_make_no_cache(cache: EmbeddingCache) -> None:
    with pytest.warns(dejavec.DejavecWarning, match="NaN"):
        assert np.isnan(cache.encode(["a!", "b!"], nonfinite_model)[:, 1]).all()
    assert not cache.path.exists()


def test_bfloat16_nan_comes_back_bit_for_bit(cache: EmbeddingCache) -> None:
    rows = torch.tensor([[0x3F80, 0x7FA1], [0x4000, 0x4040]], dtype=torch.int16).view(torch.bfloat16)
    with pytest.warns(dejavec.DejavecWarning, match="NaN"):
        assert bits_equal(cache.encode(["a", "b"], lambda _: rows), rows)


def test_nan_is_refused_if_asked_for(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "cache", on_nonfinite="raise", chunk_rows=2)
    with pytest.raises(dejavec.errors.NonFiniteVectorsError, match=r"item 3 \('d!'\)"):
        cache.encode(["a", "b", "c", "d!"], nonfinite_model)
    assert cache.get(["a", "b", "c"])[0].tolist() == [True, True, False]
    with pytest.raises(dejavec.errors.NonFiniteVectorsError):
        cache.put(["x", "y!"], nonfinite_model(["x", "y!"]))
    assert "x" not in cache


def test_put_leaves_out_vectors_with_nan(cache: EmbeddingCache) -> None:
    with pytest.warns(dejavec.DejavecWarning, match="1 items, the first at position 1"):
        cache.put(["a", "b!"], nonfinite_model(["a", "b!"]))
    assert cache.get(["a", "b!"])[0].tolist() == [True, False]


def test_a_model_may_use_its_output_buffer_again(tmp_path: Path, model: Any) -> None:
    buffer = np.empty((5, 4), np.float32)

    def reusing(texts: list[str]) -> Any:
        buffer[: len(texts)] = model.vectors(texts)
        return buffer[: len(texts)]

    writer = EmbeddingCache(tmp_path / "cache", chunk_rows=5)
    writer.put(["x"], model.vectors(["x"]))
    reader = EmbeddingCache(tmp_path / "cache", mode="r", chunk_rows=5)
    assert bits_equal(writer.encode(TEXTS[:10], reusing), model.vectors(TEXTS[:10]))
    with pytest.warns(dejavec.DejavecWarning):
        assert bits_equal(reader.encode(TEXTS, reusing), model.vectors(TEXTS))


def test_a_read_only_cache_still_completes_a_run_and_warns_once(cache: EmbeddingCache, model: Any) -> None:
    cache.encode(TEXTS[:5], model)
    reader = EmbeddingCache(cache.path, mode="r", chunk_rows=5)
    texts = [*TEXTS, TEXTS[7]]
    with pytest.warns(dejavec.DejavecWarning, match="could not be written") as warned:
        assert bits_equal(reader.encode(texts, model), model.vectors(texts))
    assert len(warned) == 1
    assert bits_equal(reader.encode(texts, model), model.vectors(texts))
    strict = EmbeddingCache(cache.path, mode="r", on_write_error="raise")
    with pytest.raises(dejavec.errors.ReadOnlyCacheError):
        strict.encode(TEXTS, model)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place where nobody can create files")
def test_a_cache_that_cannot_be_created_still_completes_a_run(model: Any) -> None:
    cache = EmbeddingCache("/proc/dejavec/cache", chunk_rows=5)
    with pytest.warns(dejavec.DejavecWarning, match="could not be written") as warned:
        assert bits_equal(cache.encode([*TEXTS, TEXTS[0]], model), model.vectors([*TEXTS, TEXTS[0]]))
    assert len(warned) == 1
    assert model.encoded == TEXTS
    with pytest.raises(dejavec.errors.StorageError):
        cache.put(TEXTS, model.vectors(TEXTS))


def test_a_full_disk_still_completes_a_run_and_warns_once(tmp_path: Path) -> None:
    run(
        """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        texts = [f"text {number}" for number in range(1000)]
        with EmbeddingCache(path, model="toy@1", chunk_rows=100) as cache:
            cache.encode(texts[:300], model)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
            assert len(warned) == 1, warned
            assert "could not be written" in str(warned[0].message)
            assert sum(map(len, calls)) == 1000
            held = len(cache)
            assert 300 <= held < 1000, held
            try:
                EmbeddingCache(path, model="toy@1", on_write_error="raise").encode(texts, model)
            except OSError as error:
                assert type(error).__name__ == "StorageError", error
            else:
                raise AssertionError("nothing was raised")
        """,
        tmp_path / "cache",
    )
    run(
        """
        texts = [f"text {number}" for number in range(1000)]
        with EmbeddingCache(path, model="toy@1") as cache:
            assert cache.verify()["problems"] == []
            held = len(cache)
            assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
            assert sum(map(len, calls)) == 1000 - held
        """,
        tmp_path / "cache",
    )


def test_a_crash_at_ninety_percent_keeps_the_ninety_percent(tmp_path: Path) -> None:
    texts = "texts = [f'text {number}' for number in range(100)]"
    run(
        f"""
        {texts}
        def dying(texts):
            if len(calls) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            return model(texts)
        EmbeddingCache(path, model="toy@1", chunk_rows=10).encode(texts, dying)
        """,
        tmp_path / "cache",
        expect=-9,
    )
    run(
        f"""
        {texts}
        with EmbeddingCache(path, model="toy@1", chunk_rows=10) as cache:
            assert len(cache) == 90, len(cache)
            assert cache.encode(texts, model).tobytes() == vectors(texts).tobytes()
            assert calls == [texts[90:]]
        """,
        tmp_path / "cache",
    )


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_child_reads_and_writes_and_its_parent_too(tmp_path: Path) -> None:
    run(
        """
        old = [f"old {number}" for number in range(3000)]
        new = [f"new {number}" for number in range(3000)]
        cache = EmbeddingCache(path, model="toy@1")
        before = cache.encode(old, model)
        child = os.fork()
        if child == 0:
            try:
                assert cache.encode(old + new, model).tobytes() == vectors(old + new).tobytes()
                assert sum(calls, []) == old + new
                cache.close()
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert before.tobytes() == vectors(old).tobytes()
        assert cache.encode(new, None).tobytes() == vectors(new).tobytes()
        assert cache.put(["after"], vectors(["after"])) == 1
        cache.close()
        """,
        tmp_path / "cache",
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: np.array(texts, object),
        np.array,
        lambda texts: pd.Series(texts, dtype=object),
        lambda texts: pd.Series(texts, dtype="string[python]"),
        lambda texts: pd.Series(texts, dtype="string[pyarrow]"),
        list,
    ],
)
def test_texts_that_change_while_the_model_runs_are_stored_as_they_were_given(
    tmp_path: Path, make: Any, model: Any
) -> None:
    texts = make(["a", "bb", "cc"])

    def changing(given: list[str]) -> Any:
        (texts.iloc if isinstance(texts, pd.Series) else texts)[1] = "z"
        return model(given)

    cache = EmbeddingCache(tmp_path / "cache", chunk_rows=1)
    cache.encode(texts, changing)
    assert model.encoded == ["a", "bb", "cc"]
    assert bits_equal(cache.get(["a", "bb", "cc"])[1], model.vectors(["a", "bb", "cc"]))


@pytest.mark.parametrize("first", ["numpy", "torch"])
def test_the_kind_of_array_stored_first_is_returned_by_every_call(
    cache: EmbeddingCache, model: Any, first: str
) -> None:
    def tensors(texts: list[str]) -> Any:
        return torch.from_numpy(model.vectors(texts))

    makers = [model.vectors, tensors] if first == "numpy" else [tensors, model.vectors]
    expected = type(makers[0](["a"]))
    for at, texts in enumerate((["a"], ["a", "b"], ["a", "b"], TEXTS)):
        assert type(cache.encode(texts, makers[at > 0])) is expected
        assert type(cache.get(texts)[1]) is expected

    mixed = EmbeddingCache(cache.path.with_name("mixed"), chunk_rows=1)
    assert type(mixed.encode(["a", "b"], lambda texts: makers[texts == ["b"]](texts))) is expected


@pytest.mark.parametrize("remade", [False, True])
def test_a_directory_removed_while_the_model_works_loses_no_vectors(
    cache: EmbeddingCache, model: Any, remade: bool
) -> None:
    def removing(texts: list[str]) -> Any:
        shutil.rmtree(cache.path, ignore_errors=True)
        if remade:
            cache.path.mkdir(exist_ok=True)
        return model(texts)

    cache.encode(TEXTS[:3], model)
    model.calls.clear()
    with pytest.warns(dejavec.DejavecWarning, match="could not be written") as warned:
        assert bits_equal(cache.encode(TEXTS, removing), model.vectors(TEXTS))
    assert len(warned) == 1
    assert model.encoded == TEXTS[3:]
    assert bits_equal(cache.encode(TEXTS, model), model.vectors(TEXTS))
    assert EmbeddingCache(cache.path, model="toy@1").get(TEXTS)[0].all()
    shutil.rmtree(cache.path)
    assert cache.put(TEXTS[:2], model.vectors(TEXTS[:2])) == 2
    assert EmbeddingCache(cache.path, model="toy@1").get(TEXTS[:2])[0].all()
    cache.close()
