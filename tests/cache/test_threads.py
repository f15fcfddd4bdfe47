"""Threads that share one cache or one wrapper do not disturb each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal
from mteb_models import FieldsModel, encode, loader
from processes import run

from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, NumpyCache


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Run functions at the same time; return what each returns or raises."""
    outcomes: list[Any] = [None] * len(functions)

    def call(at: int) -> None:
        try:
            outcomes[at] = functions[at]()
        except BaseException as error:
            outcomes[at] = error

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return outcomes


class Paused(FieldsModel):
    """Lets other calls come between the chunks of the first call."""

    def __init__(self, pauses: list[tuple[threading.Event, threading.Event]]) -> None:
        super().__init__()
        self.pauses = pauses
        self.first = threading.get_ident()

    def output(self, rows: list[np.ndarray]) -> Any:
        if threading.get_ident() == self.first and self.pauses:
            reached, go_on = self.pauses.pop(0)
            reached.set()
            assert go_on.wait(60)
        return super().output(rows)


class MemoryBackend:
    """A backend of mteb's protocol that keeps everything in memory."""

    def __init__(self, directory: Any = None, **kwargs: Any) -> None:
        self.held: dict[str, Any] = {}

    def add(self, item: list[dict[str, Any]], vectors: Any) -> None:
        self.held.update({part["text"]: row.copy() for part, row in zip(item, vectors, strict=True)})

    def get_vector(self, item: dict[str, Any]) -> Any:
        return self.held.get(item["text"])

    def save(self) -> None: ...

    def load(self) -> None: ...

    def close(self) -> None: ...

    def __contains__(self, item: dict[str, Any]) -> bool:
        return item["text"] in self.held


@pytest.mark.parametrize("backend", [NumpyCache, MemoryBackend])
@pytest.mark.parametrize("other_sizes", [(4, 6), (10, 3), (16, 1)])
def test_calls_with_other_batch_sizes_do_not_change_the_chunks_of_a_call_under_way(
    tmp_path: Path, other_sizes: tuple[int, int], backend: Any
) -> None:
    texts = [f"text {number}" for number in range(60)]
    others = [[f"{size} {number}" for number in range(5)] for size in other_sizes]
    pauses = [(threading.Event(), threading.Event()) for _ in others]
    model = Paused(list(pauses))
    wrapper = CachedEmbeddingWrapper(
        model, tmp_path, backend, chunk_rows=16, chunk_seconds=None, model_name="m@1"
    )

    def first() -> Any:
        model.first = threading.get_ident()
        return encode(wrapper, loader(texts, batch_size=8), batch_size=8)

    def other(at: int) -> Any:
        reached, go_on = pauses[at]
        assert reached.wait(60)
        try:
            return encode(wrapper, loader(others[at]), batch_size=other_sizes[at])
        finally:
            go_on.set()

    found = in_threads(first, lambda: other(0), lambda: other(1))
    for vectors, expected in zip(found, [texts, *others], strict=True):
        assert bits_equal(vectors, encode(FieldsModel(), expected))
    assert wrapper.totals.items == wrapper.totals.misses == 70


def test_nothing_that_two_callers_share_can_be_assigned_a_setting(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, chunk_rows=3)
    with pytest.raises(FrozenInstanceError):
        cache._settings.chunk_rows = 5  # type: ignore[misc]
    assert cache._settings.chunk_rows == 3


def numbered(texts: list[str]) -> Any:
    return np.array([[len(text), 1.0] for text in texts], np.float32)


