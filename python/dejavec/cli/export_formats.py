"""The formats of ``dejavec export``: each writes the rows of a selection, block by block."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.cli.selection import Part, Selection
from dejavec.errors import VectorsError
from dejavec.support.packages import package
from dejavec.vectors.output import family_of
from dejavec.vectors.ragged import Ragged, offsets_of

Format = Literal["npy", "parquet", "arrow", "safetensors", "npz", "faiss"]

SUFFIXES: dict[str, Format] = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".faiss": "faiss",
    ".index": "faiss",
}
"""The format of a file by its suffix."""

_WHAT = "export"
_NPY_HEADER = 128
_FAISS: dict[str, tuple[bytes, int]] = {"l2": (b"IxF2", 1), "ip": (b"IxFI", 0)}
"""The first bytes of a flat index of FAISS, and the number of its metric."""

_SAFETENSORS = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16",
    "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write(selection: Selection, form: Format, target: Path, metric: str | None) -> dict[Path, Path]:
    """Write the rows of a selection.

    Args:
        selection: the rows.
        form: the format.
        target: the name of the file in the end.
        metric: of ``"faiss"``; None: that of the cache.

    Returns:
        The written files under temporary names beside their final names, by final name.

    Raises:
        VectorsError: the format cannot hold such vectors; nothing was written.
        MissingPackageError: the package for this format is not installed.
        OSError: a file could not be written.
    """
    _check(selection, form)
    beside = target.parent / f".{target.name}.tmp"
    if form in ("parquet", "arrow"):
        _write_table(selection, form, beside, target)
    elif form in ("npz", "safetensors"):
        arrays = list(_arrays(selection))
        with beside.open("wb") as file:
            (_write_npz if form == "npz" else _write_safetensors)(arrays, file)
    else:
        with beside.open("wb") as file:
            (_write_npy if form == "npy" else _write_faiss)(selection, file, metric)
        return {target: beside, **_write_sides(selection, target)}
    return {target: beside}


def _check(selection: Selection, form: Format) -> None:
    cache = selection.cache
    family = family_of(cache.container)
    if form in ("npy", "faiss") and family != "dense":
        others = "parquet, arrow, safetensors or npz"
        raise VectorsError(
            cache.path,
            expected=f"vectors of one length, which {form} can hold",
            found=f"{family} ones",
            remedy=f"pass --format {others}",
        )
    dtype = np.dtype(cache.dtype or np.float32)
    if form == "faiss" and not np.can_cast(dtype, np.float32, "safe"):
        raise VectorsError(
            cache.path,
            expected="numbers that float32 holds exactly, as in faiss",
            found=str(dtype),
            remedy="pass another --format",
        )
    if form == "safetensors" and dtype.name not in _SAFETENSORS:
        raise VectorsError(
            cache.path,
            expected=f"one of the dtypes of safetensors: {', '.join(_SAFETENSORS)}",
            found=str(dtype),
            remedy="pass another --format",
        )


# NumPy and FAISS: one matrix, with keys and texts in files beside it.


def _write_npy(selection: Selection, file: IO[bytes], _: str | None) -> None:
    shape = (len(selection.rows), selection.cache.dim or 0)
    dtype = np.dtype(selection.cache.dtype or np.float32)
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    for part in selection.blocks(_WHAT):
        file.write(_numbers(part).tobytes())


def _write_faiss(selection: Selection, file: IO[bytes], metric: str | None) -> None:
    # Drawn in docs/format.md, which also says what FAISS does with it.
    count, dim = len(selection.rows), selection.cache.dim or 0
    name, number = _FAISS[metric or ("ip" if selection.cache.container == "faiss-ip" else "l2")]
    file.write(name + struct.pack("<iqqq?iq", dim, count, 1 << 20, 1 << 20, True, number, count * dim))
    for part in selection.blocks(_WHAT):
        file.write(_numbers(part).astype("<f4", copy=False).tobytes())


def _write_sides(selection: Selection, target: Path) -> dict[Path, Path]:
    written = {}
    for suffix, write_side in (("keys.npy", _write_keys), ("texts.jsonl", _write_texts)):
        if suffix == "texts.jsonl" and not selection.has_texts:
            continue
        final = target.with_suffix(f".{suffix}")
        written[final] = target.parent / f".{final.name}.tmp"
        with written[final].open("wb") as file:
            write_side(selection, file)
    return written


def _write_keys(selection: Selection, file: IO[bytes]) -> None:
    np.save(file, selection.keys)


def _write_texts(selection: Selection, file: IO[bytes]) -> None:
    for first in range(0, len(selection.rows), 10_000):
        for text in selection.texts_of(selection.rows[first : first + 10_000]):
            file.write(json.dumps({"text": text}).encode("ascii") + b"\n")


def _numbers(part: Part) -> NDArray[Any]:
    """Return the numbers of rows as they lie in memory."""
    return part.vectors.data if isinstance(part.vectors, Ragged) else part.vectors


# NumPy's archive and safetensors: arrays by name.


@dataclass(frozen=True)
class _Array:
    """An array that is written block by block."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[NDArray[Any]]]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def _whole(name: str, array: NDArray[Any]) -> _Array:
    return _Array(name, array.dtype, array.shape, lambda: iter([array]))


