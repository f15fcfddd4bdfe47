"""Nobody is ever served another model's, revision's, prompt's or setting's vectors."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from mteb.models import CompressionWrapper, SentenceTransformerEncoderWrapper
from mteb.types import OutputDType
from mteb_models import (
    DOCUMENT,
    QUERY,
    TASK,
    FieldsModel,
    bare_minilm,
    encode,
    instruct_minilm,
    loader,
    meta,
    minilm,
)

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.errors import IdentityMismatchError
from dejavec.identity.fingerprint import describe
from dejavec.mteb.model.identity import encoder_kind, reads_argument

pytestmark = pytest.mark.slow

TEXTS = ["a b", "c d e"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def identity_of(path: Path, task: str = TASK.name) -> dict[str, Any]:
    """The one identity stored below a task's directory."""
    (stored,) = (path / task).rglob("meta.json")
    found: dict[str, Any] = json.loads(stored.read_text())["identity"]
    return found


def encoded(model: Any, path: Path, **arguments: Any) -> bool:
    """Encode through a new wrapper; assert that the vectors are the model's; return whether any was new."""
    options = {name: arguments.pop(name) for name in ("model_name", "on_mismatch") if name in arguments}
    expected = encode(model, TEXTS, **arguments)
    wrapper = CachedEmbeddingWrapper(model, path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DejavecWarning)
        found = encode(wrapper, TEXTS, **arguments)
    assert bits_equal(found, expected)
    return wrapper.totals.misses > 0


def test_another_model_gets_its_own_vectors_and_says_where(tmp_path: Path) -> None:
    encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path), TEXTS)
    other = CachedEmbeddingWrapper(FieldsModel(name="tests/other"), tmp_path)
    with pytest.warns(DejavecWarning, match=r"tests/other.*MockRetrievalTask@[0-9a-f]{12}"):
        encode(other, TEXTS)
    assert len(list(tmp_path.glob("MockRetrievalTask@*/vectors.npy"))) == 1


def test_a_mismatch_raises_if_asked_before_the_model_runs(tmp_path: Path) -> None:
    encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path), TEXTS)
    other = FieldsModel(name="tests/other")
    with pytest.raises(IdentityMismatchError, match="tests/other"):
        encode(CachedEmbeddingWrapper(other, tmp_path, on_mismatch="raise"), TEXTS)
    assert other.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"name": "tests/other"},
        {"revision": COMMIT},
        {"experiment_kwargs": {"layer": 3}},
    ],
    ids=str,
)
def test_each_part_of_the_metadata_separates(change: dict[str, Any], tmp_path: Path) -> None:
    assert encoded(FieldsModel(), tmp_path)
    assert encoded(FieldsModel(**change), tmp_path)
    assert not encoded(FieldsModel(), tmp_path)
    assert not encoded(FieldsModel(**change), tmp_path)


def test_the_metadata_are_read_at_each_call(tmp_path: Path) -> None:
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    encode(wrapper, TEXTS)
    wrapper.mteb_model_meta = meta(revision=COMMIT)
    with pytest.warns(DejavecWarning, match="expected model"):
        encode(wrapper, TEXTS)
    assert model.calls == [TEXTS, TEXTS]


@pytest.mark.parametrize(
    "change",
    [{"normalize_embeddings": True}, {"output_value": "token"}, {"convert_to_tensor": True}],
    ids=str,
)
def test_each_encode_argument_separates(change: dict[str, Any], tmp_path: Path) -> None:
    model = FieldsModel()
    assert encoded(model, tmp_path)
    assert encoded(model, tmp_path, **change)
    assert not encoded(model, tmp_path, **change)


@pytest.mark.parametrize(
    "change", [{"batch_size": 3}, {"show_progress_bar": False}, {"device": "cpu"}], ids=str
)
def test_arguments_that_change_no_vector_do_not_separate(change: dict[str, Any], tmp_path: Path) -> None:
    assert encoded(FieldsModel(), tmp_path)
    assert not encoded(FieldsModel(), tmp_path, **change)


