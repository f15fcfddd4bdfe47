"""Sharing over S3: real requests to a server on this machine, which fails where services do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_rows import CONTAINERS, TEXTS, cache, filled, stored, values, vectors
from stand_ins import KEY_ID, SECRET, SERVERS, failing, hub, make_bucket, s3_environment, server

from dejavec import EmbeddingCache
from dejavec.errors import DejavecError, StorageError
from dejavec.remote import push, urls
from dejavec.sharing import pull as pull_into
from dejavec.sharing import tidy

on_each_server = pytest.mark.parametrize("s3", SERVERS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def s3(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server: of moto, unless a test says otherwise."""
    with SERVERS[getattr(request, "param", "moto")]() as port:
        yield port


@pytest.fixture
def team(s3: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3_environment(f"http://127.0.0.1:{s3}").items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    # Short: s3s-fs makes file names of twice the length of an object's.
    bucket = f"b{abs(hash(request.node.name)) % 10**8}"
    make_bucket(s3, bucket)
    return f"s3://{bucket}/t"


def through(port: int, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 20) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setitem(urls._REQUEST, "timeout", f"{int(seconds * 1000)}ms")


@on_each_server
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_bit_comes_back(
    tmp_path: Path, team: str, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "SEGMENT_BYTES", 1500)
    with filled(tmp_path / "mine", container) as mine:
        assert mine.push(team).rows == 120
        assert mine.push(team).rows == 0
        pull_into(team, tmp_path / "new")
        with cache(tmp_path / "yours", container, remote=team) as yours:
            assert stored(yours) == values(vectors(container, TEXTS))
            mine.delete(TEXTS[:9])
            mine.push(team)
            assert yours.pull(team).deleted == 9
            done = tidy(team)
            assert (done.written, done.rows) == (1, 111)
            assert tidy(team, grace=timedelta(0)).removed == done.merged
            yours.pull(team)
            assert stored(yours) == [None] * 9 + values(vectors(container, TEXTS[9:]))
        with cache(tmp_path / "fresh", container) as fresh:
            assert fresh.pull(team).rows == 111
            assert stored(fresh) == [None] * 9 + values(vectors(container, TEXTS[9:]))


def test_a_large_segment_goes_in_parts_without_conditions_or_metadata(
    tmp_path: Path, s3: int, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 384)).astype(np.float32)
    texts = [f"text {number}" for number in range(len(rows))]
    with server(s3) as (port, seen), EmbeddingCache(tmp_path / "mine", model="m@1") as mine:
        through(port, monkeypatch)
        mine.put(texts, rows)
        assert mine.push(team).segments == 1
        with EmbeddingCache(tmp_path / "yours", model="m@1") as yours:
            yours.pull(team)
            assert np.array_equal(yours.get(texts)[1], rows)
        with EmbeddingCache(tmp_path / "some", model="m@1", remote=team) as some:
            asked = [texts[at] for at in range(7, 20_000, 100)]
            before = len(seen.lines)
            found, got = some.get(asked)
            assert found.all()
            assert np.array_equal(got, rows[7::100])
            ranges = [
                headers["range"]
                for line, headers in zip(seen.lines[before:], seen.headers[before:], strict=True)
                if "vectors.npy" in line
            ]
            sizes = [int(end) - int(start) + 1 for start, end in (one[6:].split("-") for one in ranges)]
            assert sum(sizes) <= 0.03 * rows.nbytes
    assert sum("partNumber" in line for line in seen.lines) >= 3
    names = {name for headers in seen.headers for name in headers}
    assert not {name for name in names if name.startswith(("if-", "x-amz-meta", "x-amz-tagging"))}
    assert not [line for line in seen.lines if ".." in line or "//" in line.partition(" ")[2]]


@pytest.mark.parametrize("how", ["error", "throttled", "reset", "truncated", "short"])
def test_a_store_that_fails_now_and_then_loses_nothing(
    tmp_path: Path, s3: int, team: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "SEGMENT_BYTES", 500)
    with server(s3, **failing(how, 0.2)) as (port, seen):
        through(port, monkeypatch)
        with filled(tmp_path / "mine") as mine, cache(tmp_path / "yours") as yours:
            for done in (lambda: mine.push(team), lambda: yours.pull(team)):
                for _ in range(8):
                    try:
                        done()
                        break
                    except StorageError:
                        continue
            yours.pull(team)
            assert stored(yours) == values(vectors("npy", TEXTS))
            assert yours.verify()["damaged"] == []
    assert len(seen.lines) > 10


