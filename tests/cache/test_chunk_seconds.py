"""Work is kept by time: what took about ten seconds is committed, and no bit depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from processes import run
from toy_model import ToyModel

from dejavec import DejavecWarning, EmbeddingCache
from dejavec.errors import VectorsError
from dejavec.fill.chunks import ChunkSizes
from dejavec.fill.fill import fill
from dejavec.fill.settings import FillSettings
from dejavec.keys.items import text_keys


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowModel:
    """Takes a known time for each text, and may break after some texts."""

    def __init__(self, clock: Clock, seconds_each: float, breaks_after: int | None = None) -> None:
        self.toy = ToyModel()
        self.clock = clock
        self.seconds_each = seconds_each
        self.breaks_after = breaks_after
        self.done = 0

    def __call__(self, texts: list[str]) -> Any:
        for _ in texts:
            self.clock.now += self.seconds_each
            self.done += 1
            if self.done == self.breaks_after:
                raise RuntimeError("the model broke")
        return self.toy(texts)


def fill_texts(cache: EmbeddingCache, texts: list[str], model: Any, clock: Clock, **settings: Any) -> Any:
    return fill(
        cache._store,
        text_keys(texts),
        lambda positions: model([texts[position] for position in positions]),
        FillSettings(**settings),
        clock=clock,
    ).vectors


@pytest.mark.parametrize("count", [100, 1_000, 5_000, 12_000])
@pytest.mark.parametrize("seconds_each", [0.01, 0.1, 3.0])
def test_a_failure_at_ninety_percent_loses_ten_seconds_and_a_batch_at_most(
    tmp_path: Path, count: int, seconds_each: float
) -> None:
    clock = Clock()
    model = SlowModel(clock, seconds_each, breaks_after=count * 9 // 10)
    texts = [f"text {number}" for number in range(count)]
    cache = EmbeddingCache(tmp_path / "cache", model="m@1", durability="close")
    with pytest.raises(RuntimeError, match="the model broke"):
        fill_texts(cache, texts, model, clock)
    lost = model.done - len(cache)
    assert lost <= max(32, 10 / seconds_each + 1)


def test_chunks_grow_until_they_take_the_time_and_shrink_when_the_model_slows_down() -> None:
    clock = Clock()
    sizes = ChunkSizes(FillSettings(batch_rows=8, chunk_rows=1_000), clock)
    seen = []
    for seconds_each in [0.01] * 4 + [1.0, 1.0, 100.0, 100.0]:
        seen.append(sizes.rows)
        sizes.start()
        clock.now += sizes.rows * seconds_each
        sizes.end(sizes.rows)
    assert seen == [8, 64, 512, 1_000, 1_000, 8, 8, 8]
    assert all(rows % 8 == 0 for rows in seen)


def test_a_fast_model_gets_chunks_of_chunk_rows_after_a_few_calls(tmp_path: Path, model: Any) -> None:
    texts = [f"text {number}" for number in range(9_000)]
    cache = EmbeddingCache(tmp_path / "cache", model="m@1", durability="close", chunk_rows=4_000)
    assert bits_equal(cache.encode(texts, model), model.vectors(texts))
    assert [len(call) for call in model.calls] == [32, 256, 2_048, 4_000, 2_664]


def test_without_chunk_seconds_only_chunk_rows_count(tmp_path: Path, model: Any) -> None:
    cache = EmbeddingCache(tmp_path / "cache", model="m@1", chunk_rows=4_000, chunk_seconds=None)
    cache.encode([f"text {number}" for number in range(9_000)], model)
    assert [len(call) for call in model.calls] == [4_000, 4_000, 1_000]


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_chunk_seconds_that_are_no_time_are_refused(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="chunk_seconds above 0 or None"):
        EmbeddingCache(tmp_path / "cache", model="m@1", chunk_seconds=seconds)


class TestBatchSize:
    def test_the_function_gets_one_batch_at_a_time(self, tmp_path: Path, model: Any) -> None:
        texts = [f"text {number}" for number in range(70)]
        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        assert bits_equal(cache.encode(texts, model, batch_size=16), model.vectors(texts))
        assert [len(call) for call in model.calls] == [16, 16, 16, 16, 6]

    def test_all_batches_before_a_failure_are_kept(self, tmp_path: Path) -> None:
        texts = [f"text {number}" for number in range(70)]
        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        with pytest.raises(RuntimeError, match="the model broke"):
            cache.encode(texts, ToyModel(fail_at=3), batch_size=16)
        assert cache.get(texts)[0].tolist() == [True] * 48 + [False] * 22

    def test_batches_are_committed_when_the_time_has_come(self, tmp_path: Path, model: Any) -> None:
        cache = EmbeddingCache(tmp_path / "cache", model="m@1", chunk_seconds=1e-9)
        kept = []

        def watching(texts: list[str]) -> Any:
            kept.append(len(EmbeddingCache(cache.path, model="m@1")))
            return model(texts)

        cache.encode(list("abcdefg"), watching, batch_size=2)
        assert kept == [0, 2, 4, 6]

    @pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
    def test_a_batch_size_that_is_none_is_refused(self, tmp_path: Path, model: Any, size: Any) -> None:
        with pytest.raises((ValueError, TypeError), match="batch_size"):
            EmbeddingCache(tmp_path / "cache", model="m@1").encode(["a"], model, batch_size=size)
        assert model.calls == []


class TestGenerators:
    @pytest.mark.parametrize("kind", ["blocks", "vectors", "lists", "tensors"])
    def test_what_a_function_yields_is_its_result(self, tmp_path: Path, model: Any, kind: str) -> None:
        texts = [f"text {number}" for number in range(100)]

        def yielding(given: list[str]) -> Iterator[Any]:
            for start in range(0, len(given), 7):
                rows = model(given[start : start + 7])
                if kind == "blocks":
                    yield rows
                elif kind == "tensors":
                    yield torch.from_numpy(rows)
                else:
                    yield from rows.tolist() if kind == "lists" else rows

        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        for _ in range(2):
            assert np.array_equal(np.asarray(cache.encode(texts, yielding)), model.vectors(texts))
        assert model.encoded == texts

    def test_each_block_is_committed_as_it_comes(self, tmp_path: Path, model: Any) -> None:
        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        kept = []

        def yielding(given: list[str]) -> Iterator[Any]:
            for start in range(0, len(given), 3):
                yield model(given[start : start + 3])
                kept.append(len(EmbeddingCache(cache.path, model="m@1")))

        cache.encode(list("abcdefgh"), yielding)
        assert kept == [3, 6, 8]

    def test_single_vectors_are_kept_when_a_later_one_fails(self, tmp_path: Path, model: Any) -> None:
        def yielding(given: list[str]) -> Iterator[Any]:
            yield from model(given[:5])
            raise ConnectionError("429")

        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        with pytest.raises(ConnectionError, match="429"):
            cache.encode(list("abcdefgh"), yielding)
        assert cache.get(list("abcdefgh"))[0].tolist() == [True] * 5 + [False] * 3

    @pytest.mark.parametrize("yielded", [2, 4])
    def test_too_few_or_too_many_rows_are_an_error(self, tmp_path: Path, yielded: int) -> None:
        def yielding(given: list[str]) -> Iterator[Any]:
            yield from np.ones((yielded, 2), np.float32)

        cache = EmbeddingCache(tmp_path / "cache", model="m@1")
        with pytest.raises(VectorsError, match=f"expected 3 rows, found {yielded}"):
            cache.encode(list("abc"), yielding)

    def test_a_buffer_that_is_yielded_again_and_again_is_copied(self, tmp_path: Path, model: Any) -> None:
        buffer = np.empty(4, np.float32)

        def yielding(given: list[str]) -> Iterator[Any]:
            for text in given:
                buffer[:] = model.vectors([text])[0]
                yield buffer

        found = EmbeddingCache(tmp_path / "cache", model="m@1").encode(list("abcde"), yielding)
        assert bits_equal(found, model.vectors(list("abcde")))

    def test_blocks_of_different_dimensions_are_an_error(self, tmp_path: Path) -> None:
        def yielding(given: list[str]) -> Iterator[Any]:
            yield np.ones((1, 2), np.float32)
            yield np.ones((1, 3), np.float32)

        with pytest.raises(VectorsError, match="dimension 2, found 3"):
            EmbeddingCache(tmp_path / "cache", model="m@1").encode(["a", "b"], yielding)

    def test_a_generator_gets_one_batch_at_a_time_too(self, tmp_path: Path, model: Any) -> None:
        def yielding(given: list[str]) -> Iterator[Any]:
            yield from model(given)

        found = EmbeddingCache(tmp_path / "cache", model="m@1").encode(list("abcde"), yielding, batch_size=2)
        assert bits_equal(found, model.vectors(list("abcde")))
        assert model.calls == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise KeyboardInterrupt"])
def test_what_took_its_time_survives_the_end_of_the_process(tmp_path: Path, end: str) -> None:
    run(
        f"""
        def dying(texts):
            if len(calls) == 3:
                {end}
            return model(texts)
        cache = EmbeddingCache(path, model='m@1', chunk_seconds=1e-9)
        cache.encode([f"text {{number}}" for number in range(200)], dying)
        """,
        tmp_path / "cache",
        expect=-9 if "SIGKILL" in end else -2,
    )
    assert len(EmbeddingCache(tmp_path / "cache", model="m@1")) == 32 + 1 + 1


def test_the_warning_of_vectors_that_are_not_finite_names_each_of_many_chunks_once(tmp_path: Path) -> None:
    def model(texts: list[str]) -> Any:
        return np.array([[np.nan if text == "bad" else 1.0] for text in texts], np.float32)

    texts = ["a", "bad", "c", "d"]
    cache = EmbeddingCache(tmp_path / "cache", model="m@1", chunk_rows=1)
    with pytest.warns(DejavecWarning, match=re.escape("item 1 ('bad')")) as warned:
        cache.encode(texts, model)
    assert len(warned) == 1
    assert Path(warned[0].filename).name == "test_chunk_seconds.py"
