"""Who may read and write a cache, and what in its directory is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.mocks.mock_tasks import MockRetrievalTask

import dejavec
from dejavec import CachedEmbeddingWrapper, EmbeddingCache

FILES = ("meta.json", "vectors.npy", "keys.bin", "commit", "LOCK")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> Any:
    """A umask that would let everybody read and write, so that modes show what dejavec asks for."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_cache_is_its_owners_alone(tmp_path: Path, model: Any) -> None:
    with EmbeddingCache(tmp_path / "above" / "cache") as cache:
        cache.encode(["a"], model)
    assert mode(tmp_path / "above") == mode(tmp_path / "above" / "cache") == 0o700
    assert {mode(tmp_path / "above" / "cache" / name) for name in FILES} == {0o600}


def test_a_shared_cache_and_what_comes_to_it_later_is_its_groups(tmp_path: Path, model: Any) -> None:
    os.umask(0o077)
    with EmbeddingCache(tmp_path / "above" / "cache", shared=True) as cache:
        cache.encode(["a"], model)
    directory = tmp_path / "above" / "cache"
    assert mode(tmp_path / "above") == mode(directory) == 0o2770
    with EmbeddingCache(directory) as cache:  # a member of the group who does not think of it
        cache.put([str(item) for item in range(70_000)], np.ones((70_000, 4), np.float32))
    assert list(directory.glob("index-*.idx"))
    assert {mode(path) for path in directory.iterdir()} == {0o660}


@pytest.mark.parametrize(
    ("shared", "directory_mode", "file_mode"), [(False, 0o700, 0o600), (True, 0o2770, 0o660)]
)
def test_all_that_the_wrapper_makes_is_as_open_as_it_was_asked_to_be(
    tmp_path: Path, shared: bool, directory_mode: int, file_mode: int
) -> None:
    path = tmp_path / "caches"
    with CachedEmbeddingWrapper(
        "mteb/baseline-random-encoder", path, model_name="random@2", shared=shared
    ) as wrapper:
        mteb.evaluate(wrapper, MockRetrievalTask(), cache=None, co2_tracker=False)
    found = [path, *path.rglob("*")]
    assert {mode(item) for item in found if item.is_dir()} == {directory_mode}
    assert {mode(item) for item in found if item.is_file()} == {file_mode}


def test_a_directory_that_anybody_can_write_is_reported_once(tmp_path: Path, model: Any) -> None:
    with EmbeddingCache(tmp_path / "cache") as cache:
        cache.encode(["a"], model)
    (tmp_path / "cache").chmod(0o777)
    advice = "anybody may forge vectors there: run `chmod o-w"
    with pytest.warns(dejavec.DejavecWarning, match=advice) as caught:  # noqa: PT031
        cache = EmbeddingCache(tmp_path / "cache")
        cache.encode(["a", "b"], model)
        cache.encode(["a", "b"], model)
    assert len(caught) == 1
    cache.close()


def replace_by_link(path: Path) -> None:
    kept = path.with_name("elsewhere")
    path.rename(kept)
    path.symlink_to(kept)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "replace", [replace_by_link, replace_by_pipe, replace_by_device, replace_by_directory]
)
def test_what_is_no_file_in_place_of_one_is_refused(
    tmp_path: Path, model: Any, replace: Any, name: str
) -> None:
    with EmbeddingCache(tmp_path / "cache") as cache:
        cache.encode(["a"], model)
    replace(tmp_path / "cache" / name)
    with pytest.raises(dejavec.DejavecError) as caught, EmbeddingCache(tmp_path / "cache") as cache:
        cache.put(["b"], model.vectors(["b"]))
    assert name in str(caught.value)


def test_a_snapshot_that_is_no_file_costs_time_only(tmp_path: Path) -> None:
    texts, vectors = [str(item) for item in range(70_000)], np.arange(70_000, dtype=np.float32).reshape(-1, 1)
    with EmbeddingCache(tmp_path / "cache") as cache:
        cache.put(texts, vectors)
    (snapshot,) = (tmp_path / "cache").glob("index-*.idx")
    replace_by_pipe(snapshot)
    with EmbeddingCache(tmp_path / "cache") as cache:
        found, held = cache.get(texts)
    assert found.all()
    assert np.array_equal(held, vectors)
