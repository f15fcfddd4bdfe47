"""Vectors come back as the model returned them, on the first run and on every later one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from mteb_models import (
    DOCUMENT,
    QUERY,
    FieldsModel,
    count_batches,
    encode,
    instruct_minilm,
    minilm,
)
from sentence_transformers import quantize_embeddings

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.errors import ForeignDirectoryError, NonFiniteVectorsError

TEXTS = ["a b c", "d", "e f", "g h i j", "k l"]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("never_asks")]


def test_column_major_vectors_come_back_row_major_on_both_runs(tmp_path: Path) -> None:
    class ColumnMajor(FieldsModel):
        def output(self, rows: list[np.ndarray]) -> Any:
            return np.asfortranarray(super().output(rows))

    model = ColumnMajor()
    for _ in range(2):
        found = encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS)
        assert found.flags.c_contiguous
        assert bits_equal(found, np.ascontiguousarray(encode(ColumnMajor(), TEXTS)))


def test_vectors_that_are_not_finite_come_back_and_are_never_stored(tmp_path: Path) -> None:
    class Overflowing(FieldsModel):
        def vector(self, item: Any, prompt_type: Any) -> np.ndarray:
            vector = super().vector(item, prompt_type)
            return np.full_like(vector, np.nan) if item["text"] == "d" else vector

    model = Overflowing()
    for _ in range(2):
        with pytest.warns(DejavecWarning, match="item 1 of MockRetrievalTask"):
            found = encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS)
        assert bits_equal(found, encode(Overflowing(), TEXTS))
    assert model.calls == [TEXTS, ["d"]]
    with pytest.raises(NonFiniteVectorsError, match="item 1 of MockRetrievalTask"):
        encode(CachedEmbeddingWrapper(model, tmp_path / "strict", on_nonfinite="raise"), TEXTS)


def test_a_model_with_nan_for_every_text_is_evaluated_all_the_same(tmp_path: Path) -> None:
    class Broken(FieldsModel):
        def output(self, rows: list[np.ndarray]) -> Any:
            return super().output(rows) * np.float32(np.nan)

    with pytest.warns(DejavecWarning, match="not stored"):
        found = encode(CachedEmbeddingWrapper(Broken(), tmp_path), TEXTS)
    assert bits_equal(found, encode(Broken(), TEXTS))


MODELS = {"sentence-transformers": minilm, "instruct": instruct_minilm}


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
class TestPrecision:
    @pytest.mark.parametrize("convert_to_tensor", [False, True])
    def test_float_rows_are_quantised_over_the_whole_call(
        self, make_model: Any, convert_to_tensor: bool, tmp_path: Path
    ) -> None:
        model = make_model()
        batches = count_batches(model)
        options = {"convert_to_tensor": True} if convert_to_tensor else {}
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            floats = encode(wrapper, TEXTS, **options)
            batches.clear()
            for precision in ("int8", "uint8", "binary", "ubinary"):
                found = encode(wrapper, TEXTS, precision=precision, **options)
                part = encode(wrapper, TEXTS[1:4], precision=precision, **options)
                assert not batches
                assert bits_equal(found, encode(model, TEXTS, precision=precision, **options))
                expected = quantize_embeddings(floats[1:4], precision=precision)
                np.testing.assert_array_equal(np.asarray(part), expected)
                batches.clear()
            assert bits_equal(encode(wrapper, TEXTS, precision="float32", **options), floats)
        assert not list(tmp_path.rglob("output_dtypes*"))

    def test_one_row_of_int8_raises_as_without_a_cache(self, make_model: Any, tmp_path: Path) -> None:
        model = make_model()
        for encoder in (model, CachedEmbeddingWrapper(model, tmp_path)):
            with pytest.raises(ValueError, match="from a single embedding"):
                encode(encoder, ["a"], precision="int8")

    def test_an_unknown_precision_is_the_models_to_refuse(self, make_model: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not supported"):
            encode(CachedEmbeddingWrapper(make_model(), tmp_path), TEXTS, precision="int7")


def test_another_models_integer_precision_passes_through(tmp_path: Path) -> None:
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    with pytest.warns(DejavecWarning, match="precision 'int8' is taken over the whole call"):
        encode(wrapper, TEXTS, precision="int8")
    encode(wrapper, TEXTS, precision="int8")
    assert model.calls == [TEXTS, TEXTS]
    assert model.arguments == [{"precision": "int8"}] * 2


def test_another_models_binary_precision_is_cached_under_mtebs_name(tmp_path: Path) -> None:
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    for _ in range(2):
        encode(wrapper, TEXTS, precision="binary")
    assert model.calls == [TEXTS]
    assert (tmp_path / "MockRetrievalTask/experiments/output_dtypes_binary/vectors.npy").is_file()


@pytest.fixture(scope="module", params=["float32", "float16"])
def real(request: pytest.FixtureRequest) -> tuple[Any, list[int]]:
    """The model of ``make demo`` in each precision, with two prompts, and the batches that it encodes."""
    model = minilm(model_prompts={"query": "search: ", "document": "found: "})
    model.model.to(getattr(torch, request.param))
    return model, count_batches(model)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalize_embeddings": True},
        {"normalize_embeddings": False},
        {"truncate_dim": 64},
        {"truncate_dim": 64, "normalize_embeddings": True},
        *({"precision": precision} for precision in ("float32", "int8", "uint8", "binary", "ubinary")),
        {"precision": "int8", "truncate_dim": 64},
    ],
    ids=lambda arguments: " ".join(map(str, arguments.values())) or "plain",
)
def test_a_real_model_is_equal_uncached_cold_and_warm(
    arguments: dict[str, Any], library: str, real: tuple[Any, list[int]], tmp_path: Path
) -> None:
    model, batches = real
    arguments = arguments if library == "numpy" else {**arguments, "convert_to_tensor": True}
    found = []
    for role in (QUERY, DOCUMENT):
        uncached = encode(model, TEXTS, prompt_type=role, **arguments)
        for run in ("cold", "warm"):
            batches.clear()
            with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
                vectors = encode(wrapper, TEXTS, prompt_type=role, **arguments)
            assert bits_equal(vectors, uncached), run
            assert sum(batches) == (len(TEXTS) if run == "cold" else 0)
        assert type(uncached) is (np.ndarray if library == "numpy" else torch.Tensor)
        found.append(uncached)
    assert not bits_equal(*found)


SWEEP: list[dict[str, Any]] = [
    {"truncate_dim": 16, "normalize_embeddings": False, "precision": "float32"},
    {"truncate_dim": 16, "normalize_embeddings": True, "precision": "float32"},
    {"truncate_dim": 383, "normalize_embeddings": True, "precision": "int8"},
    {"truncate_dim": 384, "normalize_embeddings": True, "precision": "float32"},
    {"truncate_dim": 1000, "normalize_embeddings": False, "precision": "ubinary"},
    {"truncate_dim": None, "normalize_embeddings": True, "precision": "ubinary"},
    {"truncate_dim": None, "normalize_embeddings": False, "precision": "float32"},
]


@pytest.mark.parametrize("make_model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("limited_by", ["arguments", "model"])
def test_a_sweep_over_dimensions_and_precisions_encodes_once(
    make_model: Any, limited_by: str, tmp_path: Path
) -> None:
    model = make_model()
    batches = count_batches(model)
    texts = [*TEXTS, *(f"{'a word ' * length}." for length in range(7))]
    with CachedEmbeddingWrapper(model, tmp_path, confirm=0) as wrapper:
        for count, settings in enumerate(SWEEP):
            arguments = dict(settings)
            if limited_by == "model":
                model.model.truncate_dim = arguments.pop("truncate_dim")
            expected = encode(model, texts, batch_size=4, **arguments)
            batches.clear()
            assert bits_equal(encode(wrapper, texts, batch_size=4, **arguments), expected), settings
            assert sum(batches) == (len(texts) if count == 0 else 0), settings
    assert len(list(tmp_path.rglob("vectors.npy"))) == 1


def test_another_dimension_of_the_model_is_not_asked_about(tmp_path: Path) -> None:
    for run, dim in enumerate([64, 16, None]):
        model = minilm()
        model.model.truncate_dim = dim
        batches = count_batches(model)
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            assert encode(wrapper, TEXTS).shape == (len(TEXTS), dim or 384)
        assert sum(batches) == (len(TEXTS) if run == 0 else 0)


@pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning")
def test_a_model_that_computes_in_half_precision_normalises_itself(tmp_path: Path) -> None:
    model = minilm()
    model.model.to(torch.bfloat16)
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        for arguments in ({}, {"truncate_dim": 16}, {"truncate_dim": 16, "normalize_embeddings": True}):
            for library in (False, True):
                given = {**arguments, "convert_to_tensor": library}
                assert bits_equal(encode(wrapper, TEXTS, **given), encode(model, TEXTS, **given))


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "MockRetrievalTask").write_text("a file where the cache should be")
    model = FieldsModel()
    with pytest.raises(ForeignDirectoryError, match="MockRetrievalTask"):
        encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS)
    assert model.calls == []


def test_two_wrappers_on_one_path_see_each_others_vectors(tmp_path: Path) -> None:
    models = [FieldsModel(), FieldsModel()]
    wrappers = [CachedEmbeddingWrapper(model, tmp_path) for model in models]
    for at, texts in enumerate([TEXTS[:2], TEXTS[1:4], TEXTS[::-1], TEXTS]):
        assert bits_equal(encode(wrappers[at % 2], texts), encode(FieldsModel(), texts))
    assert [models[0].calls, models[1].calls] == [[TEXTS[:2], TEXTS[4:]], [TEXTS[2:4]]]
