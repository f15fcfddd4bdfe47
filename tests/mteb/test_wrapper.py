"""The wrapper looks to mteb like the model it wraps, and steps aside for what it cannot cache truly."""

from __future__ import annotations

import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from comparing import bits_equal
from mteb.models.model_implementations.cde_models import CDEWrapper
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb_models import DOCUMENT, TASK, FieldsModel, bare_minilm, dataset, encode, loader, meta, minilm
from sentence_transformers import SentenceTransformer

from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache
from dejavec.errors import ForeignDirectoryError, VectorsError
from dejavec.mteb import CachedEmbeddingWrapper as SameWrapper
from dejavec.mteb.wrapper import engine_of

OPEN_FILES = Path("/proc/self/fd")

pytestmark = pytest.mark.usefixtures("never_asks")


class SearchingModel(FieldsModel):
    def index(self, corpus: Any, **arguments: Any) -> None:
        self.corpus = corpus

    def search(self, queries: Any, **arguments: Any) -> Any:
        return {"found": [self.corpus, queries]}


class CrossEncodingModel(FieldsModel):
    def predict(self, *inputs: Any, **arguments: Any) -> Any:
        raise NotImplementedError


class ReturningModel(FieldsModel):
    """Returns what ``make`` makes of the rows."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def output(self, rows: list[np.ndarray]) -> Any:
        return self.make(super().output(rows))


def passed_through(wrapper: Any, rows: Any, match: str, **arguments: Any) -> Any:
    """Make a call twice, with one warning and nothing stored; return the vectors."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DejavecWarning)
        first = encode(wrapper, rows, **arguments)
        encode(wrapper, rows, **arguments)
    messages = [str(warning.message) for warning in caught if warning.category is DejavecWarning]
    assert len(messages) == 1
    assert match in messages[0]
    assert not list(wrapper.cache_path.rglob("vectors.npy"))
    return first


class TestModelSurface:
    def test_an_encoder_stays_an_encoder_and_nothing_else(self, tmp_path: Path) -> None:
        for model in (FieldsModel(), CrossEncodingModel()):
            wrapper = CachedEmbeddingWrapper(model, tmp_path)
            assert isinstance(wrapper, EncoderProtocol)
            assert not isinstance(wrapper, SearchProtocol | CrossEncoderProtocol)

    def test_an_encoder_that_searches_keeps_its_own_search(self, tmp_path: Path) -> None:
        model = SearchingModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        assert isinstance(wrapper, EncoderProtocol)
        assert isinstance(wrapper, SearchProtocol)
        wrapper.index("corpus")
        assert wrapper.search("queries") == {"found": ["corpus", "queries"]}

    def test_probing_for_other_methods_finds_none(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(SearchingModel(), tmp_path)
        for name in ("predict", "__len__", "__iter__", "__array__"):
            assert not hasattr(wrapper, name)

    def test_unknown_attributes_are_the_models(self, tmp_path: Path) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        assert wrapper.columns is model.columns
        with pytest.raises(AttributeError):
            _ = wrapper.no_such_attribute

    def test_assignments_reach_the_model(self, tmp_path: Path) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        wrapper.model_prompts = {"query": "q: "}
        wrapper.mteb_model_meta = other = meta("tests/other")
        assert model.model_prompts == {"query": "q: "}  # type: ignore[attr-defined]
        assert model.mteb_model_meta is other is wrapper.mteb_model_meta

    def test_similarities_are_the_models(self, tmp_path: Path) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        vectors = encode(wrapper, ["a", "b"])
        assert bits_equal(wrapper.similarity(vectors, vectors), model.similarity(vectors, vectors))
        assert bits_equal(
            wrapper.similarity_pairwise(vectors, vectors), model.similarity_pairwise(vectors, vectors)
        )

    @pytest.mark.slow
    def test_a_bare_sentence_transformer_is_wrapped_as_mteb_does(self, tmp_path: Path) -> None:
        bare = bare_minilm()
        wrapper = CachedEmbeddingWrapper(bare, tmp_path)
        assert isinstance(bare, SentenceTransformer)
        assert bits_equal(encode(wrapper, ["a b", "c"]), encode(minilm(), ["a b", "c"]))
        assert wrapper.mteb_model_meta.name == "no_model_name/available"

    def test_what_mteb_cannot_evaluate_is_a_value_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="Model must have an 'encode' method"):
            CachedEmbeddingWrapper(object(), tmp_path)

    def test_a_compression_to_integers_is_refused_inside_and_works_outside(self, tmp_path: Path) -> None:
        model = FieldsModel()
        with pytest.raises(ValueError, match="wrap the other way round"):
            CachedEmbeddingWrapper(mteb.models.CompressionWrapper(model), tmp_path)
        uncached = mteb.models.CompressionWrapper(FieldsModel())
        outside = mteb.models.CompressionWrapper(CachedEmbeddingWrapper(FieldsModel(), tmp_path))
        for _ in range(2):
            assert bits_equal(encode(outside, ["a", "b"]), encode(uncached, ["a", "b"]))

    @pytest.mark.parametrize("kind", ["float16", "binary"])
    def test_another_compression_is_cached(self, kind: str, tmp_path: Path) -> None:
        level = mteb.types.OutputDType(kind)
        uncached = encode(mteb.models.CompressionWrapper(FieldsModel(), level), ["a", "b"])
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(mteb.models.CompressionWrapper(model, level), tmp_path)
        for _ in range(2):
            assert bits_equal(encode(wrapper, ["a", "b"]), uncached)
        assert len(model.calls) == 1

    def test_the_wrapper_of_the_package_is_the_wrapper_of_the_module(self) -> None:
        assert CachedEmbeddingWrapper is SameWrapper


