"""Vectors lie where mteb lays them, and no name leaves the cache directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mteb.models.model_meta import _serialize_experiment_kwargs_to_name
from mteb_models import DOCUMENT, QUERY, TASK, FieldsModel, encode

from dejavec import CachedEmbeddingWrapper
from dejavec.mteb.directories import experiment_name
from dejavec.support.safe_name import safe_name


def task(name: str) -> Any:
    return TASK.model_copy(update={"name": name})


def places(path: Path) -> list[str]:
    return sorted(str(found.parent.relative_to(path)) for found in path.rglob("vectors.npy"))


def test_the_layout_is_mtebs(tmp_path: Path) -> None:
    encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path), ["a"])
    wrapper = CachedEmbeddingWrapper(FieldsModel(experiment_kwargs={"layer": 3}), tmp_path)
    encode(wrapper, ["a"])
    encode(wrapper, ["a"], prompt_type=QUERY)
    encode(wrapper, ["a"], prompt_type=DOCUMENT, task_metadata=task("Other.v2"))
    assert places(tmp_path) == [
        "MockRetrievalTask",
        "MockRetrievalTask/experiments/layer_3",
        "MockRetrievalTask/experiments/layer_3/query",
        "Other.v2/experiments/layer_3/document",
    ]


def test_experiments_that_mteb_names_alike_do_not_share_vectors(tmp_path: Path) -> None:
    for value in ("a/b", "a_b"):
        model = FieldsModel(experiment_kwargs={"layer": value})
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        if value == "a_b":
            with pytest.warns(match="expected experiment"):
                encode(wrapper, ["a"])
        else:
            encode(wrapper, ["a"])
        assert model.calls == [["a"]]


@given(
    st.from_regex(r"[A-Za-z0-9_.\-]{0,100}[A-Za-z0-9_\-]", fullmatch=True).filter(lambda name: len(name) > 4)
)
def test_a_plain_name_stays_itself(name: str) -> None:
    assert safe_name(name) == name


@given(st.lists(st.text(), unique=True, min_size=2, max_size=2))
def test_different_names_stay_different(names: list[str]) -> None:
    assert safe_name(names[0]) != safe_name(names[1])


@given(st.text())
def test_a_safe_name_is_one_component_that_fits(name: str) -> None:
    safe = safe_name(name)
    assert Path("root", safe).parts == ("root", safe)
    assert safe not in (".", "..")
    assert 0 < len(safe.encode()) <= 255 - len("@0123456789ab")


@pytest.mark.parametrize(
    "settings", [{"a": 1}, {"b": "x/y", "a": [1, 2.5]}, {"a": {"b": None}}, {"a": "x" * 300}]
)
def test_experiments_have_mtebs_own_names(settings: dict[str, Any]) -> None:
    assert experiment_name(settings) == _serialize_experiment_kwargs_to_name(settings)


def test_experiments_that_mteb_cannot_name_have_a_digest() -> None:
    @dataclasses.dataclass
    class Window:
        size: int

    names = [
        experiment_name(settings) for settings in ({"w": Window(1)}, {"w": Window(2)}, {"w": "\u20ac" * 90})
    ]
    assert all(name is not None and name.startswith("exp_") and len(name) == 20 for name in names)
    assert len(set(names)) == 3
    assert experiment_name({}) is None
    with pytest.raises(TypeError, match="no stable form"):
        experiment_name({"w": object()})
