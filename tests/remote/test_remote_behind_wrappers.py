"""The wrapper for mteb and the cached encoders have a team's store behind them, and the model is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal
from mteb_models import FieldsModel, encode
from shared_rows import objects_of
from static_models import static_model

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.sentence_transformers import CachedSentenceTransformer

pytestmark = pytest.mark.slow

ROWS = [f"w{number} and w{number * 3}" for number in range(40)]


def test_the_wrapper_encodes_only_what_nobody_has(tmp_path: Path, team: str) -> None:
    plain = encode(FieldsModel(), ROWS)
    first, second = FieldsModel(), FieldsModel()
    with CachedEmbeddingWrapper(first, tmp_path / "one", remote=team) as one:
        assert bits_equal(encode(one, ROWS[:30]), plain[:30])
    with CachedEmbeddingWrapper(second, tmp_path / "other", remote=team) as other:
        assert bits_equal(encode(other, ROWS), plain)
    asked = [text for call in second.calls for text in call]
    assert set(ROWS[30:]) <= set(asked)
    assert len(asked) <= 10 + 16, "a few of the others' vectors are compared, no more"
    assert objects_of(tmp_path / "team", "meta.json")


def test_the_vectors_of_a_model_that_answers_differently_are_not_served(tmp_path: Path, team: str) -> None:
    class Other(FieldsModel):
        """Looks like the other one, and is not."""

        def output(self, rows: list[np.ndarray]) -> Any:
            return super().output([row + 1 for row in rows])

    with CachedEmbeddingWrapper(FieldsModel(), tmp_path / "one", remote=team) as one:
        encode(one, ROWS)
    with CachedEmbeddingWrapper(Other(), tmp_path / "other", remote=team) as other:
        with pytest.warns(DejavecWarning, match="of 16 items encoded again, one is off"):
            found = encode(other, ROWS)
        assert bits_equal(found, encode(Other(), ROWS))


def test_a_cached_encoder_encodes_only_what_nobody_has(tmp_path: Path, team: str) -> None:
    model = static_model(tmp_path / "model")
    plain = model.encode(ROWS)
    with CachedSentenceTransformer(model, tmp_path / "one", remote=team) as one:
        assert bits_equal(one.encode(ROWS[:30]), plain[:30])
    with CachedSentenceTransformer(model, tmp_path / "other", remote=team) as other:
        assert bits_equal(other.encode(ROWS), plain)
        assert other.totals.misses == 10