class TestPassThrough:
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda rows: np.stack([rows, rows], axis=1)[..., None], id="four dimensions"),
            pytest.param(lambda rows: np.stack([rows, np.zeros_like(rows)], axis=1), id="unknown width"),
            pytest.param(lambda rows: rows[:, 0], id="one dimension"),
            pytest.param(lambda rows: torch.from_numpy(rows[None]).to_sparse(), id="sparse of three"),
            pytest.param(list, id="list of rows"),
            pytest.param(lambda rows: [row[: 2 + at] for at, row in enumerate(rows)], id="ragged"),
            pytest.param(lambda rows: rows.astype(object), id="objects"),
            pytest.param(np.ma.masked_array, id="masked"),
            pytest.param(lambda rows: rows.astype(np.complex64), id="complex"),
        ],
    )
    @pytest.mark.parametrize("chunk_rows", [10_000, 2])
    def test_output_of_another_form(self, make: Any, chunk_rows: int, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(ReturningModel(make), tmp_path, chunk_rows=chunk_rows)
        rows = ["a", "b", "c"]
        found = passed_through(wrapper, rows, "has no form that is kept")
        expected = encode(ReturningModel(make), rows)
        assert type(found) is type(expected)
        assert str(found) == str(expected)

    def test_models_whose_rows_depend_on_the_rest_of_the_call(self, tmp_path: Path) -> None:
        class Centred(FieldsModel):
            def output(self, rows: list[np.ndarray]) -> Any:
                return super().output(rows) - np.mean(rows, axis=0)

        wrapper = CachedEmbeddingWrapper(Centred(), tmp_path, call_dependent=True)
        found = passed_through(wrapper, ["a", "b"], "depend on the rest of the call")
        assert bits_equal(found, encode(Centred(), ["a", "b"]))

    def test_the_models_of_which_mteb_knows_that(self, tmp_path: Path) -> None:
        class Contextual(FieldsModel, CDEWrapper):
            """A model of the family that embeds a text among the others of its data set."""

        wrapper = CachedEmbeddingWrapper(Contextual(), tmp_path)
        passed_through(wrapper, ["a", "b"], "depend on the rest of the call")

    def test_an_input_that_is_no_loader(self, tmp_path: Path) -> None:
        class ListModel(FieldsModel):
            def encode(self, inputs: Any, **arguments: Any) -> Any:
                return self.output([self.vector({"text": text}, None) for text in inputs])

        wrapper = CachedEmbeddingWrapper(ListModel(), tmp_path)
        with pytest.warns(DejavecWarning, match="a list, not a DataLoader"):
            found = wrapper.encode(["a", "b"], task_metadata=None, hf_split="", hf_subset="")
        assert len(found) == 2

    @pytest.mark.parametrize("value", [object(), {1: 2}, np.array([None])], ids=["object", "keys", "array"])
    def test_arguments_without_a_stable_form(self, value: Any, tmp_path: Path) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        passed_through(wrapper, ["a"], "cannot be told from others", option=value)
        assert model.arguments[0]["option"] is value

    def test_a_wrong_row_count_is_an_error(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(ReturningModel(lambda rows: rows[1:]), tmp_path)
        with pytest.raises(VectorsError, match="expected 3 rows, found 2"):
            encode(wrapper, ["a", "b", "c"])
        assert not list(tmp_path.rglob("vectors.npy"))

    def test_an_old_mteb_directory_is_refused_before_the_model_runs(self, tmp_path: Path) -> None:
        model = FieldsModel()
        mteb.models.CachedEmbeddingWrapper(model, tmp_path).encode(
            loader(["a"]), task_metadata=TASK, hf_split="test", hf_subset="default"
        )
        model.calls.clear()
        with pytest.raises(ForeignDirectoryError) as raised:
            encode(CachedEmbeddingWrapper(model, tmp_path), ["a"])
        old = tmp_path / TASK.name
        command = f"dejavec import {old} {old}-imported --model "
        assert command in str(raised.value)
        assert command in str(raised.value.remedy)
        assert model.calls == []


class TestReport:
    def test_one_log_line_tells_hits_misses_duplicates_and_bytes(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        with caplog.at_level(logging.INFO, logger="dejavec"):
            encode(wrapper, ["a", "b"], prompt_type=DOCUMENT)
            caplog.clear()
            encode(wrapper, ["a", "c", "c", "d"], prompt_type=DOCUMENT)
        lines = [record.getMessage() for record in caplog.records if record.name == "dejavec"]
        assert len(lines) == 1
        for part in ("1 hits", "2 misses", "1 duplicates", "bytes"):
            assert part in lines[0]

    def test_totals_add_up_all_calls(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, ["a", "b"])
        encode(wrapper, ["a", "c", "c"])
        totals = wrapper.totals
        assert (totals.items, totals.hits, totals.misses, totals.duplicates) == (5, 1, 3, 1)
        assert totals.bytes > 0

    @pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="the system does not list the open files")
    def test_a_benchmark_of_many_tasks_keeps_few_files_open(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        for number in range(100):
            encode(wrapper, ["a"], task_metadata=TASK.model_copy(update={"name": f"Task{number}"}))
        open_files = [path.resolve() for path in OPEN_FILES.iterdir()]
        assert 0 < len({path.parent for path in open_files if path.is_relative_to(tmp_path)}) <= 32

    def test_a_closed_wrapper_opens_its_caches_again(self, tmp_path: Path) -> None:
        model = FieldsModel()
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        with wrapper:
            first = encode(wrapper, ["a"])
        assert bits_equal(encode(wrapper, ["a"]), first)
        assert len(model.calls) == 1


def test_the_wrapper_keeps_the_texts_of_plain_text_items(tmp_path: Path) -> None:
    rows = dataset(["plain", "with a title", "last"], title=["", "title", ""])
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path, keep_texts=True) as wrapper:
        encode(wrapper, rows)
        assert engine_of(pickle.loads(pickle.dumps(wrapper))).settings.keep_texts
    (path,) = [path.parent for path in tmp_path.rglob("texts.npy")]
    with EmbeddingCache(path, mode="r") as cache:
        assert cache.texts().to_pylist() == ["plain", None, "last"]
        assert cache.verify()["damaged_texts"] == []
