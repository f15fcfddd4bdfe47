"""A spot check makes some of the held vectors again and raises if the model returns others now."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal
from mteb.models.cache_wrappers.cache_backends import NumpyCache as MtebNumpyCache
from mteb_models import DIM, FieldsModel, count_batches, encode, meta, minilm

import dejavec
from dejavec import DejavecError
from dejavec.errors import SpotCheckError

pytestmark = pytest.mark.slow

CachedEmbeddingWrapper = functools.partial(dejavec.CachedEmbeddingWrapper, model_name="tests/drifting@1")
"""The user answers for the model, so only the spot check asks it."""

TEXTS = ["a b c", "d", "e f", "g h i j", "k l"]


class DriftingModel(FieldsModel):
    """A model whose vectors of some texts are off, by a part of their largest number."""

    def __init__(self, **off: float) -> None:
        super().__init__()
        self.off = off

    def vector(self, item: Any, prompt_type: Any) -> np.ndarray:
        vector = super().vector(item, prompt_type)
        vector[0] += self.off.get(item["text"], 0) * np.abs(vector).max()
        return vector


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the vectors of a model that is not off lie."""
    with CachedEmbeddingWrapper(DriftingModel(), tmp_path) as wrapper:
        encode(wrapper, TEXTS)
    return tmp_path


def test_a_model_that_is_as_it_was_passes(path: Path) -> None:
    model = DriftingModel()
    wrapper = CachedEmbeddingWrapper(model, path, spot_check=2)
    assert bits_equal(encode(wrapper, TEXTS), encode(DriftingModel(), TEXTS))
    (checked,) = model.calls
    assert len(checked) == 2
    assert set(checked) <= set(TEXTS)
    assert wrapper.totals.hits == 5


def test_no_more_is_made_again_than_there_is(path: Path) -> None:
    model = DriftingModel()
    encode(CachedEmbeddingWrapper(model, path, spot_check=32), TEXTS)
    assert model.calls == [TEXTS]


def test_the_worst_item_and_its_difference_are_named(path: Path) -> None:
    wrapper = CachedEmbeddingWrapper(DriftingModel(d=0.125, k=1.0, **{"e f": 0.25}), path, spot_check=32)
    with pytest.raises(
        SpotCheckError, match=r"found 2 of 5 .* item 2 of MockRetrievalTask by 0\.25;"
    ) as raised:
        encode(wrapper, TEXTS)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, DejavecError)
    assert raised.value.path == str(path / "MockRetrievalTask")
    assert raised.value.remedy is not None


def test_the_tolerance_is_a_part_of_the_largest_number(path: Path) -> None:
    model = DriftingModel(d=0.125)
    encode(CachedEmbeddingWrapper(model, path, spot_check=32, spot_check_tolerance=0.126), TEXTS)
    with pytest.raises(SpotCheckError):
        encode(CachedEmbeddingWrapper(model, path, spot_check=32, spot_check_tolerance=0.124), TEXTS)


def test_it_is_off_unless_asked_for(path: Path) -> None:
    model = DriftingModel(d=1.0)
    encode(CachedEmbeddingWrapper(model, path), TEXTS)
    assert model.calls == []


def test_what_was_made_in_this_call_is_not_made_again(tmp_path: Path) -> None:
    model = DriftingModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path, spot_check=32)
    encode(wrapper, TEXTS[:2])
    encode(wrapper, ["z", *TEXTS[:2]])
    assert model.calls == [TEXTS[:2], ["z"], TEXTS[:2]]


def test_any_item_may_be_drawn(path: Path) -> None:
    model = DriftingModel()
    wrapper = CachedEmbeddingWrapper(model, path, spot_check=1)
    for _ in range(60):
        encode(wrapper, TEXTS)
    assert {text for call in model.calls for text in call} == set(TEXTS)


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(lambda array: array[:, : DIM - 1], id="dimension"),
        pytest.param(lambda array: array * np.float32(np.nan), id="NaN"),
    ],
)
def test_vectors_that_cannot_be_compared_are_others(output: Any, path: Path) -> None:
    class Changed(DriftingModel):
        def output(self, rows: list[np.ndarray]) -> Any:
            return output(super().output(rows))

    with pytest.raises(SpotCheckError):
        encode(CachedEmbeddingWrapper(Changed(), path, spot_check=2), TEXTS)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_a_real_model_passes_in_other_batches(half: bool, tolerance: float, tmp_path: Path) -> None:
    model = minilm()
    if half:
        model.model.half()
    texts = [" ".join(["word"] * number) for number in range(1, 30)]
    for spot_check in (0, 7):
        wrapper = CachedEmbeddingWrapper(
            model, tmp_path, spot_check=spot_check, spot_check_tolerance=tolerance
        )
        batches = count_batches(model)
        encode(wrapper, texts)
    assert sum(batches) == 7


def test_of_quantised_vectors_the_numbers_behind_them_are_compared(tmp_path: Path) -> None:
    model = minilm()
    expected = encode(model, TEXTS, precision="int8")
    for _ in range(2):
        wrapper = CachedEmbeddingWrapper(model, tmp_path, spot_check=3)
        assert bits_equal(encode(wrapper, TEXTS, precision="int8"), expected)


def test_a_model_that_is_not_built_yet_is_built(tmp_path: Path) -> None:
    built: list[DriftingModel] = []
    off = {"d": 0.0}

    def build() -> DriftingModel:
        built.append(DriftingModel(**off))
        return built[-1]

    for _ in range(2):
        encode(CachedEmbeddingWrapper(build, tmp_path, model_meta=meta(), spot_check=5), TEXTS)
    assert built[1].calls == [TEXTS]


def test_another_backend_is_checked_too(tmp_path: Path) -> None:
    with CachedEmbeddingWrapper(DriftingModel(), tmp_path, MtebNumpyCache) as wrapper:
        encode(wrapper, TEXTS)
    with (
        CachedEmbeddingWrapper(DriftingModel(d=0.5), tmp_path, MtebNumpyCache, spot_check=9) as wrapper,
        pytest.raises(SpotCheckError, match="item 1 of"),
    ):
        encode(wrapper, TEXTS)


@pytest.mark.parametrize("settings", [{"spot_check": -1}, {"spot_check_tolerance": float("nan")}], ids=str)
def test_settings_that_make_no_sense_are_refused(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spot_check"):
        CachedEmbeddingWrapper(FieldsModel(), tmp_path, **settings)