@pytest.mark.parametrize("setting", ["device", "dtype", "attn_implementation"])
def test_how_a_model_was_loaded_does_not_separate_if_it_returns_the_same(
    setting: str, tmp_path: Path
) -> None:
    assert encoded(FieldsModel(loader_kwargs={setting: "one"}), tmp_path)
    assert not encoded(FieldsModel(loader_kwargs={setting: "another"}), tmp_path)


def test_roles_are_separate(tmp_path: Path) -> None:
    model = FieldsModel()
    for role in (None, QUERY, DOCUMENT):
        assert encoded(model, tmp_path, **({} if role is None else {"prompt_type": role}))
    stored = [json.loads(found.read_text())["identity"] for found in tmp_path.rglob("meta.json")]
    assert {identity["role"] for identity in stored} == {None, "query", "document"}


class TestUnidentified:
    class Torch(FieldsModel):
        """Vectors depend on a weight."""

        def __init__(self, weight: float, **entries: Any) -> None:
            super().__init__(**entries)
            self.layer = torch.nn.Linear(1, 1)
            with torch.no_grad():
                self.layer.weight.fill_(weight)
                self.layer.bias.fill_(0)

        def output(self, rows: list[np.ndarray]) -> Any:
            return super().output(rows) * self.layer.weight.item()

    @pytest.mark.parametrize(
        "entries",
        [
            {"name": "no_model_name/available", "revision": "no_revision_available"},
            {"name": None, "revision": None},
            {"revision": "main"},
            {"revision": "no_revision"},
            {"revision": COMMIT[:12]},
            {"name": "/models/mine", "revision": COMMIT},
            {"name": "./mine", "revision": COMMIT},
            {"release_date": None, "revision": COMMIT},
        ],
        ids=str,
    )
    def test_two_checkpoints_under_one_name_are_told_apart(self, entries: Any, tmp_path: Path) -> None:
        assert encoded(self.Torch(1, **entries), tmp_path)
        assert encoded(self.Torch(2, **entries), tmp_path)
        assert not encoded(self.Torch(1, **entries), tmp_path)

    def test_a_name_that_is_a_directory_here_is_no_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tests" / "model").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert encoded(self.Torch(1), tmp_path)
        assert encoded(self.Torch(2), tmp_path)

    def test_name_and_commit_of_a_published_model_are_for_people(self, tmp_path: Path) -> None:
        assert encoded(self.Torch(1), tmp_path)
        model = identity_of(tmp_path)["model"]
        assert (model["name"], model["revision"]) == ("tests/model", "a" * 40)
        assert encoded(self.Torch(2), tmp_path)
        assert not encoded(self.Torch(1, name="tests/other", revision=COMMIT), tmp_path)

    def test_training_between_two_calls_is_noticed(self, tmp_path: Path) -> None:
        model = self.Torch(1, revision="main")
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        encode(wrapper, TEXTS)
        with torch.no_grad():
            model.layer.weight.add_(1)
        with pytest.warns(DejavecWarning, match="expected model"):
            found = encode(wrapper, TEXTS)
        assert bits_equal(found, encode(model, TEXTS))

    def test_where_a_model_runs_and_what_encoding_counts_do_not_separate(self, tmp_path: Path) -> None:
        class Counting(self.Torch):  # type: ignore[name-defined]
            """An encoder that counts its calls."""

            count = 0

            def encode(self, *arguments: Any, **settings: Any) -> Any:
                self.count += 1
                return super().encode(*arguments, **settings)

        for device in ("cpu", "cuda:1"):
            model = Counting(1, revision="main")
            model.device = device
            wrapper = CachedEmbeddingWrapper(model, tmp_path)
            for _ in range(3):
                encode(wrapper, TEXTS)
            assert wrapper.totals.misses == (2 if device == "cpu" else 0)
            assert model.count == 1  # The first texts, or one question.

    def test_without_weights_the_name_counts_and_the_model_is_asked(self, tmp_path: Path) -> None:
        for run in range(2):
            wrapper = CachedEmbeddingWrapper(FieldsModel(revision="1"), tmp_path)
            for _ in range(2):
                encode(wrapper, TEXTS)
            assert wrapper.totals.confirmed == 2 * run
        assert identity_of(tmp_path)["model"] == {"name": "tests/model", "revision": "1"}

    def test_model_name_overrides_name_weights_and_loading(self, tmp_path: Path) -> None:
        assert encoded(self.Torch(1, revision="main"), tmp_path, model_name="mine@7")
        wrapper = CachedEmbeddingWrapper(self.Torch(2, name="tests/b"), tmp_path, model_name="mine@7")
        assert bits_equal(encode(wrapper, TEXTS), encode(self.Torch(1), TEXTS))
        assert identity_of(tmp_path)["model"] == {"name": "mine", "revision": "7"}

    def test_weights_are_seen_through_other_wrappers(self, tmp_path: Path) -> None:
        for weight in (1, 2):
            inner = CachedEmbeddingWrapper(self.Torch(weight, revision="main"), tmp_path / f"{weight}")
            encoded(CompressionWrapper(inner, OutputDType.FLOAT16), tmp_path / "outer")
        assert len(list((tmp_path / "outer").rglob("vectors.npy"))) == 2


