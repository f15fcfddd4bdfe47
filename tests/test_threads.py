"""Threads that share one cache or one wrapper do not disturb each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb_models import FieldsModel, encode, loader, same_bits

from dejavec import CachedEmbeddingWrapper, EmbeddingCache, NumpyCache


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
    wrapper = CachedEmbeddingWrapper(model, tmp_path, backend, chunk_rows=16, model_name="m@1")

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
        assert same_bits(vectors, encode(FieldsModel(), expected))
    assert wrapper.totals.items == wrapper.totals.misses == 70


def test_nothing_that_two_callers_share_can_be_assigned_a_setting(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, chunk_rows=3)
    with pytest.raises(FrozenInstanceError):
        cache.settings.chunk_rows = 5  # type: ignore[misc]
    assert cache.settings.chunk_rows == 3