def test_answers_that_come_too_late_are_asked_for_again(
    tmp_path: Path, s3: int, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(s3, **failing("slow", 0.15, seed=3)) as (port, _):
        through(port, monkeypatch, seconds=1)
        with filled(tmp_path / "mine") as mine, cache(tmp_path / "yours") as yours:
            mine.push(team)
            yours.pull(team)
            assert stored(yours) == values(vectors("npy", TEXTS))


@pytest.mark.parametrize("how", ["denied", "gone"])
def test_a_store_that_always_fails_is_one_clear_error_without_secrets(
    tmp_path: Path, team: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(handler: Any) -> bool:
        handler.answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
        return True

    if how == "gone":
        with server(1) as (port, _):
            pass
        monkeypatch.setattr("dejavec.remote.objects._TRIES", 1)
    with server(1, before=before) as (denied, _), filled(tmp_path / "mine") as mine:
        through(denied if how == "denied" else port, monkeypatch)
        with pytest.raises(StorageError, match=r"could not be listed.*run it again") as raised:
            mine.push(team)
    assert SECRET not in str(raised.value)
    assert KEY_ID not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_credentials_are_written_nowhere(tmp_path: Path, team: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with filled(tmp_path / "mine", remote=team) as mine:
        mine.push(team)
    with cache(tmp_path / "yours", remote=team) as yours:
        yours.pull(team)
        said = repr(yours) + str(yours.__getstate__())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
        assert not path.is_file() or KEY_ID.encode() not in path.read_bytes()
    assert SECRET not in caplog.text + said
    assert KEY_ID not in caplog.text + said


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_hub_redirects_and_its_cdn_sees_no_credentials(
    tmp_path: Path, s3: int, team: str, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = team.split("/")[2]
    address = f"hf://buckets/an-organisation/{bucket}/models"
    with hub(s3) as (port, seen, seen_by_cdn):
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        monkeypatch.setattr(urls, "_HUB", f"http://127.0.0.1:{port}")
        texts = [f"text {number}" for number in range(3000)]
        with filled(tmp_path / "mine", container, texts) as mine:
            assert mine.push(address).rows == 3000
        with cache(tmp_path / "some", container, remote=address) as some:
            assert stored(some, ["text 7", "text 2005"]) == values(
                vectors(container, ["text 7", "text 2005"])
            )
        with cache(tmp_path / "yours", container) as yours:
            assert yours.pull(address).rows == 3000
            assert stored(yours, texts) == values(vectors(container, texts))
    assert any("authorization" in headers for headers in seen.headers)
    assert seen_by_cdn.headers
    assert not any("authorization" in headers for headers in seen_by_cdn.headers)
    assert any("range" in headers for headers in seen_by_cdn.headers)


@on_each_server
def test_eight_processes_push_at_once_and_three_are_killed(tmp_path: Path, team: str) -> None:
    """A fresh puller gets every row of those that ended, right and once; nothing else but right rows."""
    texts = [f"text {number}" for number in range(2400)]
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from shared_rows import cache, vectors
from dejavec.remote import push
push.SEGMENT_BYTES = 2000
number = int(sys.argv[1])
texts = [f"text {{at % 2400}}" for at in range(number * 300, number * 300 + 600)]
with cache({str(tmp_path)!r} + f"/cache-{{number}}") as opened:
    opened.put(texts, vectors("npy", texts))
    print("begins", flush=True)
    opened.push({team!r})
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    for number, process in enumerate(running):
        assert process.stdout
        process.stdout.readline()
        if number in (1, 4, 6):
            for _ in range(1000 * number):
                os.sched_yield()
            process.kill()
    ended = [number for number, process in enumerate(running) if process.wait(200) == 0]
    assert set(ended) >= {0, 2, 3, 5, 7}
    with cache(tmp_path / "fresh") as fresh:
        fresh.pull(team)
        right, got = values(vectors("npy", texts)), stored(fresh, texts)
        assert all(row in (None, good) for row, good in zip(got, right, strict=True))
        for number in ended:
            mine = [at % 2400 for at in range(number * 300, number * 300 + 600)]
            assert all(got[at] == right[at] for at in mine)
        assert len(fresh.vectors) == len(fresh) == sum(row is not None for row in got)


def test_an_error_of_ours_is_no_error_of_the_store(team: str, tmp_path: Path) -> None:
    with cache(tmp_path / "yours") as yours, pytest.raises(DejavecError, match="found none"):
        yours.pull(team)