class TestSentenceTransformers:
    def test_a_local_model_is_found_again_when_loaded_anew(self, tmp_path: Path) -> None:
        for run in range(2):
            model = minilm()
            assert encoded(model, tmp_path) == (run == 0)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda model: setattr(model, "max_seq_length", 4), id="max_seq_length"),
            pytest.param(lambda model: model.half(), id="dtype"),
        ],
    )
    def test_settings_assigned_to_a_published_model_separate(self, change: Any, tmp_path: Path) -> None:
        model = minilm()
        model.mteb_model_meta = meta()
        assert encoded(model, tmp_path)
        change(model.model)
        assert encoded(model, tmp_path)

    def test_the_columns_that_it_reads_are_part_of_the_identity(self, tmp_path: Path) -> None:
        model = minilm()
        for modalities in (["text"], ["image", "text"]):
            model.mteb_model_meta = meta(modalities=modalities)
            assert encoded(model, tmp_path)

    def test_a_trained_copy_of_a_hub_model_is_not_taken_for_it(self, tmp_path: Path) -> None:
        models = [minilm(), minilm()]
        for model in models:
            model.mteb_model_meta = model.mteb_model_meta.model_copy(
                update={"name": "sentence-transformers/all-MiniLM-L6-v2", "revision": COMMIT}
            )
        with torch.no_grad():
            next(models[1].model.parameters()).mul_(1.5)
        for model in models:
            assert encoded(model, tmp_path)

    @pytest.mark.parametrize("loaded_as", ["local", "decorated", "published"])
    def test_a_changed_query_prompt_keeps_the_documents(self, loaded_as: str, tmp_path: Path) -> None:
        prompts = {"query": "q: ", "document": "d: "}
        for run, changed in enumerate([{}, {"query": "Q: "}, {}]):
            model = minilm(model_prompts={**prompts, **changed})
            if loaded_as == "decorated":
                model.encode = functools.wraps(model.encode)(functools.partial(model.encode))
            elif loaded_as == "published":
                model.mteb_model_meta = meta(loader_kwargs={"model_prompts": {**prompts, **changed}})
            assert encoded(model, tmp_path, prompt_type=QUERY) == (run < 2)
            assert encoded(model, tmp_path, prompt_type=DOCUMENT) == (run < 1)

    def test_the_prompt_is_the_text_that_the_model_reads(self, tmp_path: Path) -> None:
        model = minilm()
        named = {"query": "q: ", "STS": "sts: ", f"{TASK.name}-document": "mine: ", "other": "default: "}
        for at, (role, prompts, default, expected) in enumerate([
            (QUERY, named, None, "q: "),
            (DOCUMENT, named, None, "mine: "),
            (None, named, None, None),
            (None, named, "other", "default: "),
            (DOCUMENT, {"passage": "p: "}, None, "p: "),
            (DOCUMENT, {"corpus": "c: "}, "corpus", "c: "),
            (QUERY, {"passage": "p: "}, "passage", "p: "),
        ]):  # fmt: skip
            model.model_prompts = {
                name: text for name, text in prompts.items() if name not in ("other", "passage", "corpus")
            }
            model.model.prompts = dict(prompts)
            model.model.default_prompt_name = default
            path = tmp_path / str(at)
            arguments = {} if role is None else {"prompt_type": role}
            encode(CachedEmbeddingWrapper(model, path), TEXTS, **arguments)
            assert identity_of(path)["prompt"] == {"text": expected}
            read = model.model.encode(TEXTS, prompt=expected or "")
            found = encode(CachedEmbeddingWrapper(model, path), TEXTS, **arguments)
            np.testing.assert_array_equal(found, read)

    def test_a_model_with_an_encode_of_its_own_is_not_foreseen(self) -> None:
        class Own(SentenceTransformerEncoderWrapper):
            def encode(self, inputs: Any, **arguments: Any) -> Any:
                return super().encode(inputs, **arguments)

        patched, inner = minilm(), minilm()
        patched.encode = lambda inputs, **arguments: None
        inner.model.encode = lambda texts, **arguments: None
        assert encoder_kind(minilm()) == "sentence-transformers"
        assert encoder_kind(instruct_minilm()) == "instruct"
        for model in (Own(bare_minilm()), patched, inner, FieldsModel()):
            assert encoder_kind(model) == "other"


