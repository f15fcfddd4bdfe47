"""Workers without Ray fill a shared cache: plain processes, and the tasks of a Slurm array."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted_models import encoded, stand_in, vectors
from pages import ROOT, blocks
from shared_rows import objects_of
from static_models import static_model

from dejavec import EmbeddingCache
from dejavec.cluster import CachedEmbedder, StoredKeys
from dejavec.cluster.worker_directory import WorkerDirectory
from dejavec.errors import DejavecWarning, StorageError
from dejavec.remote import shared_cache
from dejavec.remote.push import push_over

MODEL = "stand-in@1"
TEXTS = [f"text {number}" for number in range(2_000)]
ROW_BYTES = 64 * 4 + 40

PROGRAM = """
import os
import sys
from itertools import islice
from pathlib import Path

from counted_models import stand_in
from dejavec.cluster import CachedEmbedder

corpus, url, path, log = sys.argv[1:5]
task, count = int(os.environ["SLURM_ARRAY_TASK_ID"]), int(os.environ["SLURM_ARRAY_TASK_COUNT"])
build = lambda: stand_in(Path(log), f"task{task}")
with (
    open(corpus, encoding="utf-8") as file,
    CachedEmbedder(url, path=path, model="stand-in@1", build=build, push_bytes=200 * 296) as embedder,
):
    done = 0
    mine = (line.rstrip("\\n") for line in islice(file, task, None, count))
    while batch := list(islice(mine, 100)):
        embedder.encode(batch)
        done += len(batch)
        if os.environ.get("DIES") == str(task) and done >= 300:
            os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    return {"url": f"file://{tmp_path}/team", "path": tmp_path / "local", "model": MODEL}


