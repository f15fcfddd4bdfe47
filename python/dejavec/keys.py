"""Item to key: 32 bytes that two items share only if a model cannot tell them apart.

The key of plain text is the SHA-256 of its UTF-8 bytes. Items with more fields get a digest over all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import ItemError
from dejavec.identity import canonical_json

Keys = NDArray[np.uint8]
"""The keys of n items: C-contiguous, shape (n, 32)."""

FIELDS = ("text", "title", "body", "query", "instruction", "conversation")
"""What a text model may read of an item, in the order in which it is digested."""

MEDIA = ("image", "audio", "video")
"""Fields that make an item more than text."""


@dataclass(frozen=True)
class ArrowTexts:
    """A text column that lies in Arrow buffers.

    Attributes:
        chunks: pyarrow arrays of string or large_string.
        indices: which texts of the chunks, taken together, are the column's; None for all in order.
    """

    chunks: list[Any]
    indices: NDArray[np.int64] | None

    def __len__(self) -> int:
        if self.indices is not None:
            return len(self.indices)
        return sum(len(chunk) for chunk in self.chunks)

    def digest(self) -> tuple[Keys, NDArray[np.int64]]:
        """Return the key of each text and its length in bytes, -1 for null."""
        keys = np.empty((len(self), 32), np.uint8)
        lengths = np.empty(len(self), np.int64)
        starts = np.cumsum([0, *map(len, self.chunks)])
        if self.indices is None:
            for chunk, start, stop in zip(self.chunks, starts, starts[1:], strict=False):
                _digest_chunk(chunk, None, keys[start:stop], lengths[start:stop])
            return keys, lengths
        # In the order of the buffers each chunk's texts are one run, however the column was shuffled.
        order = np.argsort(self.indices, kind="stable")
        ordered = self.indices[order]
        if len(ordered) and not 0 <= ordered[0] <= ordered[-1] < starts[-1]:
            raise IndexError(f"expected indices below {starts[-1]}, found {ordered[0]} to {ordered[-1]}")
        runs = np.searchsorted(ordered, starts)
        for chunk, start, low, high in zip(self.chunks, starts, runs, runs[1:], strict=False):
            _digest_chunk(chunk, ordered[low:high] - start, keys[low:high], lengths[low:high])
        keys[order], lengths[order] = keys.copy(), lengths.copy()
        return keys, lengths


Texts = tuple[Any, ...] | ArrowTexts


def text_keys(items: object) -> Keys:
    """Return the keys of texts.

    Args:
        items: a list or tuple of ``str``, a NumPy array of strings, a pandas Series, a pyarrow array, a
            column of a Hugging Face data set, or anything else that iterates over ``str``. Arrow columns are
            hashed where they lie, without making Python strings.

    Returns:
        uint8 array of shape (n, 32).

    Raises:
        ItemError: an item is not text, or ``items`` is one text instead of many.

    Example:
        >>> text_keys(["a", "b", "a"]).shape
        (3, 32)
    """
    return _digest(_texts_of(items), lengths=False)[0]


def dataset_keys(dataset: Any, columns: Iterable[str] = FIELDS) -> Keys:
    """Return the keys of a Hugging Face data set's items, of whichever of ``columns`` it has.

    Raises:
        ItemError: see :func:`field_keys`.
    """
    present = [name for name in columns if name in dataset.column_names]
    return field_keys(
        {name: dataset[name] if name == "conversation" else dataset_texts(dataset, name) for name in present}
    )


def field_keys(columns: Mapping[str, object]) -> Keys:
    """Return the keys of items that may have several fields.

    Null fields and empty titles and instructions count as absent. What adds nothing is left out, so that
    plain text keeps its plain key: a body equal to the text of an item without title, a query equal to the
    text of an item without instruction.

    Args:
        columns: field name (see :data:`FIELDS`) to column, as for :func:`text_keys`, all of one length. A
            conversation is a JSON value: a list of ``{"role": …, "content": …}`` or of strings.

    Returns:
        uint8 array of shape (n, 32).

    Raises:
        ItemError: a text is null or no text; a field is not known; columns differ in length.

    Example:
        >>> plain = text_keys(["a"])
        >>> (field_keys({"text": ["a"], "body": ["a"]}) == plain).all()
        np.True_
        >>> (field_keys({"text": ["a"], "title": ["b"]}) == plain).all()
        np.False_
    """
    if "text" not in columns or not set(columns) <= set(FIELDS):
        raise ItemError(
            f"expected the field text and others of {', '.join(FIELDS)}, found {', '.join(columns) or 'none'}"
        )
    fields: dict[str, tuple[Keys, NDArray[np.int64]]] = {}
    for name in (name for name in FIELDS if name in columns):
        column = columns[name]
        texts = _conversations(column) if name == "conversation" else _texts_of(column)
        try:
            fields[name] = _digest(texts, lengths=True, nullable=name != "text")
        except ItemError as error:
            raise ItemError(f"field {name!r}: {error}") from None
    lengths = {name: len(digests) for name, (digests, _) in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ItemError(f"expected columns of one length, found {lengths}")
    _drop_what_adds_nothing(fields, "title", "body")
    _drop_what_adds_nothing(fields, "instruction", "query")
    keys = np.empty((lengths["text"], 32), np.uint8)
    _core.hash_fields([(name, sizes, digests) for name, (digests, sizes) in fields.items()], keys)
    return keys


def item_keys(items: Sequence[str | Mapping[str, Any]]) -> Keys:
    """Return the keys of items given one by one: texts, or dicts as mteb has them.

    Only the entries named in :data:`FIELDS` count; identifiers and labels are ignored.

    Raises:
        ItemError: an item is neither, has no text, or has an image, audio or video.

    Example:
        >>> (item_keys([{"text": "a", "id": "7"}]) == text_keys(["a"])).all()
        np.True_
    """
    if not isinstance(items, list | tuple):
        raise ItemError(f"expected a list of items, found {type(items).__name__}; write [item]")
    if all(isinstance(item, str) for item in items):
        return text_keys(items)
    rows = [{"text": item} if isinstance(item, str) else item for item in items]
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ItemError(f"item {position}: expected str or dict, found {type(row).__name__}")
        for name in MEDIA:
            if row.get(name) is not None:
                raise ItemError(
                    f"item {position}: expected text, found an item with {name}, which has no key"
                )
    present = [name for name in FIELDS if name == "text" or any(row.get(name) is not None for row in rows)]
    return field_keys({name: [row.get(name) for row in rows] for name in present})


def first_of_each(keys: Keys) -> NDArray[np.intp]:
    """Return, for each of n keys, the position of the first that equals it; shape (n,).

    Example:
        >>> first_of_each(text_keys(["a", "b", "a"]))
        array([0, 1, 0])
    """
    firsts: dict[bytes, int] = {}
    whole = keys.view("V32").ravel().tolist()
    return np.fromiter((firsts.setdefault(key, i) for i, key in enumerate(whole)), np.intp, len(whole))


def frozen(items: object) -> Any:
    """Return ``items`` such that hashing and :func:`take` see the same texts: lists become tuples."""
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise ItemError(f"expected a list of texts, found one {type(items).__name__}; write [text]")
    if _is_table(items):
        raise ItemError(
            f"expected one column of texts, found a whole {type(items).__name__}; choose a column"
        )
    if isinstance(items, np.ndarray) or _is_arrow(items) or _is_pandas(items) or _is_column(items):
        return items
    return tuple(items)


def take(items: Any, positions: NDArray[np.intp]) -> list[str]:
    """Return the texts at ``positions`` of what :func:`frozen` returned."""
    if isinstance(items, tuple):
        return [items[position] for position in positions.tolist()]
    if isinstance(items, np.ndarray):
        return list(items[positions].tolist())
    if _is_arrow(items):
        return [items[position].as_py() for position in positions.tolist()]
    if _is_pandas(items):
        return list(items.take(positions).tolist())
    return [str(text) for text in items[positions.tolist()]]


def dataset_texts(dataset: Any, name: str) -> object:
    """Return a column of a Hugging Face data set as input for :func:`text_keys` or :func:`field_keys`.

    Arrow buffers are used only if the data set would hand out the stored strings themselves.
    """
    plain = dataset._format_type in (None, "numpy", "torch") and (
        dataset._format_columns is None or name in dataset._format_columns
    )
    if plain and isinstance(dataset.features[name], sys.modules["datasets"].Value):
        indices = None
        if dataset._indices is not None:
            indices = dataset._indices.column(0).to_numpy().astype(np.int64)
        texts = _arrow_texts(dataset.data.column(name), indices)
        if texts is not None:
            return texts
    return dataset[name]


def _texts_of(items: Any) -> Texts:
    """Bring any text input into one of two forms."""
    if isinstance(items, ArrowTexts):
        return items
    items = frozen(items)
    if isinstance(items, tuple):
        return items
    if isinstance(items, np.ndarray):
        if items.ndim != 1:
            raise ItemError(f"expected a 1-D array of texts, found shape {items.shape}")
        return tuple(items.tolist())
    if _is_column(items):
        source = items.source
        whole = isinstance(source, sys.modules["datasets"].Dataset)
        texts = dataset_texts(source, items.column_name) if whole else items
        return texts if isinstance(texts, ArrowTexts) else tuple(items)
    column = items
    if _is_pandas(items):
        if not hasattr(items.array, "__arrow_array__") or "pyarrow" not in sys.modules:
            return tuple(items.tolist())
        column = items.array.__arrow_array__()
    texts = _arrow_texts(column, None)
    return tuple(items.tolist()) if texts is None else texts


def _arrow_texts(column: Any, indices: NDArray[np.int64] | None) -> ArrowTexts | None:
    """Return an Arrow column of strings as its buffers; None if it holds something else."""
    pyarrow = sys.modules["pyarrow"]
    types = pyarrow.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        return None
    if not (types.is_string(column.type) or types.is_large_string(column.type)):
        column = column.cast(pyarrow.large_string())
    return ArrowTexts(column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column], indices)


def _digest_chunk(
    chunk: Any, indices: NDArray[np.int64] | None, keys: Keys, lengths: NDArray[np.int64]
) -> None:
    """Write keys and lengths of one Arrow array, of which ``indices`` are wanted."""
    if len(keys) == 0:
        return
    _, offset_buffer, data_buffer = chunk.buffers()
    wide = sys.modules["pyarrow"].types.is_large_string(chunk.type)
    offsets: NDArray[Any] = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)
    # A slice shares the buffers of the array it was cut from.
    offsets = offsets[chunk.offset : chunk.offset + len(chunk) + 1]
    data = np.frombuffer(b"" if data_buffer is None else data_buffer, np.uint8)
    _core.hash_arrow(data, offsets, indices, keys)
    sizes = np.diff(offsets).astype(np.int64)
    if chunk.null_count:
        sizes[chunk.is_null().to_numpy(zero_copy_only=False)] = -1
    lengths[:] = sizes if indices is None else sizes[indices]


@overload
def _digest(texts: Texts, *, lengths: Literal[False]) -> tuple[Keys, None]: ...
@overload
def _digest(texts: Texts, *, lengths: Literal[True], nullable: bool) -> tuple[Keys, NDArray[np.int64]]: ...
def _digest(texts: Texts, *, lengths: bool, nullable: bool = False) -> tuple[Keys, NDArray[np.int64] | None]:
    """Return keys and lengths in bytes, -1 for null; lengths only if asked for, null only if ``nullable``."""
    if isinstance(texts, ArrowTexts):
        keys, sizes = texts.digest()
        if not nullable and len(nulls := np.flatnonzero(sizes < 0)):
            raise ItemError(f"expected texts (str), found null at position {nulls[0]}")
        return keys, sizes
    absent = [position for position, text in enumerate(texts) if text is None] if nullable else []
    if absent:
        texts = tuple("" if text is None else text for text in texts)
    keys = np.empty((len(texts), 32), np.uint8)
    _core.hash_texts(texts, keys)
    if not lengths:
        return keys, None
    sizes = np.fromiter(map(_utf8_length, texts), np.int64, len(texts))
    sizes[absent] = -1
    return keys, sizes


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _conversations(column: Any) -> tuple[str | None, ...]:
    """Return each conversation as canonical JSON, None if there is none."""
    turns = column.to_pylist() if _is_arrow(column) else column if _is_column(column) else frozen(column)
    try:
        return tuple(None if turn is None else canonical_json(turn) for turn in turns)
    except TypeError as error:
        raise ItemError(f"field 'conversation': {error}") from None


def _drop_what_adds_nothing(
    fields: dict[str, tuple[Keys, NDArray[np.int64]]], addition: str, original: str
) -> None:
    """Mark an empty addition absent, and where there is none, an original that equals the text."""
    if addition in fields:
        sizes = fields[addition][1]
        sizes[sizes == 0] = -1
    if original in fields:
        digests, sizes = fields[original]
        equal = (digests == fields["text"][0]).all(axis=1)
        sizes[equal & (fields[addition][1] < 0 if addition in fields else True)] = -1


def _is_arrow(items: object) -> bool:
    pyarrow = sys.modules.get("pyarrow")
    return pyarrow is not None and isinstance(items, pyarrow.Array | pyarrow.ChunkedArray)


def _is_pandas(items: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(items, pandas.Series | pandas.Index)


def _is_table(items: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(items, pandas.DataFrame)


def _is_column(items: object) -> bool:
    module = sys.modules.get("datasets.arrow_dataset")
    return module is not None and isinstance(items, module.Column)
