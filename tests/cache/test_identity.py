"""Equal settings have one identity, and different ones never share a directory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dejavec.storage.identity import BARE, describe, difference, digest, parse_model, sibling
from dejavec.support.canonical import canonical_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_the_order_of_the_keys_does_not_count(identity: dict[str, object]) -> None:
    backwards = dict(reversed(identity.items()))
    assert canonical_json(backwards) == canonical_json(identity)
    assert json.loads(canonical_json(identity)) == identity


def test_tuples_are_written_as_lists() -> None:
    assert canonical_json({"a": (1, 2)}) == canonical_json({"a": [1, 2]})


@pytest.mark.parametrize(("left", "right"), [(1, 1.0), (1, True), (1, "1"), (None, "null"), ([], {})])
def test_values_that_json_tells_apart_have_different_digests(left: object, right: object) -> None:
    assert digest({"a": left}) != digest({"a": right})


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, {1: "a"}, [{None: 1}], {"a": {1, 2}}, b"bytes", object()]
)
def test_what_has_no_stable_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"a": value})


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [("org/n@r", "org/n", "r"), ("n", "n", None), ("a@b@c", "a@b", "c"), ("n@", "n", None)],
)
def test_a_model_is_a_name_and_a_revision(model: str, name: str, revision: str | None) -> None:
    assert parse_model(model) == {"name": name, "revision": revision}


@pytest.mark.parametrize("model", ["", "@r"])
def test_a_model_without_a_name_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match="name@revision"):
        parse_model(model)


def test_no_model_and_no_identity_is_the_bare_identity() -> None:
    assert describe(None, None) == BARE
    assert describe("n@r", {"role": "query"}) == {"model": {"name": "n", "revision": "r"}, "role": "query"}


def test_two_models_are_refused() -> None:
    with pytest.raises(ValueError, match="found both"):
        describe("n@r", {"model": "other"})


def test_an_identity_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TypeError, match="surrogate"):
        describe(None, {"prompt": "\udc80"})


def test_a_sibling_lies_beside_and_is_named_after_the_identity() -> None:
    beside = sibling("caches/Task", {"a": 1})
    assert beside == Path(f"caches/Task@{digest({'a': 1})[:12]}")
    assert sibling("caches/Task", {"a": 2}) != beside


def test_a_difference_names_only_what_differs() -> None:
    named = difference({"model": "a", "role": "query"}, {"model": "b", "role": "query", "prompt": "p"})
    assert named == ('model "a" and no prompt', 'model "b" and prompt "p"')
