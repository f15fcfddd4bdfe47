"""A search gives the texts of the rows it found, and compares only those that it is asked to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dejavec import EmbeddingCache
from dejavec.errors import DejavecError, ItemError, VectorsError
from dejavec.keys.items import text_keys
from dejavec.search.labels import positions_of

TEXTS = [f"text {number}" for number in range(100)]


def embed(texts: list[str]) -> np.ndarray:
    """A vector that only this text has."""
    return np.array(
        [np.random.default_rng(text_keys([text])[0]).standard_normal(8) for text in texts], np.float32
    )


@pytest.fixture
def cache(tmp_path: Path) -> Any:
    """Day one stored the texts in an order of its own; one of them was then replaced."""
    with EmbeddingCache(tmp_path / "cache") as cache:
        cache.put(TEXTS[50:], embed(TEXTS[50:]))
        cache.put(TEXTS[7:8], embed(["another"]))
        cache.put(TEXTS[:50], embed(TEXTS[:50]))
        yield cache


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, pa.array, pd.Series, lambda texts: (text for text in texts)]
)
def test_texts_and_positions_are_those_of_the_corpus_whatever_its_order(
    cache: EmbeddingCache, form: Any
) -> None:
    corpus = ["not stored", *TEXTS[::-1], *TEXTS]
    found = cache.search(embed(TEXTS), 1, texts=form(corpus))
    assert [texts for (texts,) in found.texts or []] == TEXTS
    assert found.positions is not None
    assert found.positions[:, 0].tolist() == [corpus.index(text) for text in TEXTS]
    assert found.rows[:, 0].tolist() != list(range(100))


def test_a_row_of_a_text_outside_the_corpus_has_no_text_and_no_position(cache: EmbeddingCache) -> None:
    found = cache.search(embed(TEXTS[:4]), 101, texts=TEXTS[2:4])
    assert found.texts is not None
    assert found.positions is not None
    assert [texts[0] for texts in found.texts] == [None, None, "text 2", "text 3"]
    assert found.positions[:, 0].tolist() == [-1, -1, 0, 1]
    assert found.texts[0][100] is None  # There are only a hundred.
    assert (found.rows[:, 100] == found.positions[:, 100]).all()


def test_kept_texts_are_found_and_others_are_none(tmp_path: Path) -> None:
    texts = ["east", "", "half \ud83d", "north"]
    with EmbeddingCache(tmp_path, keep_texts=True) as cache:
        cache.put(texts[:3], embed(texts[:3]))
        with EmbeddingCache(tmp_path) as other:
            other.put(texts[3:], embed(texts[3:]))
        cache.refresh()
        found = cache.search(embed(texts), 1, texts=True)
        assert found.texts == [["east"], [""], ["half \ud83d"], [None]]
        assert found.positions is None
        assert cache.search(embed(texts), 1).texts is None


def test_a_cache_without_texts_says_so(cache: EmbeddingCache, tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match=r"expected texts beside the rows, for texts=True, found none; "):
        cache.search(embed(["a"]), 1, texts=True)
    assert EmbeddingCache(tmp_path / "empty").search(embed(["a"]), 1, texts=True).texts == [[None]]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_only_what_is_asked_for_is_found(cache: EmbeddingCache, metric: Any) -> None:
    some = [*TEXTS[20:80:3], "not stored", TEXTS[7]]
    rows = cache.search(embed(some), 1, metric="l2", texts=some)
    wanted = sorted(row for (row,), (text,) in zip(rows.rows, rows.texts or [], strict=True) if text)
    flags = np.zeros(cache.stats()["rows"], np.bool_)
    flags[wanted] = True
    for among in (some, pa.array(some), wanted, np.array(wanted, np.uint32), flags, flags.tolist()):
        found = cache.search(embed(["other"]), 30, metric=metric, among=among)
        assert sorted(found.rows[found.rows >= 0]) == wanted
        assert (found.rows >= 0).sum() == 21


def test_a_row_that_was_replaced_is_not_found_even_if_asked_for(cache: EmbeddingCache) -> None:
    cache.put(TEXTS[7:8], embed(["replaced"]))
    everything = range(cache.stats()["rows"])
    found = cache.search(embed(["another", TEXTS[7]]), 200, among=everything)
    assert sorted(found.rows[0][found.rows[0] >= 0]) == [
        *range(50),
        *(row for row in range(51, 102) if row != 58),
    ]


def test_among_nothing_nothing_is_found(cache: EmbeddingCache) -> None:
    for among in ([], np.empty(0, np.int64), ["not stored"]):
        assert cache.search(embed(["a"]), 2, among=among).rows.tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("among", "message"),
    [
        ([0, 500], r"among=: expected row numbers below 101, .*, found 500; "),
        ([-1], r"among=: expected row numbers below 101, .*, found -1; "),
        (np.ones(3, np.bool_), r"among=: expected 101 flags, one for each row, found 3; "),
        (np.ones((2, 2), np.int64), r"among=: expected shape \(rows,\), found shape \(2, 2\); "),
        ("text 3", r"the texts: expected a list of texts, found one str; "),
        ([1.5], r"expected texts \(str\), found float at position 0"),
    ],
)
def test_what_is_no_choice_of_rows_is_refused_in_one_sentence(
    cache: EmbeddingCache, among: Any, message: str
) -> None:
    with pytest.raises(DejavecError) as raised:
        cache.search(embed(["a"]), 1, among=among)
    assert re.search(message, str(raised.value))
    assert "\n" not in str(raised.value)


def test_a_corpus_that_is_none_is_refused(cache: EmbeddingCache) -> None:
    with pytest.raises(ItemError, match="expected a list of texts, found one str"):
        cache.search(embed(["a"]), 1, texts="text 3")
    with pytest.raises(TypeError, match="expected texts to be True, a corpus or None, found False"):
        cache.search(embed(["a"]), 1, texts=False)


def test_keys_with_one_beginning_are_told_apart() -> None:
    keys = np.zeros((4, 32), np.uint8)
    keys[1, 31], keys[2, 31], keys[3, 0] = 1, 2, 1
    assert positions_of(keys[[2, 0, 3]], keys[[1, 0, 0, 2]]).tolist() == [3, 1, -1]