def tasks(
    tmp_path: Path,
    place: dict[str, Any],
    log: Path,
    *,
    count: int = 4,
    further: Mapping[str, str] | None = None,
) -> list[int]:
    """Run all tasks of an array at once, and return how they ended."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TEXTS) + "\n")
    arguments = [sys.executable, "-c", PROGRAM, corpus, place["url"], place["path"], log]
    started = []
    for task in range(count):
        slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(count)}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **slurm, **(further or {})}
        started.append(subprocess.Popen(list(map(str, arguments)), env=environment))
    return [process.wait(timeout=300) for process in started]


def check_rows(place: dict[str, Any], fresh: Path) -> None:
    with EmbeddingCache(fresh, model=MODEL) as cache:
        cache.pull(place["url"])
        found, got = cache.get(TEXTS)
        assert found.all()
        assert np.array_equal(got, vectors(TEXTS))
        assert len(cache) == len(TEXTS)


@pytest.mark.slow
def test_a_slurm_array_embeds_all_texts_once_and_a_second_one_nothing(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    assert tasks(tmp_path, place, tmp_path / "log") == [0, 0, 0, 0]
    assert sorted(encoded(tmp_path / "log")) == sorted(TEXTS)
    check_rows(place, tmp_path / "fresh")
    elsewhere = {**place, "path": tmp_path / "another machine"}
    assert tasks(tmp_path, elsewhere, tmp_path / "again", count=3) == [0, 0, 0]
    assert encoded(tmp_path / "again") == []


@pytest.mark.slow
def test_the_program_of_the_page_runs_as_an_array(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "docs" / "recipes" / "slurm.md", "python")
    started = []
    for task in range(3):
        slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "3"}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **slurm}
        started.append(subprocess.Popen([sys.executable, "-c", program.code], cwd=tmp_path, env=environment))
    assert [process.wait(timeout=300) for process in started] == [0, 0, 0]
    with StoredKeys(f"file://{tmp_path}/team", path=tmp_path / "keys", model="toy@1") as stored:
        assert len(stored) == 1000


@pytest.mark.slow
def test_what_a_killed_task_left_is_pushed_by_the_next_one_on_its_machine(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    ends = tasks(tmp_path, place, tmp_path / "log", further={"DIES": "2"})
    assert ends == [0, 0, -signal.SIGKILL, 0]
    with StoredKeys(place["url"], path=tmp_path / "keys", model=MODEL) as stored:
        assert 0 < stored.has(TEXTS).sum() < len(TEXTS)
        assert tasks(tmp_path, place, tmp_path / "log") == [0, 0, 0, 0]
        stored.refresh()
        assert (len(stored), int(stored.has(TEXTS).sum())) == (len(TEXTS), len(TEXTS))
    assert len(encoded(tmp_path / "log")) - len(TEXTS) <= 200 + 100
    check_rows(place, tmp_path / "fresh")


def test_the_model_is_built_once_at_the_first_missing_text(tmp_path: Path, place: dict[str, Any]) -> None:
    built = []

    def build() -> Any:
        built.append(1)
        return stand_in(tmp_path / "log", "one")

    with CachedEmbedder(**place, build=build, to="vector") as embedder:
        assert built == []
        batch = embedder({"text": np.array(TEXTS[:10], object), "id": np.arange(10)})
        assert list(batch) == ["text", "id", "vector"]
        assert np.array_equal(batch["vector"], vectors(TEXTS[:10]))
        embedder({"text": TEXTS[5:15]})
    with CachedEmbedder(**place, build=build, to=None) as embedder:
        assert list(embedder({"text": TEXTS[:15]})) == ["text"]
        with pytest.raises(TypeError, match="batch_format"):
            embedder(TEXTS)  # type: ignore[arg-type]
    assert built == [1]


def test_confirm_asks_the_model_even_if_nothing_is_missing(tmp_path: Path, place: dict[str, Any]) -> None:
    with CachedEmbedder(**place, build=lambda: stand_in(tmp_path / "log", "one")) as embedder:
        embedder.encode(TEXTS)
    with CachedEmbedder(**place, build=lambda: stand_in(tmp_path / "asked", "one"), confirm=4) as embedder:
        embedder.encode(TEXTS)
    assert 0 < len(encoded(tmp_path / "asked")) <= 16


def test_what_another_worker_pushed_since_the_last_batch_is_not_encoded(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    log = tmp_path / "log"
    with CachedEmbedder(**place, build=lambda: stand_in(log, "one")) as one:
        one.encode(TEXTS[:10])
        with CachedEmbedder(**place, build=lambda: stand_in(log, "other")) as other:
            other.encode(TEXTS[10:50])
        one.encode(TEXTS[:60])
    assert sorted(encoded(log)) == sorted(TEXTS[:60])


def test_encoding_waits_while_too_much_is_not_pushed(
    tmp_path: Path, place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, rows, step = tmp_path / "log", 200, 20
    pushed, most, is_over = 0, 0, threading.Event()

    def waiting() -> int:
        return len(encoded(log)) - pushed

    def slow(*arguments: Any, **named: Any) -> Any:
        nonlocal pushed
        # The store takes nothing until the worker is as far ahead as it may be.
        while waiting() < rows - 2 * step and not is_over.is_set():
            os.sched_yield()
        done = push_over(*arguments, **named)
        pushed += done.rows
        return done

    def model(texts: list[str]) -> Any:
        nonlocal most
        most = max(most, waiting())
        return stand_in(log, "one")(texts)

    monkeypatch.setattr(shared_cache, "push_over", slow)
    with CachedEmbedder(**place, build=lambda: model, push_bytes=rows * ROW_BYTES) as embedder:
        for at in range(0, len(TEXTS), step):
            embedder.encode(TEXTS[at : at + step])
        is_over.set()
    assert rows // 2 < most < rows
    check_rows(place, tmp_path / "fresh")


def test_a_store_that_fails_stops_no_worker_and_is_an_error_at_the_end(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    embedder = CachedEmbedder(**place, build=lambda: vectors, push_bytes=10 * ROW_BYTES)
    (tmp_path / "team").write_text("no directory")
    with pytest.warns(DejavecWarning, match="goes on without file://"):
        embedder.encode(TEXTS[:20])
    for at in range(20, 200, 20):
        assert len(embedder.encode(TEXTS[at : at + 20])) == 20
    with pytest.raises(StorageError):
        embedder.close()
    (tmp_path / "team").unlink()
    with CachedEmbedder(**place, build=lambda: pytest.fail("it is here")) as embedder:
        embedder.encode(TEXTS[:200])
    with StoredKeys(place["url"], path=tmp_path / "keys", model=MODEL) as stored:
        assert stored.has(TEXTS).sum() == 200


def test_a_worker_that_is_dropped_pushes(tmp_path: Path, place: dict[str, Any]) -> None:
    embedder = CachedEmbedder(**place, build=lambda: vectors)
    embedder.encode(TEXTS[:10])
    assert not objects_of(tmp_path / "team", ".keys")
    del embedder
    gc.collect()
    assert objects_of(tmp_path / "team", ".keys")


def test_workers_of_one_machine_have_directories_of_their_own(tmp_path: Path) -> None:
    with WorkerDirectory(tmp_path) as first, WorkerDirectory(tmp_path) as second:
        assert (first.path.name, second.path.name) == ("worker-0", "worker-1")
        first.close()
        with WorkerDirectory(tmp_path) as third:
            assert third.path == first.path


@pytest.mark.parametrize("model", ["org/small", "org/small@main", "org/small@12ab"])
def test_a_model_without_a_commit_needs_build(place: dict[str, Any], model: str) -> None:
    with pytest.raises(ValueError, match=r"with 40 hex digits, found 'org/small.*; or pass build="):
        CachedEmbedder(**{**place, "model": model})


@pytest.mark.slow
def test_a_model_by_its_name_is_loaded_from_the_hubs_cache(tmp_path: Path, place: dict[str, Any]) -> None:
    commit = "5" * 40
    model = static_model(tmp_path / "hub" / "models--org--small" / "snapshots" / commit)
    program = f"""
import sys
import numpy as np
from dejavec.cluster import CachedEmbedder
with CachedEmbedder({place["url"]!r}, path={str(place["path"])!r}, model="org/small@{commit}") as embedder:
    np.save(sys.argv[1], embedder.encode(["w1 w2", "w3"]))
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }
    command = [sys.executable, "-c", program, str(tmp_path / "got.npy")]
    subprocess.run(command, env={**environment, "HF_HUB_OFFLINE": "1"}, check=True)
    assert np.array_equal(np.load(tmp_path / "got.npy"), model.encode(["w1 w2", "w3"]))
    with StoredKeys(place["url"], path=tmp_path / "keys", model=f"org/small@{commit}") as stored:
        assert stored.has(["w3", "w4"]).tolist() == [True, False]


def test_keys_of_another_identity_are_not_stored_ones(tmp_path: Path, place: dict[str, Any]) -> None:
    with CachedEmbedder(**place, build=lambda: vectors, prompt="query: ") as embedder:
        embedder.encode(TEXTS[:10])
    settings = {"url": place["url"], "path": tmp_path / "keys", "model": MODEL}
    with StoredKeys(**settings) as plain, StoredKeys(**settings, prompt="query: ") as prompted:
        assert (len(plain), len(prompted)) == (0, 10)
        assert not plain.has(TEXTS).any()
        assert prompted.has([*TEXTS[:3], *TEXTS[8:12], TEXTS[0]]).tolist() == [True] * 5 + [False] * 2 + [
            True
        ]
