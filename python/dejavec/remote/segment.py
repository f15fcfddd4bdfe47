"""Segments: some rows as files that NumPy reads, and back."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.keys.items import Keys
from dejavec.remote.checksums import file_digest, row_checksums
from dejavec.remote.commit import Chain, Commit, File
from dejavec.remote.defects import DefectError
from dejavec.remote.namespace import Form
from dejavec.vectors.ragged import Ragged, Rows

HEADER_BYTES = 128
_MOST_ELEMENTS = 65_536

Buffers = tuple[bytes, Any]
"""The header of a data file, and the bytes behind it."""


@dataclass(frozen=True)
class Segment:
    """A segment to write.

    Attributes:
        commit: its commit.
        files: the bytes of its data files, by part.
    """

    commit: Commit
    files: Mapping[str, Buffers]

    @property
    def bytes(self) -> int:
        """The bytes of its data files."""
        return sum(file.size for file in self.commit.files.values())

    def again(self) -> Segment:
        """Return a segment of the same rows by another name."""
        return replace(self, commit=replace(self.commit, again=self.commit.again + 1))


def segment_of(
    namespace: str,
    keys: Keys,
    rows: Rows,
    texts: Sequence[str | None] | None = None,
    *,
    chains: Sequence[Chain] = (),
    sources: NDArray[np.uint16] | None = None,
) -> Segment:
    """Return rows as a segment.

    Args:
        namespace: the directory to which they belong.
        keys: the key of each row (n, 32), which differ.
        rows: the rows, in the dtype of the namespace.
        texts: the text of each row, None for none; None: no texts are shared.
        chains: see :class:`dejavec.remote.commit.Commit`.
        sources: likewise.
    """
    files: dict[str, Buffers] = {}
    if not isinstance(rows, Ragged):
        files["vectors.npy"] = _npy(rows)
    else:
        if rows.indices is None:
            files["vectors.npy"] = _npy(rows.data)
        else:
            files["values.npy"], files["indices.npy"] = _npy(rows.data), _npy(rows.indices)
        files["indptr.npy"] = _npy(rows.indptr)
    if texts is not None and any(text is not None for text in texts):
        files["texts.npy"], files["texts-spans.npy"] = _texts(texts)
    described = {
        part: File(len(header) + data.nbytes, file_digest(header, data))
        for part, (header, data) in files.items()
    }
    none = np.zeros(0, np.uint16)
    sums = row_checksums(rows)
    return Segment(
        Commit(namespace, described, keys, sums, 0, tuple(chains), none if sources is None else sources),
        files,
    )


def check_sizes(commit: Commit, form: Form) -> None:
    """Check that the data files of a commit can hold its rows.

    Raises:
        DefectError: they cannot.
    """
    files, rows = commit.files, len(commit.keys)
    texts = {"texts.npy", "texts-spans.npy"}
    if set(files) - texts != set(form.parts) or len(texts & set(files)) == 1:
        raise DefectError("its files are not those of such rows")
    right = {"indptr.npy": 8 * (rows + 1), "texts-spans.npy": 16 * rows}
    if form.rows == "dense":
        right["vectors.npy"] = rows * form.element_bytes
    for part, size in right.items():
        if part in files and files[part].size != HEADER_BYTES + size:
            raise DefectError(f"{part} has not the size of its rows")
    if form.rows != "dense":
        elements = files[form.parts[0]].size - HEADER_BYTES
        if elements < 0 or elements % form.element_bytes:
            raise DefectError(f"{form.parts[0]} has no whole elements")
        count = elements // form.element_bytes
        if form.rows == "sparse" and files["indices.npy"].size != HEADER_BYTES + 4 * count:
            raise DefectError("indices.npy has not the size of values.npy")


def rows_of(commit: Commit, form: Form, contents: Mapping[str, Any]) -> Rows:
    """Return the rows of a segment, from its whole data files.

    Args:
        commit: its commit, whose sizes were checked.
        form: the form of the rows.
        contents: the bytes of its data files, by part.

    Raises:
        DefectError: the bytes are not those of the commit, or not in form.
    """
    for part in form.parts:
        _check_digest(commit, part, contents[part])
    rows = len(commit.keys)
    if form.rows == "dense":
        return _array(contents["vectors.npy"], form.dtype, (rows, form.dim))
    indptr = indptr_of(contents["indptr.npy"], rows, form)
    elements = int(indptr[-1])
    if form.rows == "ragged":
        return Ragged(_array(contents["vectors.npy"], form.dtype, (elements, form.dim)), indptr)
    indices = _array(contents["indices.npy"], "<i4", (elements,))
    check_indices(indices, form)
    return Ragged(_array(contents["values.npy"], form.dtype, (elements,)), indptr, indices, form.dim)


def texts_of(commit: Commit, contents: Mapping[str, Any]) -> list[str | None]:
    """Return the text of each row of a segment, None for none. Whether it is that of the key is not checked.

    Raises:
        DefectError: the bytes are not those of the commit, or not in form.
    """
    for part in ("texts.npy", "texts-spans.npy"):
        _check_digest(commit, part, contents[part])
    size = len(contents["texts.npy"]) - HEADER_BYTES
    data = _array(contents["texts.npy"], "|u1", (size,))
    spans = spans_of(contents["texts-spans.npy"], len(commit.keys))
    if (spans > size).any():
        raise DefectError("a text lies nowhere")
    whole = data.tobytes()
    found: list[str | None] = []
    for start, end in spans.tolist():
        try:
            found.append(whole[start:end].decode("utf-8", "surrogatepass") if end > start else None)
        except UnicodeDecodeError:
            found.append(None)
    return found


def spans_of(content: Any, rows: int) -> NDArray[np.int64]:
    """Return where the text of each row begins and ends (n, 2).

    Raises:
        DefectError: it is not in form.
    """
    spans = _array(content, "<i8", (rows, 2))
    if (spans < 0).any() or (spans[:, 0] > spans[:, 1]).any():
        raise DefectError("a text lies nowhere")
    return spans


def indptr_of(content: Any, rows: int, form: Form) -> NDArray[np.int64]:
    """Return where the rows of a segment begin and end (n + 1,).

    Raises:
        DefectError: it is not in form.
    """
    indptr = _array(content, "<i8", (rows + 1,))
    lengths = np.diff(indptr)
    most = form.dim if form.rows == "sparse" else _MOST_ELEMENTS
    if indptr[0] != 0 or (lengths < 0).any() or (lengths > most).any():
        raise DefectError("indptr.npy has no rows")
    return indptr


def check_indices(indices: NDArray[np.int32], form: Form) -> None:
    """Check that the indices of sparse rows are columns.

    Raises:
        DefectError: one is not.
    """
    if len(indices) and (indices.min() < 0 or indices.max() >= form.dim):
        raise DefectError("an index is no column")


def _check_digest(commit: Commit, part: str, content: Any) -> None:
    whole = memoryview(content)
    if whole.nbytes != commit.files[part].size:
        raise DefectError(f"{part} has not the size that the commit says")
    if file_digest(whole[:HEADER_BYTES], whole[HEADER_BYTES:]) != commit.files[part].digest:
        raise DefectError(f"{part} is damaged: its digest is not the one that the commit says")


def _npy(array: NDArray[Any]) -> Buffers:
    return npy_header(array.dtype, array.shape), np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of a NumPy file, of 128 bytes.

    Example:
        >>> len(npy_header(np.dtype("<f4"), (10**7, 65_536)))
        128
    """
    buffer = io.BytesIO()
    described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _array(content: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of a NumPy file, which must have this form."""
    whole, form = memoryview(content), np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * form.itemsize
    if whole.nbytes != HEADER_BYTES + size or bytes(whole[:HEADER_BYTES]) != npy_header(form, shape):
        raise DefectError("a file has another shape than its rows")
    return np.frombuffer(whole[HEADER_BYTES:], form).reshape(shape)


def _texts(texts: Sequence[str | None]) -> tuple[Buffers, Buffers]:
    encoded = [b"" if text is None else text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    spans = np.stack([ends - [len(text) for text in encoded], ends], axis=1)
    spans[spans[:, 0] == spans[:, 1]] = 0
    return _npy(np.frombuffer(b"".join(encoded), np.uint8)), _npy(spans)