class TestOneOfManyEncodes:
    """Callers in one process that miss the same text encode it once."""

    COUNT = 20

    def test_twenty_threads_with_one_new_text_call_the_model_once(self, tmp_path: Path) -> None:
        calls: list[list[str]] = []
        all_ask, release = threading.Barrier(self.COUNT), threading.Event()
        caches = [EmbeddingCache(tmp_path / "cache", model="m@1") for _ in range(2)]

        def model(texts: list[str]) -> Any:
            calls.append(texts)
            assert release.wait(60)
            return numbered(texts)

        def ask(at: int) -> Any:
            all_ask.wait(60)
            if at == 0:
                release.set()
            return caches[at % 2].encode(["new"], model)

        found = in_threads(*(lambda at=at: ask(at) for at in range(self.COUNT)))  # type: ignore[misc]
        assert all(bits_equal(vectors, numbered(["new"])) for vectors in found)
        assert calls == [["new"]]

    def waiting_for(
        self, tmp_path: Path, model: Callable[[list[str]], Any], **settings: Any
    ) -> tuple[list[Any], list[list[str]]]:
        """Have one thread encode while others already wait; return what each got, and the model's calls."""
        calls: list[list[str]] = []
        begun, release = threading.Event(), threading.Event()
        cache = EmbeddingCache(tmp_path / "cache", model="m@1", **settings)
        in_flight = cache._store.in_flight
        waits, lock = [0], threading.Lock()
        wait = in_flight.wait

        def counted(key: bytes, claim: Any) -> None:
            with lock:
                waits[0] += 1
                if waits[0] == 3:
                    release.set()
            wait(key, claim)

        in_flight.wait = counted  # type: ignore[method-assign]

        def first_model(texts: list[str]) -> Any:
            calls.append(texts)
            if len(calls) == 1:
                begun.set()
                assert release.wait(60)
            return model(texts)

        def other() -> Any:
            assert begun.wait(60)
            return cache.encode(["new"], first_model)

        return in_threads(lambda: cache.encode(["new"], first_model), other, other, other), calls

    def test_the_others_get_the_exception_of_the_model(self, tmp_path: Path) -> None:
        def failing(texts: list[str]) -> Any:
            raise ConnectionError("429")

        found, calls = self.waiting_for(tmp_path, failing)
        assert [str(error) for error in found] == ["429"] * 4
        assert {type(error) for error in found} == {ConnectionError}
        assert calls == [["new"]]

    def test_an_interrupt_is_its_own_threads_affair(self, tmp_path: Path) -> None:
        interrupted: list[bool] = []

        def model(texts: list[str]) -> Any:
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            return numbered(texts)

        found, calls = self.waiting_for(tmp_path, model)
        assert isinstance(found[0], KeyboardInterrupt)
        assert all(bits_equal(vectors, numbered(["new"])) for vectors in found[1:])
        assert len(calls) == 2

    def test_a_vector_that_is_not_stored_is_handed_on(self, tmp_path: Path) -> None:
        def model(texts: list[str]) -> Any:
            return np.full((len(texts), 2), np.nan, np.float32)

        with pytest.warns(DejavecWarning, match="NaN or infinity"):
            found, calls = self.waiting_for(tmp_path, model)
        assert all(np.isnan(vectors).all() and vectors.shape == (1, 2) for vectors in found)
        assert calls == [["new"]]

    @pytest.mark.parametrize("number", [0.1, float("nan")])
    @pytest.mark.filterwarnings("ignore:.*NaN or infinity:dejavec.DejavecWarning")
    def test_the_others_get_what_the_model_returned_in_the_same_kind(
        self, tmp_path: Path, number: float
    ) -> None:
        found, calls = self.waiting_for(tmp_path, lambda texts: [[number]] * len(texts))
        assert calls == [["new"]]
        assert [repr(vectors) for vectors in found] == [repr([[number]])] * 4

    def test_where_nothing_can_be_written_vectors_are_handed_on(self, tmp_path: Path) -> None:
        EmbeddingCache(tmp_path / "cache", model="m@1").encode(["old"], numbered)
        with pytest.warns(DejavecWarning, match="could not be written"):
            found, calls = self.waiting_for(tmp_path, numbered, mode="r")
        assert all(bits_equal(vectors, numbered(["new"])) for vectors in found)
        assert calls == [["new"]]

    def test_refresh_encodes_again_in_each_call(self, tmp_path: Path) -> None:
        calls: list[list[str]] = []

        def model(texts: list[str]) -> Any:
            calls.append(texts)
            return numbered(texts)

        cache = EmbeddingCache(tmp_path / "cache", refresh=True)
        for _ in range(2):
            cache.encode(["a"], model)
        assert len(calls) == 2

    def test_overlapping_lists_encode_each_text_once(self, tmp_path: Path) -> None:
        texts = [f"text {number}" for number in range(400)]
        encoded: list[str] = []
        start = threading.Barrier(4)
        cache = EmbeddingCache(tmp_path / "cache", durability="close", chunk_rows=16)

        def model(some: list[str]) -> Any:
            encoded.extend(some)
            return numbered(some)

        def ask(at: int) -> Any:
            mine = texts[at * 50 : at * 50 + 250][:: 1 if at % 2 else -1]
            start.wait(60)
            return mine, cache.encode(mine, model)

        for mine, vectors in in_threads(*(lambda at=at: ask(at) for at in range(4))):  # type: ignore[misc]
            assert bits_equal(vectors, numbered(mine))
        assert sorted(encoded) == sorted(texts)

    def test_a_model_that_asks_its_own_cache_does_not_wait_for_itself(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "cache", model="m@1")

        def model(texts: list[str]) -> Any:
            return cache.encode(texts, numbered)

        assert bits_equal(cache.encode(["a", "b"], model), numbered(["a", "b"]))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent(self, tmp_path: Path) -> None:
        run(
            """
            import threading
            cache = EmbeddingCache(path)
            begun, go_on = threading.Event(), threading.Event()
            def waiting(texts):
                begun.set()
                go_on.wait(60)
                return model(texts)
            thread = threading.Thread(target=cache.encode, args=(["new"], waiting))
            thread.start()
            begun.wait(60)
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                cache.encode(["new"], model)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            go_on.set()
            thread.join()
            """,
            tmp_path / "cache",
        )

    def test_other_items_of_a_failed_call_are_no_result_of_a_waiting_call(self, tmp_path: Path) -> None:
        """What cannot be cached goes to each caller's model, with its own items."""
        begun, release = threading.Event(), threading.Event()

        class Deep(FieldsModel):
            def output(self, rows: list[np.ndarray]) -> Any:
                if not begun.is_set():
                    begun.set()
                    assert release.wait(60)
                return np.stack([rows, rows], axis=1)[..., None]

        wrapper = CachedEmbeddingWrapper(Deep(), tmp_path, model_name="m@1")

        def second() -> Any:
            assert begun.wait(60)
            threading.Timer(0, release.set).start()
            return encode(wrapper, ["b", "shared"])

        with pytest.warns(DejavecWarning, match="has no form that is kept"):
            found = in_threads(lambda: encode(wrapper, ["a", "shared", "c"]), second)
        assert bits_equal(found[0], encode(Deep(), ["a", "shared", "c"]))
        assert bits_equal(found[1], encode(Deep(), ["b", "shared"]))
