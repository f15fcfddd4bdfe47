"""One text has one key, in whatever form it comes; what a model can tell apart has different keys."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dejavec import EmbeddingCache, _core
from dejavec.errors import ItemError
from dejavec.keys.items import (
    dataset_keys,
    dataset_texts,
    field_keys,
    first_of_each,
    frozen,
    item_keys,
    take,
    text_keys,
)
from dejavec.keys.pieces import PIECE, Pieces
from dejavec.storage.keyed_cache import KeyedCache

TEXTS = ["plain", "", "grüße", "plain", "a\0b", "漢字 " * 50, " leading", "x"]


def digests(texts: Iterable[str]) -> np.ndarray:
    """The keys by definition."""
    whole = b"".join(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return np.frombuffer(whole, np.uint8).reshape(-1, 32)


def chunked(texts: list[str], kind: Any = None) -> pa.ChunkedArray:
    return pa.chunked_array(
        [pa.array(texts[:3], kind), pa.array([], kind or pa.string()), pa.array(texts[3:], kind)]
    )


def rows_of(texts: Sequence[str | None]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": texts, "id": list(range(len(texts)))})


FORMS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "dict view": lambda texts: dict(enumerate(texts)).values(),
    "numpy objects": lambda texts: np.array(texts, object),
    "numpy strings": lambda texts: np.array(texts, np.dtypes.StringDType()),
    "numpy scalars": lambda texts: [np.str_(text) for text in texts],
    "pandas default": lambda texts: pd.Series(texts, index=range(len(texts), 0, -1)),
    "pandas object": lambda texts: pd.Series(texts, dtype=object),
    "pandas string": lambda texts: pd.Series(texts, dtype="string[python]"),
    "pandas arrow": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.string())),
    "pandas category": lambda texts: pd.Series(texts, dtype="category"),
    "pandas index": pd.Index,
    "arrow string": pa.array,
    "arrow large string": lambda texts: pa.array(texts, pa.large_string()),
    "arrow string view": lambda texts: pa.array(texts, pa.string_view()),
    "arrow dictionary": lambda texts: pa.array(texts).dictionary_encode(),
    "arrow slice": lambda texts: pa.array(["before", *texts, "after"]).slice(1, len(texts)),
    "arrow chunks": chunked,
    "arrow large chunks": lambda texts: chunked(texts, pa.large_string()),
    "arrow chunked views": lambda texts: chunked(texts, pa.string_view()),
    "data set": lambda texts: rows_of(texts)["text"],
    "data set, numpy format": lambda texts: rows_of(texts).with_format("numpy")["text"],
    "data set, torch format": lambda texts: rows_of(texts).with_format("torch")["text"],
    "data set, iterable": lambda texts: rows_of(texts).to_iterable_dataset()["text"],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_key_of_a_text_is_its_sha256_in_whatever_form_it_comes(form: str) -> None:
    assert np.array_equal(text_keys(FORMS[form](TEXTS)), digests(TEXTS))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_taken_is_what_was_hashed(form: str) -> None:
    items = frozen(FORMS[form](TEXTS))
    taken = take(items, np.array([5, 0, 2]))
    assert taken == [TEXTS[5], TEXTS[0], TEXTS[2]]
    assert {type(text) for text in taken} <= {str, np.str_}


def test_numpy_fixed_width_strings_are_texts() -> None:
    assert np.array_equal(text_keys(np.array(["a", "grüße"])), digests(["a", "grüße"]))


@given(st.lists(st.text(st.characters(), max_size=20), max_size=8))
def test_any_text_has_a_key_lone_surrogates_included(texts: list[str]) -> None:
    assert np.array_equal(text_keys(texts), digests(texts))


def test_each_of_many_texts_has_its_key_in_its_place() -> None:
    ends = ["", "ü" * 300, "\ud800", "long " * 400]
    texts = [f"{i} {ends[i % len(ends)]}" for i in range(5_000)]
    assert np.array_equal(text_keys(texts), digests(texts))


SCRIPTS = {
    "Chinese": "\u65e5\u672c\u8a9e\u3002",
    "Arabic": "\u0643\u0644\u0645\u0629 ",
    "emoji": "\U0001f600\U0001f680",
    "German": "gr\u00f6\u00dfer ",
    "all of them": "a\u00f6\u0643\u65e5\U0001f600\ud800",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_hashing_leaves_no_second_copy_in_a_text_of_any_script(script: str, tmp_path: Path) -> None:
    texts = [f"{i}" + SCRIPTS[script] * (i % 60) for i in range(3_000)]
    before = [sys.getsizeof(text) for text in texts]
    assert np.array_equal(text_keys(texts), digests(texts))
    cache = KeyedCache(tmp_path)
    cache.put(text_keys(texts[:2]), np.ones((2, 3), np.float32))
    assert cache.get_text(texts[1]) is not None
    # A string that was asked for its UTF-8 keeps it, and is larger then.
    assert [sys.getsizeof(text) for text in texts] == before


def test_a_text_of_ten_megabytes_has_a_key() -> None:
    text = "0123456789" * 1_000_000
    assert np.array_equal(text_keys([text]), digests([text]))


@pytest.mark.parametrize(
    "empty",
    [
        [],
        (),
        np.array([], object),
        pd.Series([], dtype=str),
        pa.array([], pa.string()),
        pa.chunked_array([], pa.string()),
        rows_of([])["text"],
    ],
)
def test_no_texts_have_no_keys(empty: Any) -> None:
    assert text_keys(empty).shape == (0, 32)


def two_tables() -> datasets.Dataset:
    parts = [
        datasets.Dataset.from_dict({"text": TEXTS}),
        datasets.Dataset.from_dict({"text": ["more", *TEXTS]}),
    ]
    return datasets.concatenate_datasets(parts)


@pytest.mark.parametrize(
    "rearranged",
    [
        lambda rows: rows.select(range(2, 9)),
        lambda rows: rows.select(range(9, 14)),
        lambda rows: rows.select([16, 3, 3, 0, 8, 9]),
        lambda rows: rows.select([]),
        lambda rows: rows.select([]).select([]),
        lambda rows: rows.shuffle(seed=7),
        lambda rows: rows.shuffle(seed=7).select(range(3, 8)),
        lambda rows: rows.select(range(1, 12)).shuffle(seed=1).select([4, 4, 1]),
        lambda rows: rows.shuffle(seed=5).flatten_indices(),
        lambda rows: rows.shard(3, 1),
        lambda rows: rows.filter(lambda row: len(row["text"]) < 6),
        lambda rows: rows.cast_column("text", datasets.Value("large_string")).shuffle(seed=2),
    ],
)
def test_a_rearranged_data_set_has_the_keys_of_its_rows(rearranged: Callable[[Any], Any]) -> None:
    rows = rearranged(two_tables())
    expected = digests(list(rows["text"]))
    assert np.array_equal(text_keys(rows["text"]), expected)
    assert np.array_equal(dataset_keys(rows), expected)


def test_arrow_buffers_are_hashed_without_making_strings() -> None:
    rows = two_tables().shuffle(seed=3)
    assert type(dataset_texts(rows, "text")).__name__ == "ArrowTexts"


def test_a_transform_is_applied_before_hashing() -> None:
    rows = two_tables().with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    assert np.array_equal(text_keys(rows["text"]), digests(list(rows["text"])))


def test_a_column_inside_a_column_is_read_as_the_data_set_reads_it() -> None:
    rows = datasets.Dataset.from_dict({"meta": [{"source": text} for text in TEXTS]})
    assert np.array_equal(text_keys(rows["meta"]["source"]), digests(TEXTS))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("one text", "found one str"),
        (b"bytes", "found one bytes"),
        ({"text": "a"}, "found one dict"),
        (7, "found one int"),
        (pd.DataFrame({"text": ["a"]}), "whole DataFrame"),
        (rows_of(["a"]), "dict at position 0"),
        (["a", 7], "int at position 1"),
        ([*["a"] * 5_000, 7, "b"], "int at position 5000"),
        (["a", None], "NoneType at position 1"),
        ([b"a"], "bytes at position 0"),
        (np.zeros(2), "float at position 0"),
        (np.array([["a"]]), "1-D"),
        (pd.Series(["a", None]), "at position 1"),
        (pd.Series(["a", None], dtype=object), "at position 1"),
        (pa.array(["a", "b", None]), "null at position 2"),
        (pa.array(["a", "b", None]).slice(1), "null at position 1"),
        (pa.array(["a", None]).dictionary_encode(), "null at position 1"),
        (pa.array([1]), "int at position 0"),
        (pa.array([None]), "NoneType at position 0"),
        (rows_of(["a", None])["text"], "null at position 1"),
        (rows_of(["a", None, "b"]).select([2, 1, 0])["text"], "null at position 1"),
        (datasets.Dataset.from_dict({"text": [1]})["text"], "int at position 0"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_with_its_position(items: Any, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        text_keys(items)


def test_a_null_that_is_not_selected_does_no_harm() -> None:
    rows = rows_of(["a", None, "b"]).select([2, 0])
    assert np.array_equal(text_keys(rows["text"]), digests(["b", "a"]))


TITLED = {"text": ["t a", "b", "c"], "title": ["t", "", None], "body": ["a", "b", "c"]}


def test_a_title_changes_the_key_and_its_absence_keeps_plain_text_plain() -> None:
    keys = field_keys(TITLED)
    plain = text_keys(TITLED["text"])
    assert (keys == plain).all(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"text": "t", "title": "a b", "body": "c"}, {"text": "t", "title": "a", "body": "b c"}),
        ({"text": "t", "title": "a"}, {"text": "t", "body": "a"}),
        ({"text": "t", "query": "q", "instruction": "i"}, {"text": "t", "query": "qi"}),
        ({"text": "t", "instruction": "i"}, {"text": "t", "title": "i"}),
        ({"text": "t", "body": ""}, {"text": "t"}),
        ({"text": "t", "body": " t"}, {"text": "t"}),
        ({"text": "t", "conversation": ["a", "b"]}, {"text": "t", "conversation": ["a, b"]}),
        ({"text": "t", "conversation": [{"role": "a"}]}, {"text": "t", "conversation": ["a"]}),
        (
            {"text": "t", "conversation": [{"role": "user", "content": "a"}]},
            {"text": "t", "conversation": [{"role": "system", "content": "a"}]},
        ),
    ],
)
def test_what_a_model_can_tell_apart_has_different_keys(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert not np.array_equal(item_keys([left]), item_keys([right]))


@pytest.mark.parametrize(
    "item",
    [
        {"text": "t", "id": "7", "label": 3},
        {"text": "t", "title": ""},
        {"text": "t", "title": None, "body": "t"},
        {"text": "t", "query": "t", "instruction": None},
        {"text": "t", "conversation": None, "image": None},
    ],
)
def test_what_adds_nothing_keeps_plain_text_plain(item: dict[str, Any]) -> None:
    assert np.array_equal(item_keys([item]), text_keys(["t"]))


def test_the_order_in_which_fields_are_given_does_not_count() -> None:
    assert np.array_equal(field_keys(dict(reversed(TITLED.items()))), field_keys(TITLED))


def test_items_and_columns_have_the_same_keys() -> None:
    turns = [{"role": "user", "content": "grüße"}, {"role": "assistant", "content": "\0"}]
    titled: dict[str, Any] = TITLED
    columns: dict[str, list[Any]] = {**titled, "conversation": [turns, None, []], "query": ["b", "b", None]}
    items = [{name: column[row] for name, column in columns.items()} for row in range(3)]
    expected = field_keys(columns)
    assert np.array_equal(item_keys(items), expected)
    rows = datasets.Dataset.from_dict({**columns, "id": ["1", "2", "3"]})
    assert np.array_equal(dataset_keys(rows), expected)
    shuffled = rows.select([2, 0, 1])
    assert np.array_equal(dataset_keys(shuffled), expected[[2, 0, 1]])
    assert np.array_equal(item_keys(list(shuffled)), expected[[2, 0, 1]])


def test_conversations_of_strings_are_keyed_by_their_json() -> None:
    conversations = [["a", "b"], ["c"]]
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "conversation": conversations})
    arrow = pa.array(conversations)
    keys = field_keys({"text": ["x", "y"], "conversation": conversations})
    assert np.array_equal(dataset_keys(rows), keys)
    assert np.array_equal(field_keys({"text": ["x", "y"], "conversation": arrow}), keys)
    texts = [json.dumps(turns, separators=(",", ":")) for turns in conversations]
    assert not np.array_equal(keys, text_keys(texts))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "the field text"),
        ({"title": ["a"]}, "the field text"),
        ({"text": ["a"], "id": ["b"]}, "found text, id"),
        ({"text": ["a"], "title": ["a", "b"]}, "one length"),
        ({"text": [None]}, "field 'text'.* at position 0"),
        ({"text": ["a"], "title": [7]}, "field 'title'.* at position 0"),
        ({"text": ["a"], "conversation": [[object()]]}, "field 'conversation'"),
    ],
)
def test_fields_that_have_no_key_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ItemError, match=message):
        field_keys(columns)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("text", "write \\[item\\]"),
        ({"text": "a"}, "write \\[item\\]"),
        ([7], "item 0.* int"),
        (["a", {"title": "b"}], "at position 1"),
        ([{"text": "a", "image": object()}], "image"),
    ],
)
def test_items_that_have_no_key_are_refused(items: Any, message: str) -> None:
    with pytest.raises(ItemError, match=message):
        item_keys(items)


def test_the_first_of_equal_keys_is_found() -> None:
    assert first_of_each(text_keys(["a", "b", "a", "c", "b", "a"])).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_of_each(text_keys([])).tolist() == []


class TestLongLists:
    """No step of a call holds the interpreter for more texts than a piece has."""

    TEXTS: ClassVar = [f"text {number}" for number in range(2 * PIECE + 3)]

    def test_they_have_the_keys_and_texts_of_a_tuple(self) -> None:
        copy = frozen(self.TEXTS)
        assert isinstance(copy, Pieces)
        assert np.array_equal(text_keys(copy), text_keys(tuple(self.TEXTS)))
        positions = np.array([0, PIECE - 1, PIECE, 2 * PIECE + 2])
        assert take(copy, positions) == [self.TEXTS[position] for position in positions]
        assert list(copy) == self.TEXTS

    def test_they_are_copied_and_hashed_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts: list[int] = []

        def counted(texts: tuple[str, ...], out: Any) -> None:
            counts.append(len(texts))
            hash_texts(texts, out)

        hash_texts = _core.hash_texts
        monkeypatch.setattr(_core, "hash_texts", counted)
        copy = frozen(self.TEXTS)
        assert frozen(copy) is copy
        text_keys(copy)
        text_keys(self.TEXTS)
        assert counts == 2 * [PIECE, PIECE, 3]
        assert [len(piece) for piece in copy.pieces] == counts[:3]

    def test_a_later_change_of_the_list_changes_nothing(self) -> None:
        texts = list(self.TEXTS)
        copy = frozen(texts)
        texts.clear()
        assert copy[PIECE] == self.TEXTS[PIECE]

    def test_the_message_names_the_position_in_the_list(self) -> None:
        texts: list[object] = list(self.TEXTS)
        texts[PIECE + 1] = 7
        with pytest.raises(ItemError, match=f"found int at position {PIECE + 1}"):
            text_keys(texts)

    def test_they_are_encoded_as_others(self, tmp_path: Path) -> None:
        with EmbeddingCache(tmp_path) as cache:
            expected = np.arange(len(self.TEXTS), dtype=np.float32)[:, None]
            found = cache.encode(self.TEXTS, lambda some: np.array([[text[5:]] for text in some], np.float32))
        assert np.array_equal(found, expected)
