"""Coroutine functions: batches side by side, each kept as it returns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal

from dejavec import DejavecWarning, EmbeddingCache
from dejavec.errors import VectorsError

TEXTS = [f"text {number}" for number in range(20)]


def vectors(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32)


class Service:
    """Answers batches in an order of its own, and counts."""

    def __init__(self, fails: Callable[[list[str]], bool] = lambda _: False) -> None:
        self.batches: list[list[str]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.fails = fails
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for _ in range(len(self.batches) % 3):
                await asyncio.sleep(0)
            await self.open.wait()
            if self.fails(texts):
                raise ConnectionError(texts[0])
            return vectors(texts)
        finally:
            self.at_once -= 1


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "c", model="m@1")


async def committed(cache: EmbeddingCache, rows: int) -> None:
    while len(cache) < rows:
        await asyncio.sleep(0)


class TestEncode:
    def test_misses_go_in_batches_and_so_many_at_a_time(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            service = Service()
            found = await cache.aencode(TEXTS, service, batch_size=3, concurrency=4)
            assert bits_equal(found, vectors(TEXTS))
            assert sorted(map(len, service.batches)) == [2, *[3] * 6]
            assert service.most_at_once == 4
            again = Service()
            assert bits_equal(await cache.aencode(TEXTS[::-1], again), vectors(TEXTS[::-1]))
            assert again.batches == []

        asyncio.run(run())

    def test_a_text_that_several_tasks_miss_is_requested_once(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            service = Service()
            calls = (cache.aencode(TEXTS[at:], service, batch_size=3) for at in range(10))
            for at, found in enumerate(await asyncio.gather(*calls)):
                assert bits_equal(found, vectors(TEXTS[at:]))
            requested = [text for batch in service.batches for text in batch]
            assert sorted(requested) == sorted(TEXTS)

        asyncio.run(run())

    @pytest.mark.parametrize("name", ["", "unnamed"])
    def test_each_batch_is_committed_as_it_returns_and_cancellation_keeps_it(
        self, name: str, tmp_path: Path
    ) -> None:
        cache = EmbeddingCache(tmp_path, model=None if name else "m@1")

        async def run() -> None:
            stuck = asyncio.Event()

            async def first_never_returns(texts: list[str]) -> np.ndarray:
                if TEXTS[0] in texts:
                    await stuck.wait()
                return vectors(texts)

            task = asyncio.create_task(cache.aencode(TEXTS, first_never_returns, batch_size=4, concurrency=2))
            await committed(cache, 16)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [text in cache for text in TEXTS] == [False] * 4 + [True] * 16

        asyncio.run(run())

    def test_what_returned_before_a_cancellation_is_there_when_it_ends(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            second = asyncio.Event()

            async def one_returns(texts: list[str]) -> np.ndarray:
                if TEXTS[0] not in texts:
                    second.set()
                    await asyncio.Event().wait()
                return vectors(texts)

            call = cache.aencode(TEXTS, one_returns, batch_size=4, concurrency=1)
            task = asyncio.create_task(call)
            await second.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(cache) == 4

        asyncio.run(run())


class TestFailures:
    def test_a_failed_batch_raises_once_the_others_that_run_have_returned(
        self, cache: EmbeddingCache
    ) -> None:
        async def run() -> None:
            service = Service(fails=lambda texts: TEXTS[3] in texts)
            with pytest.raises(ConnectionError, match="text 2"):
                await cache.aencode(TEXTS, service, batch_size=2, concurrency=3)
            assert service.at_once == 0
            done = [text for batch in service.batches for text in batch]
            assert [text in cache for text in TEXTS] == [
                text in done and text not in TEXTS[2:4] for text in TEXTS
            ]
            assert len(done) < len(TEXTS)
            assert bits_equal(await cache.aencode(TEXTS, Service()), vectors(TEXTS))

        asyncio.run(run())

    def test_skipped_batches_cost_only_themselves(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            service = Service(fails=lambda texts: bool({TEXTS[3], TEXTS[10]} & set(texts)))
            with pytest.warns(
                DejavecWarning, match=r"ConnectionError: text (2|10), and so none for item 2 .* item 11 "
            ):
                found = await cache.aencode(
                    [*TEXTS, TEXTS[3]], service, batch_size=2, concurrency=3, on_error="skip"
                )
            lost = [2, 3, 10, 11, 20]
            assert np.isnan(found[lost]).all()
            assert bits_equal(np.delete(found, lost, axis=0), np.delete(vectors(TEXTS), lost[:-1], axis=0))
            assert [at for at, text in enumerate(TEXTS) if text not in cache] == lost[:-1]
            assert bits_equal(await cache.aencode(TEXTS, Service()), vectors(TEXTS))

        asyncio.run(run())

    def test_if_all_batches_fail_there_is_nothing_to_skip_to(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            with pytest.raises(ConnectionError, match="text 0"):
                await cache.aencode(TEXTS, Service(fails=lambda _: True), on_error="skip")

        asyncio.run(run())

    @pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8])
    def test_nan_has_the_dtype_of_the_model_or_the_failure_is_raised(
        self, dtype: Any, cache: EmbeddingCache
    ) -> None:
        async def embed(texts: list[str]) -> np.ndarray:
            if TEXTS[0] in texts:
                raise ConnectionError("down")
            return np.ones((len(texts), 2), dtype)

        call = cache.aencode(TEXTS, embed, batch_size=5, on_error="skip")
        if dtype is np.int8:
            with pytest.raises(ConnectionError, match="down"):
                asyncio.run(call)
        else:
            with pytest.warns(DejavecWarning, match="down"):
                assert asyncio.run(call).dtype == dtype
        assert len(cache) == 15

    def test_another_task_that_waited_for_a_skipped_text_asks_itself(self, cache: EmbeddingCache) -> None:
        async def run() -> None:
            down, up = Service(fails=lambda texts: TEXTS[0] in texts), Service()
            down.open.clear()
            skips = asyncio.create_task(cache.aencode(TEXTS, down, batch_size=10, on_error="skip"))
            while not down.batches:
                await asyncio.sleep(0)
            waits = asyncio.create_task(cache.aencode(TEXTS, up, batch_size=10))
            down.open.set()
            with pytest.warns(DejavecWarning, match="text 0"):
                await skips
            assert bits_equal(await waits, vectors(TEXTS))
            assert sorted(text for batch in up.batches for text in batch) == sorted(TEXTS[:10])

        asyncio.run(run())

    def test_wrong_vectors_of_one_batch_are_an_error(self, cache: EmbeddingCache) -> None:
        async def one_short(texts: list[str]) -> np.ndarray:
            return vectors(texts)[1:] if TEXTS[5] in texts else vectors(texts)

        with pytest.raises(VectorsError, match="4"):
            asyncio.run(cache.aencode(TEXTS, one_short, batch_size=4, concurrency=1))
        assert len(cache) == 4

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"batch_size": 0}, "batch_size of at least 1"),
            ({"concurrency": 0}, "concurrency of at least 1"),
            ({"on_error": "ignore"}, "on_error to be one of"),
        ],
    )
    def test_wrong_arguments_are_named(
        self, arguments: dict[str, Any], error: str, cache: EmbeddingCache
    ) -> None:
        with pytest.raises(ValueError, match=error):
            asyncio.run(cache.aencode(TEXTS, Service(), **arguments))

    def test_a_function_that_is_no_coroutine_function_is_named(self, cache: EmbeddingCache) -> None:
        function: Any = vectors
        with pytest.raises(TypeError, match="a coroutine function"):
            asyncio.run(cache.aencode(TEXTS, function))


def test_get_and_put_have_coroutines_too(cache: EmbeddingCache) -> None:
    async def run() -> None:
        assert await cache.aput(TEXTS, vectors(TEXTS)) == 20
        found, rows = await cache.aget(["unknown", *TEXTS])
        assert found.tolist() == [False] + [True] * 20
        assert bits_equal(rows[1:], vectors(TEXTS))

    asyncio.run(run())
