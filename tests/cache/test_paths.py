"""A cache stays in the one directory that was meant when it was opened."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb_models import FieldsModel, encode

from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, NumpyCache, TextVectorMap, cached
from dejavec.errors import CacheNotFoundError
from dejavec.storage.identity import sibling
from dejavec.support.paths import local_directory


def ones(texts: list[str]) -> Any:
    return np.ones((len(texts), 2), np.float32)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes to another directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return lambda: os.chdir("elsewhere")


@pytest.mark.parametrize("is_warm", [False, True])
class TestAnotherCurrentDirectory:
    def test_a_cache_stays(self, elsewhere: Any, tmp_path: Path, is_warm: bool) -> None:
        cache = EmbeddingCache("c", model="m@1")
        if is_warm:
            cache.encode(["a"], ones)
        elsewhere()
        cache.encode(["a", "b"], ones)
        assert [path.parent for path in tmp_path.rglob("meta.json")] == [tmp_path / "c"]
        assert len(cache) == 2

    def test_a_decorated_function_stays(self, elsewhere: Any, tmp_path: Path, is_warm: bool) -> None:
        @cached("c", model="m@1")
        def embed(texts: list[str], prompt: str = "") -> Any:
            return ones(texts)

        if is_warm:
            embed(["a"])
        elsewhere()
        embed(["a"])
        embed(["a"], "query")
        assert {path.parent.parent for path in tmp_path.rglob("meta.json")} == {tmp_path}

    def test_a_wrapper_stays(self, elsewhere: Any, tmp_path: Path, is_warm: bool) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), "c")
        if is_warm:
            encode(wrapper, ["a"])
        elsewhere()
        encode(wrapper, ["a"])
        wrapper.close()
        encode(wrapper, ["a", "b"])
        (meta,) = tmp_path.rglob("meta.json")
        assert meta.is_relative_to(tmp_path / "c")

    def test_a_backend_stays(self, elsewhere: Any, tmp_path: Path, is_warm: bool) -> None:
        backend = NumpyCache("c")
        if is_warm:
            backend.add(["a"], ones(["a"]))
        elsewhere()
        backend.add(["b"], ones(["b"]))
        backend.close()
        backend.load()
        assert backend.get_vector("b") is not None
        assert [path.parent for path in tmp_path.rglob("meta.json")] == [tmp_path / "c"]


MAKERS = [
    EmbeddingCache,
    NumpyCache,
    lambda path: cached(path)(ones),
    lambda path: CachedEmbeddingWrapper(FieldsModel(), path),
]
IDS = ["cache", "backend", "decorator", "wrapper"]


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
class TestWhatIsNoDirectoryHere:
    @pytest.mark.parametrize(
        "path", ["s3://bucket/cache", "gs://b/c", "hf://datasets/x", "https://x/y", Path("s3://bucket/cache")]
    )
    def test_an_address_is_refused_and_makes_no_directory(
        self, make: Any, path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="to be a directory on this machine, found"):
            make(path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("path", [None, 7, b"c", ["c"]])
    def test_another_type_is_refused_by_name(self, make: Any, path: Any) -> None:
        with pytest.raises(TypeError, match=r"(path|directory|cache_path) to be a .*str"):
            make(path)

    def test_nothing_is_refused(self, make: Any) -> None:
        with pytest.raises(ValueError, match="to be a directory, found ''"):
            make("")


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_a_tilde_is_the_home_directory(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = make("~/c")
    path = next(
        getattr(part, name)
        for part, name in (
            (made, "path"),
            (made, "directory"),
            (made, "cache_path"),
            (getattr(made, "cache", None), "path"),
        )
        if name in dir(part)
    )
    assert path == tmp_path / "c"
    assert not (tmp_path / "~").exists()


def test_a_tilde_inside_a_path_is_a_name(tmp_path: Path) -> None:
    assert local_directory(tmp_path / "a~" / "~") == tmp_path / "a~" / "~"


@pytest.mark.parametrize("length", [255, 250, 243, 200])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_name_at_the_limit_leaves_room_for_another_models_cache(
    tmp_path: Path, length: int, letter: str
) -> None:
    path = tmp_path / (letter * (length // len(letter.encode())))
    with EmbeddingCache(path, model="m@1") as cache:
        cache.encode(["a"], ones)
    with pytest.warns(DejavecWarning, match="go to"):
        cache = EmbeddingCache(path, model="m@2", on_mismatch="sibling")
    cache.encode(["a"], ones)
    assert cache.path.parent == tmp_path
    assert re.search("@[0-9a-f]{12}$", cache.path.name)


def test_names_that_are_cut_stay_different() -> None:
    names = ["x" * 250 + last for last in ("a", "b")]
    assert len({sibling(Path("/c") / name, {"model": "m"}) for name in names}) == 2


class TestNothingThere:
    def test_loading_by_name_from_no_directory_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(
            CacheNotFoundError, match="typo: expected a cache, found no such directory; check"
        ):
            TextVectorMap(tmp_path / "typo").load(name="Task")
        assert not (tmp_path / "typo").exists()

    def test_a_backend_that_is_about_to_be_filled_loads(self, tmp_path: Path) -> None:
        NumpyCache(tmp_path / "new").load()