class TestInstruct:
    def test_a_changed_instruction_keeps_documents_that_have_none(self, tmp_path: Path) -> None:
        for run, template in enumerate(["I: {instruction} ", "J: {instruction} ", "I: {instruction} "]):
            model = instruct_minilm(instruction_template=template, apply_instruction_to_passages=False)
            assert encoded(model, tmp_path, prompt_type=QUERY) == (run < 2)
            assert encoded(model, tmp_path, prompt_type=DOCUMENT) == (run < 1)

    def test_documents_follow_the_instruction_where_it_is_applied_to_them(self, tmp_path: Path) -> None:
        for template in ("I: {instruction} ", "J: {instruction} "):
            model = instruct_minilm(instruction_template=template)
            assert encoded(model, tmp_path, prompt_type=DOCUMENT)

    def test_the_default_prompt_steps_in_where_there_is_no_instruction(self, tmp_path: Path) -> None:
        model = instruct_minilm(apply_instruction_to_passages=False)
        model.model.prompts, model.model.default_prompt_name = {"other": "o: "}, "other"
        encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS, prompt_type=DOCUMENT)
        assert identity_of(tmp_path)["prompt"] == {"text": "o: "}


class TestOtherModels:
    def test_a_prompt_setting_that_changes_vectors_is_noticed(self, tmp_path: Path) -> None:
        class Prompted(FieldsModel):
            """Reads its prompts where nothing else says so."""

            def vector(self, item: Any, prompt_type: Any) -> np.ndarray:
                text = f"{self.model_prompts}{item['text']}"  # type: ignore[attr-defined]
                return super().vector({**item, "text": text}, prompt_type)

        def model(**settings: Any) -> FieldsModel:
            made = Prompted()
            vars(made).update({"model_prompts": None, **settings})
            return made

        for prompts in (None, {"query": "q"}, {"query": "r"}):
            assert encoded(model(model_prompts=prompts), tmp_path)
        for prompts in (None, {"query": "q"}, {"query": "r"}):
            assert not encoded(model(model_prompts=prompts), tmp_path)

    @pytest.mark.parametrize("change", [{"type": "STS"}, {"prompt": "Find it"}], ids=str)
    def test_the_tasks_type_and_prompt_are_part_of_the_identity(self, change: Any, tmp_path: Path) -> None:
        assert encoded(FieldsModel(), tmp_path)
        assert encoded(FieldsModel(), tmp_path, task_metadata=TASK.model_copy(update=change))

    @pytest.mark.parametrize(
        "name",
        ["fps", "num_frames", "min_frames", "max_frames", "target_sampling_rate", "max_samples"],
    )
    def test_media_settings_are_part_of_the_identity(self, name: str, tmp_path: Path) -> None:
        for value in (None, 3, 4):
            model, outer = FieldsModel(), FieldsModel()
            setattr(model, name, value)
            assert encoded(model, tmp_path)
            outer.model = model  # type: ignore[attr-defined]
            assert encoded(outer, tmp_path / "outer")


