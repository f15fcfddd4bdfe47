"""Which directory serves a call: one question at most, nothing encoded twice, and never two models in one."""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from mteb.models.cache_wrappers.cache_backends import NumpyCache as MtebNumpyCache
from mteb_models import TASK, FieldsModel, bare_minilm, encode, meta, minilm

from dejavec import CachedEmbeddingWrapper, DejavecWarning, NumpyCache
from dejavec.errors import IdentityMismatchError
from dejavec.identity import observed
from dejavec.storage.keyed_cache import KeyedCache

OLD, NEW = ["embed once", "never again", "a b c"], ["another text", "one more"]
BACKENDS = pytest.mark.parametrize("backend", [NumpyCache, MtebNumpyCache], ids=["ours", "mteb's"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning"),
    pytest.mark.filterwarnings("ignore:(Dimension file not|No existing files):UserWarning"),
]


@pytest.fixture
def library_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has another version of a library be installed."""

    def install(version: str) -> None:
        monkeypatch.setattr(observed, "versions", lambda *_: (("torch", version),))

    return install


class Api(FieldsModel):
    """A client of a model that runs elsewhere: how that is cannot be seen."""

    def __init__(self) -> None:
        super().__init__(revision="1")

    def output(self, rows: list[np.ndarray]) -> Any:
        if os.environ.get("TEST_SERVER_DOWN"):
            raise ConnectionError("the server is down")
        # One way and the other by turns.
        turn = -float(os.environ.get("TEST_SERVER_TURN", "1"))
        os.environ["TEST_SERVER_TURN"] = str(turn)
        noise = np.float32(turn * float(os.environ.get("TEST_SERVER_NOISE", "0")))
        return super().output(rows) * np.float32(os.environ.get("TEST_SERVER_FACTOR", "1")) * (1 + noise)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes the server of :class:`Api`."""

    def change(**settings: object) -> None:
        for name, value in settings.items():
            monkeypatch.setenv(f"TEST_SERVER_{name.upper()}", str(value))

    return change


class TestOneQuestion:
    @BACKENDS
    def test_after_an_upgrade_old_and_new_texts_are_asked_about_once_and_never_encoded_twice(
        self, backend: Any, tmp_path: Path, library_version: Callable[[str], None]
    ) -> None:
        model = minilm()
        library_version("1")
        with CachedEmbeddingWrapper(model, tmp_path, backend) as wrapper:
            first = encode(wrapper, OLD)
        library_version("2")
        with CachedEmbeddingWrapper(model, tmp_path, backend) as wrapper:
            encode(wrapper, NEW)
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (2, 0)
            assert bits_equal(encode(wrapper, OLD), first)
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (2, 3)
            encode(wrapper, [*NEW, *OLD])
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (2, 3)
        with CachedEmbeddingWrapper(model, tmp_path, backend) as wrapper:
            encode(wrapper, [*OLD, *NEW])
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (0, 0)

    def test_a_proven_and_visible_model_is_not_asked(self, tmp_path: Path) -> None:
        for run in range(3):
            with CachedEmbeddingWrapper(minilm(), tmp_path) as wrapper:
                encode(wrapper, OLD)
                assert wrapper.totals.misses == (3 if run == 0 else 0)
                assert wrapper.totals.confirmed == 0

    def test_a_model_that_cannot_be_seen_is_asked_once_for_four_items(self, tmp_path: Path) -> None:
        texts = [f"text {number}" for number in range(40)]
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            encode(wrapper, texts)
        model = FieldsModel()
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            for _ in range(3):
                encode(wrapper, texts)
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (0, 4)
        assert len(model.calls) == 1

    def test_without_proof_sixteen_items_are_asked_for(self, tmp_path: Path) -> None:
        texts = [f"text {number}" for number in range(40)]
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            encode(wrapper, texts)
        (proven,) = tmp_path.rglob("proven.json")
        for damage in (b"", b"{", b"[1]", proven.read_bytes().replace(b'"seen": "', b'"seen": "x')):
            proven.write_bytes(damage)
            with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
                encode(wrapper, texts)
                assert (wrapper.totals.misses, wrapper.totals.confirmed) == (0, 16)

    def test_with_confirm_0_only_what_is_proven_is_served_and_nothing_is_asked(self, tmp_path: Path) -> None:
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        for _ in range(2):
            changed = FieldsModel()
            changed.setting = 1  # type: ignore[attr-defined]
            for model, misses in ((FieldsModel(), 0), (changed, 3)):
                with CachedEmbeddingWrapper(model, tmp_path, confirm=0) as wrapper:
                    encode(wrapper, OLD)
                    assert wrapper.totals.confirmed == 0
                    assert wrapper.totals.misses in (0, misses)

    def test_a_directory_that_cannot_be_written_keeps_the_answer_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        (proven,) = tmp_path.rglob("proven.json")
        proven.unlink()
        proven.mkdir()  # Nothing can have its place.
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            for _ in range(2):
                encode(wrapper, OLD)
            assert (wrapper.totals.misses, wrapper.totals.confirmed) == (0, 3)


class TestServers:
    def test_a_server_that_changed_is_noticed_and_both_are_kept(
        self, server: Callable[..., None], tmp_path: Path
    ) -> None:
        for factor in (1.0, 2.0, 1.0, 2.0):
            server(factor=factor)
            with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
                assert bits_equal(encode(wrapper, OLD), encode(Api(), OLD))
        assert wrapper.totals.misses == 0

    def test_a_changed_server_is_not_asked_about_what_it_has_just_made_itself(
        self, server: Callable[..., None], tmp_path: Path
    ) -> None:
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        server(factor=2.0)
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            for texts in (NEW, NEW, OLD, [*OLD, *NEW]):
                assert bits_equal(encode(wrapper, texts), encode(Api(), texts))

    def test_a_server_that_is_down_serves_what_is_proven_with_one_warning(
        self, server: Callable[..., None], tmp_path: Path
    ) -> None:
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            vectors = encode(wrapper, OLD)
        server(down=1)
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            with pytest.warns(DejavecWarning, match="ConnectionError: the server is down"):
                assert bits_equal(encode(wrapper, OLD), vectors)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert bits_equal(encode(wrapper, OLD), vectors)
        with (
            CachedEmbeddingWrapper(Api(), tmp_path, on_unconfirmed="raise") as wrapper,
            pytest.raises(RuntimeError, match="the server is down"),
        ):
            encode(wrapper, OLD)

    def test_a_server_that_is_down_raises_where_nothing_is_proven(
        self, server: Callable[..., None], tmp_path: Path
    ) -> None:
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        server(down=1)
        changed = Api()
        changed.deployment = "b"  # type: ignore[attr-defined]
        with (
            CachedEmbeddingWrapper(changed, tmp_path) as wrapper,
            pytest.raises(ConnectionError, match=r"^the server is down$"),
        ):
            encode(wrapper, OLD)

    def test_a_noisy_server_is_served_with_a_warning(
        self, server: Callable[..., None], tmp_path: Path
    ) -> None:
        server(noise=1e-3)
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            vectors = encode(wrapper, OLD)
        for noise in (1e-3, 10.0):
            server(noise=noise)
            with (
                CachedEmbeddingWrapper(Api(), tmp_path) as wrapper,
                pytest.warns(DejavecWarning, match="differently each time"),
            ):
                assert bits_equal(encode(wrapper, OLD), vectors)
            assert wrapper.totals.misses == 0


class TestNeverTwoModelsInOne:
    @BACKENDS
    def test_two_threads_with_two_models_on_one_new_path(self, backend: Any, tmp_path: Path) -> None:
        class Scaled(FieldsModel):
            """Equal to others but for what it reads in a module, and slow enough for the other to come."""

            def __init__(self, factor: float, together: threading.Barrier) -> None:
                super().__init__(revision="main")
                self.factor = factor
                self.together = together

            def output(self, rows: list[np.ndarray]) -> Any:
                if len(self.calls) == 1:
                    self.together.wait(60)
                return super().output(rows) * np.float32(self.factor)

        for attempt in range(3):
            together = threading.Barrier(2)
            models = [Scaled(factor, together) for factor in (1.0, 2.0)]
            found: dict[int, Any] = {}

            def work(
                at: int, models: list[Scaled] = models, found: Any = found, attempt: int = attempt
            ) -> None:
                with CachedEmbeddingWrapper(models[at], tmp_path / str(attempt), backend) as wrapper:
                    found[at] = encode(wrapper, OLD)

            threads = [threading.Thread(target=work, args=(at,)) for at in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for at, factor in enumerate((1.0, 2.0)):
                plain = encode(FieldsModel(), OLD) * np.float32(factor)
                assert bits_equal(found[at], plain)
                quiet = Scaled(factor, threading.Barrier(1))
                with CachedEmbeddingWrapper(quiet, tmp_path / str(attempt), backend) as wrapper:
                    assert bits_equal(encode(wrapper, OLD), plain)
                    assert wrapper.totals.misses == 0

    def test_a_model_whose_texts_are_not_there_goes_beside(self, tmp_path: Path) -> None:
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        changed = FieldsModel()
        changed.setting = 1  # type: ignore[attr-defined]
        with CachedEmbeddingWrapper(changed, tmp_path) as wrapper:
            encode(wrapper, NEW)
        assert len(list(tmp_path.glob("*/vectors.npy"))) == 2

    def test_another_model_raises_if_asked(self, server: Callable[..., None], tmp_path: Path) -> None:
        with CachedEmbeddingWrapper(Api(), tmp_path) as wrapper:
            encode(wrapper, OLD)
        server(factor=2.0)
        with (
            CachedEmbeddingWrapper(Api(), tmp_path, on_mismatch="raise") as wrapper,
            pytest.raises(IdentityMismatchError, match="off by"),
        ):
            encode(wrapper, OLD)


def identity_before_states(path: Path) -> dict[str, Any]:
    """What releases before states were known would have stored for a published MiniLM."""
    with CachedEmbeddingWrapper(published(), path) as wrapper:
        encode(wrapper, OLD)
    (stored,) = path.rglob("meta.json")
    identity: dict[str, Any] = json.loads(stored.read_text())["identity"]
    identity["model"] = {"name": "org/mini", "revision": "a" * 40}
    identity["loader"] = {"trust_remote_code": True}
    return identity


def published(factor: float = 1.0) -> Any:
    model = minilm()
    model.mteb_model_meta = meta("org/mini", "a" * 40)
    if factor != 1:
        with torch.no_grad():
            next(model.model.parameters()).mul_(factor)
    return model


class TestDirectoriesOfOlderReleases:
    def test_are_adopted_after_one_question(self, tmp_path: Path) -> None:
        identity = identity_before_states(tmp_path / "scratch")
        vectors = bare_minilm().encode(OLD)
        with KeyedCache(tmp_path / "new" / TASK.name, identity=identity) as old:
            from dejavec.keys.items import text_keys

            old.put(text_keys(OLD), vectors)
        for run in range(2):
            with CachedEmbeddingWrapper(published(), tmp_path / "new") as wrapper:
                assert bits_equal(encode(wrapper, OLD), vectors)
                assert wrapper.totals.misses == 0
                assert wrapper.totals.confirmed == (3 if run == 0 else 0)
        with CachedEmbeddingWrapper(published(), tmp_path / "new") as wrapper:
            encode(wrapper, NEW)
        assert len(list((tmp_path / "new").rglob("vectors.npy"))) == 1

    def test_are_left_alone_by_another_model(self, tmp_path: Path) -> None:
        identity = identity_before_states(tmp_path / "scratch")
        with KeyedCache(tmp_path / "new" / TASK.name, identity=identity) as old:
            from dejavec.keys.items import text_keys

            old.put(text_keys(OLD), bare_minilm().encode(OLD))
        model = published(1.5)
        with CachedEmbeddingWrapper(model, tmp_path / "new") as wrapper:
            assert bits_equal(encode(wrapper, OLD), encode(model, OLD))
            assert wrapper.totals.misses == 3


def test_more_directories_than_are_kept_open_serve_threads_at_once(tmp_path: Path) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
    tasks = [TASK.model_copy(update={"name": f"Task{number}"}) for number in range(40)]
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for at in np.random.default_rng(seed).permutation(len(tasks)):
                found = encode(wrapper, OLD, task_metadata=tasks[at])
                assert found.shape == (3, 24)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    wrapper.close()
