"""Reads see what other processes have stored, without a call of refresh."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run, vectors

from dejavec import EmbeddingCache
from dejavec.errors import CacheNotFoundError


def test_reads_see_what_another_process_stored(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.put(["a"], vectors(["a"]))
    handles = [EmbeddingCache(path, model="toy@1"), EmbeddingCache(path, mode="r")]
    for handle in handles:
        assert len(handle) == 1
        assert "b" not in handle
        assert not handle.get(["b"])[0].any()
    stored = ["a"]
    for text in ("b", "c", "d", "e"):
        run('EmbeddingCache(path, model="toy@1").put(arguments, vectors(arguments))', path, text)
        stored.append(text)
        for handle in handles:
            # Each kind of read is the first after a change, in turn.
            if text == "b":
                assert len(handle) == 2
            elif text == "c":
                assert "c" in handle
            elif text == "d":
                assert handle.get(["d"])[1].tobytes() == vectors(["d"]).tobytes()
            found, held = handle.get(stored)
            assert found.all()
            assert held.tobytes() == vectors(stored).tobytes()
    for handle in handles:
        handle.close()


def test_a_read_of_several_texts_notices_that_the_directory_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.put(["a"], vectors(["a"]))
    reader = EmbeddingCache(path, mode="r")
    assert reader.get(["a", "b"])[0].tolist() == [True, False]
    path.rename(tmp_path / "away")
    with pytest.raises(CacheNotFoundError):
        reader.get(["a", "b"])
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.put(["b"], vectors(["b"]))
    assert reader.get(["a", "b"])[0].tolist() == [False, True]
