"""Any backend of mteb's protocol serves inside our wrapper, and never another model's vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from comparing import bits_equal, files_below
from mteb.mocks import mock_tasks
from mteb.models.cache_wrappers.cache_backends import FaissCache
from mteb.models.cache_wrappers.cache_backends import NumpyCache as MtebNumpyCache
from mteb_models import DOCUMENT, QUERY, TASK, FieldsModel, dataset, encode, evaluate, minilm
from per_item_backend import FileBackend

import dejavec
from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, NumpyCache

TEXTS = ["a b c", "d", "e f", "g h i j", "k l"]


@pytest.fixture
def backend() -> type[FileBackend]:
    class Fresh(FileBackend):
        given: list[str] = []  # noqa: RUF012

    return Fresh


each_backend = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(MtebNumpyCache, id="mteb's NumpyCache"),
        pytest.param(FaissCache, id="mteb's FaissCache"),
        pytest.param(type("Files", (FileBackend,), {"given": []}), id="one by one"),
        pytest.param(type("Subclass", (NumpyCache,), {}), id="ours"),
    ],
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:(Dimension file not|No existing files):UserWarning"),
    pytest.mark.usefixtures("never_asks"),
]


class TestSameResults:
    @each_backend
    @pytest.mark.parametrize("name", ["MockRetrievalTask", "MockInstructionRetrieval", "MockSTSTask"])
    def test_scores_with_titles_and_instructions(self, kind: Any, name: str, tmp_path: Path) -> None:
        uncached = evaluate(FieldsModel(), getattr(mock_tasks, name)())
        model = FieldsModel()
        for run in range(2):
            with CachedEmbeddingWrapper(model, tmp_path, kind) as wrapper:
                assert evaluate(wrapper, getattr(mock_tasks, name)()) == uncached
                assert wrapper.totals.misses == 0 or run == 0
                assert wrapper.totals.items > 0

    @each_backend
    def test_half_warm_calls_with_duplicates(self, kind: Any, tmp_path: Path) -> None:
        model = FieldsModel()
        for texts in (TEXTS[:2], ["x", *TEXTS, "x", *TEXTS, "y"], TEXTS[::-1]):
            with CachedEmbeddingWrapper(model, tmp_path, kind, chunk_rows=8) as wrapper:
                assert bits_equal(encode(wrapper, texts), encode(FieldsModel(), texts))
        assert sorted(text for call in model.calls for text in call) == sorted([*TEXTS, "x", "y"])

    @each_backend
    @pytest.mark.parametrize(
        ("library", "dtype"),
        [("numpy", "float16"), ("numpy", "int8"), ("torch", "float32"), ("torch", "bfloat16")],
    )
    def test_every_dtype_that_float32_holds(
        self, kind: Any, library: str, dtype: str, tmp_path: Path
    ) -> None:
        model = FieldsModel(library=library, dtype=dtype)
        for _ in range(2):
            with CachedEmbeddingWrapper(model, tmp_path, kind) as wrapper:
                assert bits_equal(
                    encode(wrapper, TEXTS), encode(FieldsModel(library=library, dtype=dtype), TEXTS)
                )
        assert len(model.calls) == 1

    def test_another_dtype_goes_to_the_model(self, backend: type[FileBackend], tmp_path: Path) -> None:
        model = FieldsModel(dtype="float64")
        wrapper = CachedEmbeddingWrapper(model, tmp_path, backend)
        with pytest.warns(DejavecWarning, match="keeps float32, which does not hold float64"):
            found = encode(wrapper, TEXTS)
        assert bits_equal(found, encode(FieldsModel(dtype="float64"), TEXTS))
        assert len(model.calls) == 1
        assert backend.given == []

    @pytest.mark.slow
    def test_a_real_model_at_each_precision(self, backend: type[FileBackend], tmp_path: Path) -> None:
        model = minilm()
        for _ in range(2):
            wrapper = CachedEmbeddingWrapper(model, tmp_path, backend)
            for precision in ("float32", "int8", "binary", "ubinary"):
                expected = encode(model, TEXTS, precision=precision)
                assert bits_equal(encode(wrapper, TEXTS, precision=precision), expected)
        assert sorted(backend.given) == sorted(TEXTS)

    def test_vectors_that_are_not_finite_are_not_given_to_it(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        class Broken(FieldsModel):
            def vector(self, item: Any, prompt_type: Any) -> np.ndarray:
                return super().vector(item, prompt_type) * np.float32(np.nan if item["text"] == "d" else 1)

        with pytest.warns(DejavecWarning, match="item 1 of"):
            found = encode(CachedEmbeddingWrapper(Broken(), tmp_path, backend), TEXTS)
        assert bits_equal(found, encode(Broken(), TEXTS))
        assert "d" not in backend.given


class TestItems:
    def test_plain_text_is_given_as_it_is_and_all_else_by_its_key(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend)
        encode(wrapper, dataset(["a", "b"], title=["", "t"], body=["a", "b"]))
        plain, other = backend.given
        assert plain == "a"
        assert other.startswith("dejavec:")
        assert len(bytes.fromhex(other.removeprefix("dejavec:"))) == 32

    def test_a_text_cannot_pass_for_another_items_key(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path, backend)
        encode(wrapper, dataset(["b"], title=["t"]))
        (forged,) = backend.given
        assert bits_equal(encode(wrapper, [forged]), encode(FieldsModel(), [forged]))

    @each_backend
    def test_any_text_is_an_item(self, kind: Any, tmp_path: Path) -> None:
        texts = ["", " ", "\ud800", "\0", "é", "dejavec:"]
        rows = tuple({"text": text} for text in texts)
        model = FieldsModel()
        for _ in range(2):
            with CachedEmbeddingWrapper(model, tmp_path, kind) as wrapper:
                assert bits_equal(encode(wrapper, rows), encode(FieldsModel(), rows))
        assert len(model.calls) == 1


class TestNeverAnotherModelsVectors:
    @each_backend
    def test_each_identity_has_a_directory(self, kind: Any, tmp_path: Path) -> None:
        for name in ("tests/a", "tests/b", "tests/a"):
            for role in (QUERY, DOCUMENT):
                model = FieldsModel(name=name)
                with CachedEmbeddingWrapper(model, tmp_path, kind) as wrapper:
                    encode(wrapper, TEXTS, prompt_type=role)
        assert model.calls == []
        assert len(list(tmp_path.glob("MockRetrievalTask/*@????????????"))) == 4

    def test_each_backend_has_a_directory(self, tmp_path: Path) -> None:
        model = FieldsModel()
        for kind in (FaissCache, MtebNumpyCache, NumpyCache, FaissCache):
            with CachedEmbeddingWrapper(model, tmp_path, kind) as wrapper:
                assert bits_equal(encode(wrapper, TEXTS), encode(FieldsModel(), TEXTS))
        assert len(model.calls) == 3

    def test_what_mtebs_wrapper_wrote_is_left_alone(self, tmp_path: Path) -> None:
        theirs = mteb.models.CachedEmbeddingWrapper(FieldsModel(name="tests/other"), tmp_path)
        encode(theirs, TEXTS)
        before = files_below(tmp_path)
        model = FieldsModel(dtype="float16")
        with CachedEmbeddingWrapper(model, tmp_path, MtebNumpyCache) as wrapper:
            assert bits_equal(encode(wrapper, TEXTS), encode(FieldsModel(dtype="float16"), TEXTS))
        assert before.items() <= files_below(tmp_path).items()
        assert len(model.calls) == 1

    def test_the_wrapper_does_not_take_what_a_bare_backend_wrote(self, tmp_path: Path) -> None:
        theirs = mteb.models.CachedEmbeddingWrapper(FieldsModel(name="tests/other"), tmp_path, NumpyCache)
        encode(theirs, TEXTS)
        theirs.close()
        (stored,) = tmp_path.rglob("meta.json")
        assert json.loads(stored.read_text())["identity"] == {"bare-backend": True}
        model = FieldsModel()
        with pytest.warns(DejavecWarning, match="found vectors of no named model"):
            encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS)
        assert model.calls == [TEXTS]

    @pytest.mark.parametrize("texts", [TEXTS, [*TEXTS, "z"], ["z"]], ids=["held", "more", "others"])
    @pytest.mark.parametrize("kind", [NumpyCache, dejavec.FaissCache])
    def test_a_bare_backend_shares_nothing_that_the_wrapper_wrote(
        self, kind: Any, texts: list[str], tmp_path: Path
    ) -> None:
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path, kind) as wrapper:
            encode(wrapper, TEXTS)
        before, model = files_below(tmp_path), FieldsModel(name="tests/other")
        theirs = mteb.models.CachedEmbeddingWrapper(model, tmp_path, kind)
        with pytest.raises(dejavec.errors.IdentityMismatchError, match="tests/model"):
            encode(theirs, texts)
        theirs.close()
        assert model.calls == []
        assert files_below(tmp_path) == before

    @pytest.mark.parametrize("damage", ["cut", "missing"])
    def test_without_the_file_beside_it_a_backend_holds_nothing(
        self, damage: str, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        model = FieldsModel(dtype="float16")
        encode(CachedEmbeddingWrapper(model, tmp_path, backend), TEXTS)
        (beside,) = tmp_path.glob("MockRetrievalTask@*.json")
        content = beside.read_bytes()
        beside.unlink()
        if damage == "cut":
            beside.write_bytes(content[:-9])
        before = files_below(tmp_path)
        for _ in range(2):
            found = encode(CachedEmbeddingWrapper(model, tmp_path, backend), TEXTS)
            assert bits_equal(found, encode(FieldsModel(dtype="float16"), TEXTS))
        # Nothing says whose the vectors are, so they are left alone, and the model's go beside.
        assert len(model.calls) == 2
        assert before.items() <= files_below(tmp_path).items()


class TestUnreliable:
    def test_a_vector_that_was_lost_is_made_again(self, backend: type[FileBackend], tmp_path: Path) -> None:
        model = FieldsModel()
        encode(CachedEmbeddingWrapper(model, tmp_path, backend), TEXTS)
        lost, damaged, *_ = sorted(tmp_path.glob("MockRetrievalTask@*/*.json"))
        lost.unlink()
        damaged.write_text("[1.0, 2.0]")
        found = encode(CachedEmbeddingWrapper(model, tmp_path, backend), TEXTS)
        assert bits_equal(found, encode(FieldsModel(), TEXTS))
        assert len(model.calls[1]) == 2

    def test_a_backend_that_returns_other_vectors_is_not_used(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        class Rounding(backend):  # type: ignore[misc, valid-type]
            def get_vector(self, item: dict[str, Any]) -> Any | None:
                vector = super().get_vector(item)
                return None if vector is None else np.round(vector, 2)

        model = FieldsModel()
        for run in range(2):
            with pytest.warns(DejavecWarning, match="to return the vectors that it was given"):
                found = encode(CachedEmbeddingWrapper(model, tmp_path, Rounding), TEXTS)
            assert bits_equal(found, encode(FieldsModel(), TEXTS))
            assert len(model.calls) == run + 1

    def test_an_evaluation_completes_if_writing_fails(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        backend.fails = True
        with pytest.warns(DejavecWarning, match="no space left"):
            found = encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend), TEXTS)
        assert bits_equal(found, encode(FieldsModel(), TEXTS))
        strict = CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend, on_write_error="raise")
        with pytest.raises(dejavec.errors.StorageError, match="no space left"):
            encode(strict, TEXTS)

    def test_a_model_that_fails_late_keeps_what_it_made(
        self, backend: type[FileBackend], tmp_path: Path
    ) -> None:
        class Failing(FieldsModel):
            def output(self, rows: list[np.ndarray]) -> Any:
                if len(self.calls) == 3:
                    raise RuntimeError("late")
                return super().output(rows)

        with pytest.raises(RuntimeError, match="late"):
            encode(
                CachedEmbeddingWrapper(Failing(), tmp_path, backend, chunk_rows=2, model_name="m@1"),
                TEXTS,
                batch_size=2,
            )
        assert backend.given == TEXTS[:4]
        model = FieldsModel()
        encode(CachedEmbeddingWrapper(model, tmp_path, backend, model_name="m@1"), TEXTS)
        assert model.calls == [TEXTS[4:]]


@pytest.mark.parametrize("backend", [dict, EmbeddingCache, "NumpyCache", NumpyCache.load])
def test_what_is_no_backend_is_refused(backend: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_backend"):
        CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend)


def test_the_directories_stay_in_the_tasks(backend: type[FileBackend], tmp_path: Path) -> None:
    task = TASK.model_copy(update={"name": "../../x"})
    encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path / "a" / "b", backend), TEXTS, task_metadata=task)
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}
