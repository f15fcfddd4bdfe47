"""A cache with a store behind it: local first, then the store, then the model; and what is new goes there."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_rows import TEXTS, cache, filled, objects_of, stored, values, vectors

from dejavec import EmbeddingCache
from dejavec.errors import DejavecWarning, IdentityMismatchError, StorageError, VectorsError
from dejavec.remote import objects, push
from dejavec.remote.shared_cache import StoreBehind


class Model:
    """Counts the texts that it encodes."""

    def __init__(self, container: str, shift: float = 0) -> None:
        self.container, self.shift, self.seen = container, shift, list[str]()

    def __call__(self, texts: list[str]) -> Any:
        self.seen += texts
        return vectors(self.container, texts, self.shift)


def test_only_what_nobody_has_is_encoded(tmp_path: Path, team: str, container: Any) -> None:
    with cache(tmp_path / "one", container, remote=team) as one:
        model = Model(container)
        assert values(one.encode(TEXTS[:80], model)) == values(vectors(container, TEXTS[:80]))
        assert model.seen == TEXTS[:80]
    with cache(tmp_path / "other", container, remote=team) as other:
        model = Model(container)
        plan = other.plan([*TEXTS, TEXTS[100], TEXTS[5]])
        assert (plan.hits, plan.misses, plan.duplicates, len(other)) == (81, 40, 1, 0)
        assert values(other.encode(TEXTS, model)) == values(vectors(container, TEXTS))
        assert model.seen == TEXTS[80:]
        assert other.verify()["damaged"] == []
    with cache(tmp_path / "third", container, remote=team, miss="raise") as third:
        assert values(third.encode(TEXTS, Model(container))) == values(vectors(container, TEXTS))
        assert stored(third) == values(vectors(container, TEXTS))


def test_a_call_whose_texts_are_here_asks_the_store_nothing(
    tmp_path: Path, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cache(tmp_path / "one", remote=team) as one:
        one.encode(TEXTS, Model("npy"))

    def forbidden(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(objects.Objects, "_try", forbidden)
    with cache(tmp_path / "one", remote=team) as one:
        one.encode(TEXTS, Model("npy"))


def test_one_text_is_fetched_without_its_segment(tmp_path: Path, team: str) -> None:
    texts = [f"text {number}" for number in range(20_000)]
    filled(tmp_path / "mine", texts=texts).push(team)
    with cache(tmp_path / "yours", remote=team) as yours:
        found, got = yours.get(["text 77"])
        assert (bool(found[0]), values(got)) == (True, values(vectors("npy", ["text 77"])))
        assert len(yours) == 1
        assert "text 5" in yours
        assert "no text" not in yours


def test_what_is_new_goes_there_while_the_cache_is_open(tmp_path: Path, team: str) -> None:
    with cache(tmp_path / "one", remote=StoreBehind(team, push_bytes=1000)) as one:
        one.encode(TEXTS, Model("npy"))
        deadline = time.monotonic() + 60
        while not objects_of(tmp_path / "team", ".keys") and time.monotonic() < deadline:
            os.sched_yield()
        with cache(tmp_path / "other", remote=team) as other:
            model = Model("npy")
            other.encode(TEXTS, model)
            assert model.seen == []


def test_a_killed_process_loses_no_row_and_the_next_one_pushes_it(tmp_path: Path, team: str) -> None:
    program = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from shared_rows import TEXTS, cache, vectors
opened = cache({str(tmp_path / "one")!r}, remote={team!r})
opened.encode(TEXTS, lambda texts: vectors("npy", texts))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not objects_of(tmp_path / "team", ".keys")
    with cache(tmp_path / "one", remote=team):
        pass
    with cache(tmp_path / "other", remote=team) as other:
        assert stored(other) == values(vectors("npy", TEXTS))


def test_a_store_that_fails_costs_nothing_but_its_rows(
    tmp_path: Path, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "mine").push(team)

    def failing(*_: Any) -> None:
        raise StorageError("the store", expected="an answer", found="none")

    with monkeypatch.context() as patched:
        patched.setattr(objects.Objects, "_try", failing)
        one = cache(tmp_path / "one", remote=team)
        model = Model("npy")
        with pytest.warns(DejavecWarning, match="goes on without file://"):
            assert values(one.encode(TEXTS, model)) == values(vectors("npy", TEXTS))
        assert model.seen == TEXTS
        with pytest.raises(StorageError, match="the store: expected an answer"):
            one.close()
        assert one.closed
    with cache(tmp_path / "one", mode="r") as one:
        assert stored(one) == values(vectors("npy", TEXTS))


def test_deletions_and_new_encodings_travel(tmp_path: Path, team: str, container: Any) -> None:
    with (
        cache(tmp_path / "one", container, remote=team) as one,
        cache(tmp_path / "other", container) as other,
    ):
        one.encode(TEXTS, Model(container))
        one.push(team)
        other.pull(team)
        one.delete(TEXTS[:5])
        model = Model(container)
        one.encode(TEXTS[:2], model)
        assert model.seen == TEXTS[:2], "a deleted text is encoded again, not fetched"
        one.close()
        assert other.pull(team).deleted in (3, 5)
        other.pull(team)
        assert stored(other) == values(vectors(container, TEXTS[:2])) + [None] * 3 + values(
            vectors(container, TEXTS[5:])
        )


def test_a_function_is_asked_about_vectors_from_the_store(tmp_path: Path, team: str) -> None:
    settings: dict[str, Any] = {"identity": {"layer": 3}, "remote": team}
    with EmbeddingCache(tmp_path / "one", **settings) as one:
        one.encode(TEXTS, Model("npy"))
    with EmbeddingCache(tmp_path / "same", **settings) as same:
        model = Model("npy")
        same.encode(TEXTS, model)
        assert 0 < len(model.seen) <= 16
    with EmbeddingCache(tmp_path / "other", **settings) as other, pytest.raises(IdentityMismatchError):
        other.encode(TEXTS, Model("npy", shift=3))


def test_a_cache_without_a_named_model_or_for_reading_has_no_store(tmp_path: Path, team: str) -> None:
    with pytest.raises(VectorsError, match="a named model"):
        EmbeddingCache(tmp_path / "bare", remote=team)
    filled(tmp_path / "mine").close()
    with pytest.raises(ValueError, match='expected mode="a" with remote='):
        cache(tmp_path / "mine", remote=team, mode="r")
    with pytest.raises(ValueError, match="expected an address"):
        cache(tmp_path / "mine", remote="somewhere")


def test_a_pickled_cache_has_the_store_again(tmp_path: Path, team: str) -> None:
    filled(tmp_path / "mine").push(team)
    with cache(tmp_path / "yours", remote=team) as yours, pickle.loads(pickle.dumps(yours)) as again:
        assert stored(again) == values(vectors("npy", TEXTS))


@pytest.mark.slow
def test_eight_processes_push_overlapping_caches_and_three_are_killed(tmp_path: Path, team: str) -> None:
    """A fresh puller gets every row that was pushed, right and once."""
    texts = [f"text {number}" for number in range(4000)]
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from shared_rows import cache, vectors
from dejavec.remote import push
push.SEGMENT_BYTES = 4000
number = int(sys.argv[1])
texts = [f"text {{at % 4000}}" for at in range(number * 450, number * 450 + 900)]
with cache({str(tmp_path)!r} + f"/cache-{{number}}") as opened:
    opened.put(texts, vectors("npy", texts))
    print("begins", flush=True)
    opened.push({team!r})
    print("ended", flush=True)
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    for number, process in enumerate(running):
        assert process.stdout
        process.stdout.readline()
        if number in (1, 4, 6):
            # In the middle: once some segment of anybody is there.
            while not objects_of(tmp_path / "team", ".keys"):
                os.sched_yield()
            process.kill()
    ended = [number for number, process in enumerate(running) if process.wait(120) == 0]
    assert set(ended) >= {0, 2, 3, 5, 7}
    with cache(tmp_path / "fresh") as fresh:
        fresh.pull(team)
        right = values(vectors("npy", texts))
        got = stored(fresh, texts)
        assert all(row in (None, good) for row, good in zip(got, right, strict=True))
        for number in ended:
            mine = [at % 4000 for at in range(number * 450, number * 450 + 900)]
            assert all(got[at] == right[at] for at in mine)
        assert len(fresh.vectors) == len(fresh) == sum(row is not None for row in got)
        # Half-uploaded segments are mended by whoever pushes the same rows again.
        for number in (1, 4, 6):
            with cache(tmp_path / f"cache-{number}") as killed:
                killed.push(team)
        fresh.pull(team)
        assert np.array_equal(np.array(stored(fresh, texts[:3600])), np.array(right[:3600]))
    assert push.SEGMENT_BYTES > 4000
