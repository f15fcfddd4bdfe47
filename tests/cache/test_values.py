"""What a model returns is stored and given back bit for bit, or refused."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal

from dejavec import _core
from dejavec.errors import VectorsError
from dejavec.vectors.arrays import from_rows, to_rows
from dejavec.vectors.output import Output
from dejavec.vectors.stored import check_kind, nonfinite

NUMPY_DTYPES = ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
TORCH_DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"]


def round_trip(vectors: Any, count: int) -> Any:
    rows, output = to_rows(vectors, count, "the model")
    assert isinstance(rows, np.ndarray)
    assert rows.flags.c_contiguous
    assert rows.dtype.byteorder in "<=|"
    return from_rows(rows, Output.from_json(output.to_json()))


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_every_numpy_dtype_comes_back(dtype: str) -> None:
    vectors = np.arange(-3, 3).reshape(2, 3).astype(dtype)
    assert bits_equal(round_trip(vectors, 2), vectors)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_torch_dtype_comes_back(dtype: str) -> None:
    vectors = torch.arange(-3, 3).reshape(2, 3).to(getattr(torch, dtype))
    assert bits_equal(round_trip(vectors, 2), vectors)


def test_every_bfloat16_comes_back_even_what_is_no_number() -> None:
    vectors = torch.arange(-(2**15), 2**15, dtype=torch.int16).reshape(256, 256).view(torch.bfloat16)
    assert bits_equal(round_trip(vectors, 256), vectors)


def test_big_endian_and_column_major_arrays_are_stored_in_one_form() -> None:
    vectors = np.asfortranarray(np.arange(6).reshape(2, 3).astype(">f8"))
    assert bits_equal(round_trip(vectors, 2), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "vectors",
    [
        [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
        (np.array([1.0, 2.0]), [3.0, 4.0]),
    ],
)
def test_lists_of_rows_of_one_length_are_arrays(vectors: Any) -> None:
    assert bits_equal(round_trip(vectors, 2), np.array([[1.0, 2.0], [3.0, 4.0]]))


def test_a_list_of_tensors_is_a_tensor() -> None:
    rows = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])]
    assert bits_equal(round_trip(rows, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        (np.zeros((3, 2)), "found 3"),
        (np.zeros(2), r"shape \(2,\)"),
        (np.zeros((2, 1, 1)), r"shape \(2, 1, 1\)"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        ([[1.0, 2.0], [3.0]], "ragged"),
        ([torch.zeros(2), torch.zeros(3)], "ragged"),
        ([torch.zeros(2), np.zeros(2)], "ragged"),
        (np.array([[object(), 1], [2, 3]]), "object"),
        (np.array([["a"], ["b"]]), "dtype <U1"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((2, 2), "M8[s]"), "datetime64"),
        (np.ma.masked_array(np.zeros((2, 2)), mask=True), "masked"),
        ([np.ma.masked_array(np.zeros(2), mask=[False, True])] * 2, "masked"),
        ([np.zeros((1, 2)), np.ma.masked_array(np.zeros((1, 2)), mask=True)], "masked"),
        (torch.zeros(2, 2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 2, dtype=torch.float8_e5m2), "float8"),
        (torch.zeros(2, 2, 2).to_sparse(), r"shape \(2, 2, 2\)"),
        (None, "None"),
        ({"vectors": np.zeros((2, 2))}, "dict with the keys vectors"),
        ("ab", "a str"),
    ],
)
def test_anything_but_one_row_of_numbers_per_text_is_refused(vectors: Any, found: str) -> None:
    with pytest.raises(VectorsError, match=f"the model: expected .*{found}") as caught:
        to_rows(vectors, 2, "the model")
    assert caught.value.remedy is not None


def test_bfloat16_and_float32_are_different_although_stored_alike() -> None:
    rows, output = to_rows(torch.zeros(1, 2, dtype=torch.bfloat16), 1, "the model")
    check_kind(rows, output, 2, Output("torch", "bfloat16"), "the model")
    with pytest.raises(VectorsError, match="expected dtype float32, found bfloat16"):
        check_kind(rows, output, 2, Output("torch", "float32"), "the model")


def test_rows_with_nan_or_infinity_are_found() -> None:
    rows = np.array([[0, np.nan], [1, 2], [-np.inf, 0], [3, np.finfo("f4").max]], np.float32)
    assert nonfinite(rows).tolist() == [0, 2]
    assert nonfinite(np.zeros((2, 2), np.int8)).tolist() == []


class TestLists:
    """Lists of numbers are those of NumPy. Making them neither waits for the collector nor stops others."""

    @pytest.mark.parametrize("dtype", NUMPY_DTYPES)
    @pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 70_000), (300, 401)], ids=str)
    def test_they_are_those_of_numpy(self, dtype: str, shape: tuple[int, int]) -> None:
        rows = (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)
        found = _core.to_lists(rows)
        assert found == rows.tolist()
        assert [type(number) for row in found[:1] for number in row] == [
            type(rows.dtype.type(0).item())
        ] * len(found[0] if found else [])

    @pytest.mark.parametrize("is_on", [True, False])
    def test_the_collector_rests_meanwhile_and_is_then_as_before(self, is_on: bool) -> None:
        rows = np.ones((30_000, 8))
        collections: list[str] = []

        def note(phase: str, _: dict[str, int]) -> None:
            collections.append(phase)

        gc.collect()
        try:
            (gc.enable if is_on else gc.disable)()
            gc.callbacks.append(note)
            lists = _core.to_lists(rows)
            gc.callbacks.remove(note)
            assert gc.isenabled() is is_on
        finally:
            gc.enable()
        assert len(lists) == len(rows)
        assert collections == []

    def test_an_error_leaves_the_collector_on(self) -> None:
        with pytest.raises((TypeError, AttributeError)):
            _core.to_lists(_Broken())  # type: ignore[arg-type]
        assert gc.isenabled()

    def test_other_threads_get_a_turn_after_65_536_numbers(self) -> None:
        broken = _Broken(range(1_000_000))
        with pytest.raises(AttributeError):
            _core.to_lists(broken)  # type: ignore[arg-type]
        assert broken.asked == [slice(0, 256, 1)]


class _Broken:
    """An array of 256 numbers a row that notes which rows are asked for, and has none."""

    def __init__(self, rows: range | None = None) -> None:
        self.asked: list[object] = []
        if rows is not None:
            self.shape = (len(rows), 256)

    def __getitem__(self, rows: object) -> object:
        self.asked.append(rows)
        return object()