def _arrays(selection: Selection) -> Iterator[_Array]:
    """Yield the vectors, keys and texts of a selection.

    Dense: ``vectors`` (n, dim). Multi-vector: ``vectors`` (tokens, dim) and ``indptr``. Sparse: what
    ``scipy.sparse.load_npz`` reads. Texts are bytes of UTF-8, ``text_offsets`` and ``has_text``.
    """
    cache = selection.cache
    family, dim = family_of(cache.container), cache.dim or 0
    dtype = np.dtype(cache.dtype or np.float32)
    elements = int(selection.lengths.sum())

    def numbers() -> Iterator[NDArray[Any]]:
        return (_numbers(part) for part in selection.blocks(_WHAT))

    def columns() -> Iterator[NDArray[Any]]:
        for part in selection.blocks(_WHAT):
            assert isinstance(part.vectors, Ragged)
            yield np.asarray(part.vectors.indices, np.int32)

    if family == "sparse":
        yield _Array("data", dtype, (elements,), numbers)
        yield _Array("indices", np.dtype(np.int32), (elements,), columns)
        yield _whole("shape", np.array([len(selection.rows), dim], np.int64))
    else:
        yield _Array("vectors", dtype, (elements, dim), numbers)
    if family != "dense":
        yield _whole("indptr", offsets_of(selection.lengths))
    yield _whole("keys", selection.keys)
    if selection.has_texts:
        texts = [
            None if text is None else text.encode("utf-8", "surrogatepass")
            for text in selection.texts_of(selection.rows)
        ]
        sizes = np.array([len(text or b"") for text in texts], np.int64)
        yield _whole("texts", np.frombuffer(b"".join(text or b"" for text in texts), np.uint8))
        yield _whole("text_offsets", offsets_of(sizes))
        yield _whole("has_text", np.array([text is not None for text in texts], np.bool_))


def _write_npz(arrays: list[_Array], file: IO[bytes]) -> None:
    names = {array.name for array in arrays}
    if "indices" in names:
        arrays = [*arrays, _whole("format", np.array(b"csr"))]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for array in arrays:
            with archive.open(f"{array.name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member,
                    {
                        "descr": np.lib.format.dtype_to_descr(array.dtype),
                        "fortran_order": False,
                        "shape": array.shape,
                    },
                )
                for block in array.blocks():
                    member.write(block.tobytes())


def _write_safetensors(arrays: list[_Array], file: IO[bytes]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    # Wide numbers first, so that all are aligned.
    ordered = sorted(arrays, key=lambda array: -array.dtype.itemsize)
    end = 0
    for array in ordered:
        start, end = end, end + array.bytes
        kind = _SAFETENSORS[array.dtype.name]
        header[array.name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for array in ordered:
        for block in array.blocks():
            file.write(block.tobytes())


# Arrow and Parquet: a row for each vector.


def _write_table(selection: Selection, form: Format, path: Path, target: Path) -> None:
    arrow = package("pyarrow", target)
    schema = _schema(selection, arrow)
    with _table_writer(form, path, schema, target) as writer:
        for part in selection.blocks(_WHAT):
            columns = [arrow.array([key.tobytes() for key in part.keys], arrow.binary(32))]
            if selection.has_texts:
                texts = [None if text is None or _has_surrogate(text) else text for text in part.texts]
                columns.append(arrow.array(texts, arrow.large_string()))
            columns.append(_vector_column(part, schema.field("vector").type, arrow))
            writer.write_batch(arrow.record_batch(columns, schema=schema))


def _has_surrogate(text: str) -> bool:
    """Return whether a text has a lone surrogate, which Arrow cannot hold."""
    return any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else False


def _schema(selection: Selection, arrow: Any) -> Any:
    cache = selection.cache
    number = arrow.from_numpy_dtype(np.dtype(cache.dtype or np.float32))
    family = family_of(cache.container)
    if family == "sparse":
        kind = arrow.struct([("indices", arrow.list_(arrow.int32())), ("values", arrow.list_(number))])
    else:
        kind = arrow.list_(number, cache.dim or 0)
        kind = kind if family == "dense" else arrow.list_(kind)
    texts = [("text", arrow.large_string())] if selection.has_texts else []
    return arrow.schema([("key", arrow.binary(32)), *texts, ("vector", kind)])


def _vector_column(part: Part, kind: Any, arrow: Any) -> Any:
    vectors = part.vectors
    if not isinstance(vectors, Ragged):
        return arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), type=kind)
    offsets = arrow.array((vectors.indptr - vectors.indptr[0]).astype(np.int32))
    if vectors.indices is None:
        flat = arrow.FixedSizeListArray.from_arrays(
            arrow.array(vectors.data.reshape(-1)), type=kind.value_type
        )
        return arrow.ListArray.from_arrays(offsets, flat, type=kind)
    lists = [
        arrow.ListArray.from_arrays(offsets, arrow.array(numbers))
        for numbers in (vectors.indices, vectors.data)
    ]
    return arrow.StructArray.from_arrays(lists, fields=list(kind))


@contextmanager
def _table_writer(form: Format, path: Path, schema: Any, target: Path) -> Iterator[Any]:
    if form == "parquet":
        with package("pyarrow.parquet", target).ParquetWriter(path, schema) as writer:
            yield writer
    else:
        with package("pyarrow.ipc", target).new_file(str(path), schema) as writer:
            yield writer
