"""Vectors come back as they were given, in whatever form people have them."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from processes import run

from dejavec import DejavecWarning, EmbeddingCache, FaissCache, NumpyCache, cached
from dejavec.errors import ItemError, VectorsError
from dejavec.keys.items import text_keys

ROWS = [[0.5, 0.1], [1.0, 2.0], [-3.0, 1e300]]
TEXTS = ["a", "b", "c"]


def lists(texts: list[str]) -> list[list[float]]:
    return [ROWS[TEXTS.index(text)] for text in texts]


class TestLists:
    @pytest.mark.parametrize("run_number", ["cold", "warm"])
    def test_a_list_of_floats_comes_back_as_that_list(self, tmp_path: Path, run_number: str) -> None:
        embed = cached(tmp_path / "c", model="m@1")(lists)
        if run_number == "warm":
            embed(TEXTS)
        found = embed(TEXTS)
        assert found == ROWS
        assert {type(number) for row in found for number in row} == {float}
        assert found + embed(["a"]) == [*ROWS, ROWS[0]]
        assert json.loads(json.dumps(found)) == ROWS
        assert embed([]) == []
        assert not embed([])
        assert embed.cache.dtype == np.float64
        assert embed.cache.get(TEXTS)[1] == ROWS
        assert '"list"' in (tmp_path / "c" / "meta.json").read_text()

    @pytest.mark.parametrize("first", ["integers", "floats", "together"])
    def test_integers_in_a_list_take_the_caches_float_dtype(self, tmp_path: Path, first: str) -> None:
        def model(texts: list[str]) -> list[list[float]]:
            return [[0, 0] if not text else [0.1, 0.2] for text in texts]

        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        for texts in {"integers": [[""], ["x"]], "floats": [["x"], [""]], "together": [["", "x"]]}[first]:
            cache.encode(texts, model)
        assert cache.dtype == np.float64
        assert cache.encode(["", "x"], model) == [[0.0, 0.0], [0.1, 0.2]]

    def test_integers_take_a_float32_caches_dtype_too(self, tmp_path: Path, recwarn: Any) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        cache.put(["x"], np.ones((1, 2), np.float32))
        found = cache.encode(["", "x"], lambda texts: [[0, 0] for _ in texts])
        assert found.dtype == np.float32
        assert found.tolist() == [[0, 0], [1, 1]]
        assert "" in cache

    def test_lists_that_float32_does_not_hold_are_returned_and_not_stored(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        cache.put(["x"], np.ones((1, 2), np.float32))
        with pytest.warns(DejavecWarning, match=r"item 0 \('a'\), item 2 .*dtype=\"float32\"") as warned:
            found = cache.encode([*TEXTS, "x", "a"], lists)
        assert len(warned) == 1
        assert found.tolist() == [*ROWS, [1, 1], ROWS[0]]
        assert cache.get(TEXTS)[0].tolist() == [False, True, False]
        with pytest.raises(VectorsError, match=r"that float32 rounds at position 0; .*dtype=\"float32\""):
            cache.put(TEXTS, ROWS)
        assert cache.put(["b"], [[1.0, 3.0]]) == 1

    @pytest.mark.parametrize("turn", ["cold", "warm"])
    def test_dtype_float32_rounds_on_the_first_run_too(self, tmp_path: Path, turn: str) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1", dtype="float32")
        if turn == "warm":
            cache.encode(["a", "b"], lists)
        found = cache.encode(["a", "b"], lists)
        assert found == np.array(ROWS[:2], np.float32).tolist()
        assert cache.dtype == np.float32
        cache.put(["d"], np.array([[0.1, 0.2]]))
        assert cache.get(["d"])[1] == np.array([[0.1, 0.2]], np.float32).tolist()

    def test_a_bfloat16_cache_takes_only_what_it_holds(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        cache.put(["x"], torch.ones((1, 2), dtype=torch.bfloat16))
        with pytest.warns(DejavecWarning, match="bfloat16 holds exactly"):
            found = cache.encode(["a", "b"], lists)
        assert found.tolist() == ROWS[:2]
        assert cache.get(["a", "b"])[0].tolist() == [False, True]

    @pytest.mark.parametrize("first", ["numpy", "torch", "list"])
    @pytest.mark.parametrize("wanted", ["numpy", "torch", "list", None])
    def test_output_chooses_the_kind_whatever_was_stored_first(
        self, tmp_path: Path, first: str, wanted: Any
    ) -> None:
        made = np.array([[0.5, 0.25]])
        forms = {"numpy": made, "torch": torch.from_numpy(made), "list": made.tolist()}
        EmbeddingCache(tmp_path / "c", model="m@1").put(["a"], forms[first])
        cache = EmbeddingCache(tmp_path / "c", model="m@1", output=wanted)
        expected = type(forms[wanted or first])
        for found in (cache.encode(["a"], lists), cache.get(["a"])[1]):
            assert type(found) is expected
            assert np.asarray(found).tolist() == made.tolist()

    def test_bfloat16_as_numpy_is_float32(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1", output="numpy")
        cache.put(["a"], torch.tensor([[0.5, 3.0]], dtype=torch.bfloat16))
        assert cache.get(["a"])[1].dtype == np.float32

    @pytest.mark.parametrize("settings", [{"output": "pandas"}, {"dtype": "float16"}])
    def test_other_kinds_are_refused(self, tmp_path: Path, settings: Any) -> None:
        with pytest.raises(ValueError, match=next(iter(settings))):
            EmbeddingCache(tmp_path / "c", model="m@1", **settings)

    def test_without_torch_numpy_comes_back_with_one_warning(self, tmp_path: Path) -> None:
        EmbeddingCache(tmp_path / "c", model="m@1").put(["a"], torch.ones((1, 2)))
        run(
            """
            sys.modules["torch"] = None
            cache = EmbeddingCache(path, model='m@1')
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                for _ in range(2):
                    assert cache.get(["a"])[1].tolist() == [[1, 1]]
            assert len(warned) == 1 and "torch is not installed" in str(warned[0].message), warned
            assert warned[0].filename == "<string>"
            """,
            tmp_path / "c",
        )


VECTORS = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
FORMS: dict[str, Any] = {
    "list of arrays": lambda: list(VECTORS),
    "pandas column of arrays": lambda: pd.Series(list(VECTORS)),
    "pandas column of lists": lambda: pd.Series(VECTORS.astype(np.float64).tolist()),
    "pandas column in Arrow": lambda: pd.Series(
        VECTORS.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float32()))
    ),
    "object array": lambda: pd.Series(list(VECTORS)).to_numpy(),
    "Arrow list": lambda: pa.array(VECTORS.tolist(), pa.list_(pa.float32())),
    "Arrow large list, sliced": lambda: pa.array([[9, 9], *VECTORS.tolist()], pa.large_list(pa.float32()))[
        1:
    ],
    "Arrow fixed-size list": lambda: pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 2),
    "Arrow chunks": lambda: pa.chunked_array(
        [pa.array([row], pa.list_(pa.float32())) for row in VECTORS.tolist()]
    ),
    "polars list": lambda: pl.Series(VECTORS.tolist(), dtype=pl.List(pl.Float32)),
    "polars array": lambda: pl.Series(VECTORS.tolist(), dtype=pl.Array(pl.Float32, 2)),
    "generator": lambda: (row for row in VECTORS),
    "dict values": {"a": VECTORS[0], "b": VECTORS[1]}.values,
    "pandas table": lambda: pd.DataFrame(VECTORS),
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("call", ["put", "encode", "add"])
def test_columns_of_vectors(tmp_path: Path, form: str, call: str) -> None:
    if call == "add":
        backend = NumpyCache(tmp_path / "c")
        backend.add(["a", "b"], FORMS[form]())
        found = np.stack([backend.get_vector("a"), backend.get_vector("b")])  # type: ignore[list-item]
    else:
        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        if call == "put":
            assert cache.put(["a", "b"], FORMS[form]()) == 2
        else:
            cache.encode(["a", "b"], lambda texts: FORMS[form]())
        found = np.asarray(cache.get(["a", "b"])[1])
    assert found.astype(np.float32).tobytes() == VECTORS.tobytes()


class TestOneBadRow:
    BAD: tuple[tuple[Any, str], ...] = (
        (None, "found None"),
        ([1.0], "found a vector of 1 number"),
        ([1.0, 2.0, 3.0], "found a vector of 3 numbers"),
        ("oops", "found 'oops'"),
        ({"error": "429"}, r"found \{'error': '429'\}"),
        (float("nan"), "found nan"),
        ([], r"found \[\]"),
        (np.ones((1, 2)), r"found array"),
    )

    @pytest.mark.parametrize(("bad", "message"), BAD)
    def test_it_names_itself_and_the_rest_of_the_chunk_is_kept(
        self, tmp_path: Path, bad: Any, message: str
    ) -> None:
        texts = [str(number) for number in range(20)]

        def model(given: list[str]) -> Any:
            return [bad if text == "7" else [1.0, float(text)] for text in given]

        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        with pytest.raises(VectorsError, match=r"of 2 numbers for item 7 \('7'\), " + message):
            cache.encode(texts, model)
        assert np.flatnonzero(~cache.get(texts)[0]).tolist() == [7]
        with pytest.raises(VectorsError, match=message + ".* at position 7"):
            EmbeddingCache(tmp_path / "other", model="m@1").put(texts, model(texts))

    @pytest.mark.parametrize("by", ["batches", "blocks"])
    def test_it_does_so_where_vectors_come_in_pieces(self, tmp_path: Path, by: str) -> None:
        texts = [str(number) for number in range(20)]

        def model(given: list[str]) -> Any:
            return [None if text == "7" else [1.0, float(text)] for text in given]

        def blocks(given: list[str]) -> Any:
            for start in range(0, len(given), 5):
                yield model(given[start : start + 5])

        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        function, batch_size = (model, 5) if by == "batches" else (blocks, None)
        with pytest.raises(VectorsError, match=r"for item 7 \('7'\), found None"):
            cache.encode(texts, function, batch_size=batch_size)
        assert cache.get(texts)[0].tolist() == [number < 10 and number != 7 for number in range(20)]

    def test_a_null_in_a_column_too(self, tmp_path: Path) -> None:
        for column in (
            pa.array([[1.0, 2.0], None, [3.0, 4.0]]),
            pd.Series([[1.0, 2.0], None, [3.0, 4.0]]),
            pl.Series([[1.0, 2.0], None, [3.0, 4.0]]),
        ):
            with pytest.raises(VectorsError, match="found None at position 1"):
                EmbeddingCache(tmp_path / "c", model="m@1").put(TEXTS, column)


class TestTexts:
    @pytest.mark.parametrize("value_type", [pa.string(), pa.large_string()])
    def test_dictionary_encoded_text_has_the_keys_of_the_text(self, value_type: Any) -> None:
        texts = ["b", "a", "b", "ä" * 40, "a"]
        kind = pa.dictionary(pa.int16(), value_type)
        whole = pa.array(texts, value_type).dictionary_encode().cast(kind)
        chunks = pa.chunked_array(
            [pa.array(part, value_type).dictionary_encode() for part in (texts[:2], texts[2:])]
        )
        for column in (whole, whole[1:4], chunks, chunks[1:]):
            assert text_keys(column).tobytes() == text_keys(column.to_pylist()).tobytes()
        assert len(text_keys(whole[:0])) == 0

    def test_a_null_in_it_is_named(self) -> None:
        with pytest.raises(ItemError, match="null at position 2"):
            text_keys(pa.array(["a", "b", None, "a"]).dictionary_encode())

    def test_each_text_of_a_dictionary_is_hashed_once(self) -> None:
        """A column that would be 8 GiB of text, which no machine here could expand."""
        text = "x" * (1 << 20)
        column = pa.DictionaryArray.from_arrays(np.zeros(8_192, np.int32), pa.array([text]))
        keys = text_keys(column)
        assert keys.shape == (8_192, 32)
        assert (keys == text_keys([text])).all()

    @pytest.mark.parametrize(
        "table",
        [
            pd.DataFrame({"t": ["a"]}),
            pl.DataFrame({"t": ["a"]}),
            pl.LazyFrame({"t": ["a"]}),
            pa.table({"t": ["a"]}),
            pa.record_batch({"t": ["a"]}),
        ],
        ids=lambda table: type(table).__name__,
    )
    def test_a_table_is_refused(self, table: Any) -> None:
        with pytest.raises(ItemError, match=r"one column of texts, found a whole .*; choose a column"):
            text_keys(table)

    @pytest.mark.parametrize(
        "column",
        [["a", None], pd.Series(["a", None]), pl.Series(["a", None]), pa.array(["a", None])],
        ids=lambda column: type(column).__name__,
    )
    def test_a_column_with_nulls_names_the_first(self, column: Any) -> None:
        with pytest.raises(ItemError, match="position 1"):
            text_keys(column)


class TestArguments:
    def test_numpy_integers_are_integers(self, tmp_path: Path) -> None:
        cache = FaissCache(tmp_path / "f")
        cache.add(["a", "b"], VECTORS)
        some: list[Any] = [np.int64(1), np.uint8(1)]
        for k in some:
            assert cache.search(VECTORS[:1], k).rows.tolist() == [[0]]
        numbered = EmbeddingCache(tmp_path / "c", model="m@1", chunk_rows=np.int32(5))  # type: ignore[arg-type]
        numbered.encode(TEXTS, lists, batch_size=np.int64(2))  # type: ignore[arg-type]
        assert len(numbered) == 3

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda path: EmbeddingCache(path, chunk_rows="10"), "chunk_rows"),  # type: ignore[arg-type]
            (lambda path: EmbeddingCache(path, chunk_rows=2.0), "chunk_rows"),  # type: ignore[arg-type]
            (lambda path: EmbeddingCache(path, chunk_seconds="10"), "chunk_seconds"),  # type: ignore[arg-type]
            (lambda path: EmbeddingCache(path, progress="bar"), "progress"),  # type: ignore[arg-type]
            (lambda path: EmbeddingCache(path).search(VECTORS, 1.5), "k"),  # type: ignore[arg-type]
        ],
    )
    def test_a_wrong_type_is_an_error_that_names_the_argument(
        self, tmp_path: Path, call: Any, name: str
    ) -> None:
        with pytest.raises(TypeError, match=f"expected {name} to be"):
            call(tmp_path / "c")

    def test_an_empty_cache_is_true(self, tmp_path: Path) -> None:
        cache = EmbeddingCache(tmp_path / "c", model="m@1")
        assert cache
        assert len(cache) == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["int8", "uint8"])
    def test_a_precision_that_depends_on_the_call_is_refused(self, tmp_path: Path, precision: str) -> None:
        from mteb_models import bare_minilm

        model = bare_minilm()
        with pytest.raises(ValueError, match=re.escape(f"precision='{precision}'")):
            EmbeddingCache(tmp_path / "c", model="m@1").encode(
                ["a", "b"], functools.partial(model.encode, precision=precision)
            )
        found = EmbeddingCache(tmp_path / "c", model="m@1").encode(
            ["a", "b"], functools.partial(model.encode, precision="binary")
        )
        assert found.dtype == np.int8