class TestSubset:
    def test_subset_and_split_count_for_a_model_that_reads_them(self, tmp_path: Path) -> None:
        class Language(FieldsModel):
            def encode(self, inputs: Any, *, hf_subset: str, hf_split: str, **arguments: Any) -> Any:
                self.salt = hf_subset
                return super().encode(inputs, hf_subset=hf_subset, hf_split=hf_split, **arguments)

            def output(self, rows: list[np.ndarray]) -> Any:
                return super().output(rows) + np.float32(len(self.salt))

        for subset in ("de", "eng"):
            assert encoded(Language(), tmp_path, hf_subset=subset)
        assert encoded(Language(), tmp_path, hf_split="train")

    def test_they_do_not_count_for_a_model_that_only_names_them(self, tmp_path: Path) -> None:
        assert encoded(FieldsModel(), tmp_path, hf_subset="de", hf_split="train")
        assert not encoded(FieldsModel(), tmp_path, hf_subset="en", hf_split="test")

    def test_reading_is_told_from_naming(self) -> None:
        class Model:
            def names(self, inputs: Any, *, hf_subset: str) -> Any: ...

            def reads(self, inputs: Any, *, hf_subset: str) -> Any:
                return hf_subset

            def reads_inside(self, inputs: Any, *, hf_subset: str) -> Any:
                return [lambda: hf_subset for _ in inputs]

            def reads_all(self, inputs: Any, *, hf_subset: str) -> Any:
                return locals()

            def swallows(self, inputs: Any, **arguments: Any) -> Any: ...

        def answer(name: str) -> bool:
            model = Model()
            model.encode = getattr(model, name)  # type: ignore[attr-defined]
            return reads_argument(model, "hf_subset")

        assert not answer("names")
        for name in ("reads", "reads_inside", "reads_all", "swallows"):
            assert answer(name)
        assert not reads_argument(minilm(), "hf_subset")


class TestDescribe:
    def test_equal_values_have_one_form_and_different_ones_do_not(self) -> None:
        values = [
            None, True, 1, 1.0, "1", float("nan"), float("inf"), [1], (1,), {"a": 1}, {"$a": 1}, {"$$a": 1},
            {1}, b"1", Path("1"), np.float32(1), np.float64(1), np.array([1]), np.array([1.0]),
            np.zeros((1, 1)), np.dtype("f4"), torch.float16, QUERY, int, len, lambda x: x, lambda x: x + 1,
            lambda x, y=1: x, functools.partial(len, "a"), "\ud800", {"$surrogates": "eda080"}, TASK,
        ]  # fmt: skip
        forms = [json.dumps(describe(value), sort_keys=True) for value in values]
        assert len(set(forms)) == len(values)
        assert forms == [json.dumps(describe(value), sort_keys=True) for value in values]

    def test_a_closure_is_described_with_what_it_closes_over(self) -> None:
        def make(value: Any) -> Any:
            return lambda: value

        assert describe(make(1)) == describe(make(1)) != describe(make(2))
        with pytest.raises(TypeError, match="no stable form"):
            describe(make(object()))


def test_the_stored_identity_is_readable(tmp_path: Path) -> None:
    encode(
        CachedEmbeddingWrapper(minilm(), tmp_path),
        loader(TEXTS),
        prompt_type=QUERY,
        convert_to_tensor=True,
    )
    identity = identity_of(tmp_path)
    assert identity["role"] == "query"
    assert identity["prompt"] == {"text": ""}
    assert identity["arguments"] == {"convert_to_tensor": True}
    assert list(identity["model"]) == ["state"]
