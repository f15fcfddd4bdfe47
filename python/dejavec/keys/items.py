"""Keys of items: 32 bytes, which two items share only if no model can distinguish them.

The key of plain text is the SHA-256 of its UTF-8 bytes. Items with more fields get a digest over all of them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import ItemError
from dejavec.keys.arrow import ArrowTexts, arrow_texts, row_indices
from dejavec.keys.media import MEDIA, Digests, media_digests, stored_digests
from dejavec.keys.pieces import PIECE, Pieces
from dejavec.support.canonical import canonical_json

Keys = NDArray[np.uint8]
"""The keys of n items: C-contiguous, shape (n, 32)."""

TEXT_FIELDS = ("text", "title", "body", "query", "instruction", "conversation")
"""The text fields that a model may read, in the order in which they are hashed."""

FIELDS = (*TEXT_FIELDS, *MEDIA)
"""All fields that a model may read."""

Texts = tuple[Any, ...] | Pieces | ArrowTexts


def text_keys(items: object) -> Keys:
    """Return the keys of texts.

    Args:
        items: a list or tuple of ``str``, a NumPy array of strings, a pandas Series, a pyarrow array, a
            column of a Hugging Face data set, or any other iterable of ``str``. Arrow columns are hashed
            without making Python strings.

    Returns:
        uint8 array of shape (n, 32).

    Raises:
        ItemError: an item is not text, or ``items`` is a single text.

    Example:
        >>> text_keys(["a", "b", "a"]).shape
        (3, 32)
    """
    return _digest(_texts_of(items), lengths=False)[0]


def dataset_keys(dataset: Any, columns: Iterable[str] = FIELDS) -> Keys:
    """Return the keys of a Hugging Face data set's items, from those ``columns`` that it has.

    Raises:
        ItemError: see :func:`field_keys`.
    """
    return field_keys(dataset_fields(dataset, columns))


def dataset_fields(dataset: Any, names: Iterable[str] = FIELDS) -> dict[str, object]:
    """Return the fields of a Hugging Face data set for :func:`field_keys`, in the order of its columns.

    A column with the name of a field may also hold numbers or classes, and a model may read these.

    Args:
        dataset: the data set.
        names: names of columns. The data set may lack some.

    Raises:
        ItemError: the column "text" holds numbers; see also :func:`dejavec.keys.media.stored_digests`.
    """
    columns: dict[str, object] = {}
    for name in dataset.column_names:
        if name not in names:
            continue
        if _is_number(dataset.features[name]):
            if name == "text":
                raise ItemError(
                    "field 'text'",
                    expected="texts (str)",
                    found=str(dataset.features[name]),
                    remedy="convert the column to texts",
                )
            columns[name] = _number_digests(dataset.with_format(None)[name])
        elif name in MEDIA:
            stored = stored_digests(dataset, name)
            columns[name] = dataset[name] if stored is None else stored
        else:
            columns[name] = dataset[name] if name == "conversation" else dataset_texts(dataset, name)
    return columns


def field_keys(columns: Mapping[str, object]) -> Keys:
    """Return the keys of items that may have several fields.

    Null fields and empty titles and instructions count as absent. Redundant fields are left out, so that
    plain text keeps its plain key: a body that equals the text of an item without title, or a query that
    equals the text of an item without instruction. The order of media and text counts, since a model may read
    them in this order.

    Args:
        columns: field name (see :data:`FIELDS`) to column, all of one length. Texts are as for
            :func:`text_keys`, media as for :func:`dejavec.keys.media.media_digest`. Either may be a column
            of digests instead. A conversation is a JSON value: a list of ``{"role": …, "content": …}`` or of
            strings.

    Returns:
        uint8 array of shape (n, 32).

    Raises:
        ItemError: an item has neither text nor media, a text is not a string, or a medium has no key; a field
            is unknown; columns differ in length.

    Example:
        >>> plain = text_keys(["a"])
        >>> (field_keys({"text": ["a"], "body": ["a"]}) == plain).all()
        np.True_
        >>> (field_keys({"text": ["a"], "title": ["b"]}) == plain).all()
        np.False_
    """
    content = [name for name in columns if name == "text" or name in MEDIA]
    if not content or not set(columns) <= set(FIELDS):
        raise ItemError(
            "the fields",
            expected=f"the field text, image, audio or video, and others of {', '.join(FIELDS)}",
            found=", ".join(columns) or "none",
            remedy="rename or leave out the others",
        )
    order = content if "text" in content else ["text", *content]
    names = [name for part in order for name in (TEXT_FIELDS if part == "text" else (part,))]
    fields: dict[str, tuple[Keys, NDArray[np.int64]]] = {}
    for name in (name for name in names if name in columns):
        try:
            fields[name] = _field(name, columns[name], nullable=content != ["text"])
        except ItemError as error:
            raise error.within(f"field {name!r}") from None
    lengths = {name: len(digests) for name, (digests, _) in fields.items()}
    if len(set(lengths.values())) > 1:
        raise ItemError(
            "the fields",
            expected="columns of one length",
            found=str(lengths),
            remedy="give each item every field, or null",
        )
    empty = np.all([fields[name][1] < 0 for name in content], axis=0)
    if empty.any():
        raise ItemError(
            "the fields",
            expected="content",
            found=f"only null at position {np.flatnonzero(empty)[0]}",
            remedy="leave that item out",
        )
    if "text" in fields:
        _drop_what_adds_nothing(fields, "title", "body")
        _drop_what_adds_nothing(fields, "instruction", "query")
    if list(fields) == ["text"]:
        return fields["text"][0]
    keys = np.empty((len(empty), 32), np.uint8)
    _core.hash_fields([(name, sizes, digests) for name, (digests, sizes) in fields.items()], keys)
    return keys


def item_keys(items: Sequence[str | Mapping[str, Any]]) -> Keys:
    """Return the keys of items in a list: texts, or dicts as in mteb.

    Only the entries in :data:`FIELDS` count; identifiers and labels are ignored.

    Raises:
        ItemError: an item is neither text nor dict, has no text or media, or has a medium without a key.

    Example:
        >>> (item_keys([{"text": "a", "id": "7"}]) == text_keys(["a"])).all()
        np.True_
    """
    if not isinstance(items, list | tuple):
        raise ItemError(
            "the items", expected="a list of items", found=type(items).__name__, remedy="write [item]"
        )
    if all(isinstance(item, str) for item in items):
        return text_keys(items)
    rows = [{"text": item} if isinstance(item, str) else item for item in items]
    groups: dict[tuple[str, ...], list[int]] = {}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ItemError(
                f"item {position}",
                expected="str or dict",
                found=type(row).__name__,
                remedy="convert the item, or leave it out",
            )
        media = [name for name in row if name in MEDIA and row[name] is not None]
        # Items with the same order of text and media form a group.
        order = tuple(name for name in row if name == "text" or name in media) if media else ("text",)
        groups.setdefault(order, []).append(position)
    keys = np.empty((len(rows), 32), np.uint8)
    for order, positions in groups.items():
        group = [rows[position] for position in positions]
        others = [name for name in TEXT_FIELDS[1:] if any(row.get(name) is not None for row in group)]
        columns = {name: [row.get(name) for row in group] for name in (*order, *others)}
        keys[positions] = field_keys(columns)
    return keys


def first_of_each(keys: Keys) -> NDArray[np.intp]:
    """Return the position of the first equal key for each of n keys; shape (n,).

    Example:
        >>> first_of_each(text_keys(["a", "b", "a"]))
        array([0, 1, 0])
    """
    firsts: dict[bytes, int] = {}
    whole = as_bytes(keys)
    return np.fromiter((firsts.setdefault(key, i) for i, key in enumerate(whole)), np.intp, len(whole))


def words(keys: Keys) -> NDArray[np.void]:
    """Return n keys as n values of 32 bytes, which NumPy compares and sorts."""
    return np.ascontiguousarray(keys).view("V32").ravel()


def as_bytes(keys: Keys) -> list[bytes]:
    """Return each of the keys (n, 32) as 32 bytes."""
    whole: list[bytes] = words(keys).tolist()
    return whole


def different(keys: Keys) -> Keys:
    """Return the different ones of n keys, sorted.

    Example:
        >>> different(text_keys(["a", "b", "a"])).shape
        (2, 32)
    """
    return np.unique(words(keys)).view(np.uint8).reshape(-1, 32)


def frozen(items: object) -> Any:
    """Return a fixed form of ``items``, so that hashing and :func:`take` see the same texts.

    Arrow data and columns of data sets are immutable and returned unchanged. Other items become a tuple, and
    long lists :class:`~dejavec.keys.pieces.Pieces`.
    """
    if isinstance(items, Pieces):
        return items
    if _is_table(items):
        raise ItemError(
            "the texts",
            expected="one column of texts",
            found=f"a whole {type(items).__name__}",
            remedy="choose a column",
        )
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise ItemError(
            "the texts",
            expected="a list of texts",
            found=f"one {type(items).__name__}",
            remedy="write [text]",
        )
    if isinstance(items, np.ndarray):
        if items.ndim != 1:
            raise ItemError(
                "the texts",
                expected="a 1-D array of texts",
                found=f"shape {items.shape}",
                remedy="choose a column",
            )
        return tuple(items.tolist())
    if _is_arrow(items) or _is_column(items):
        return items
    if _is_pandas(items):
        series: Any = items
        in_arrow = hasattr(series.array, "__arrow_array__") and "pyarrow" in sys.modules
        return series.array.__arrow_array__() if in_arrow else tuple(series.tolist())
    return Pieces(items) if isinstance(items, list) and len(items) > PIECE else tuple(items)


def take(items: Any, positions: NDArray[np.intp]) -> list[str]:
    """Return the texts at ``positions`` of a result of :func:`frozen`."""
    if isinstance(items, tuple | Pieces):
        return [items[position] for position in positions.tolist()]
    if _is_arrow(items):
        return [items[position].as_py() for position in positions.tolist()]
    return [str(text) for text in items[positions.tolist()]]


def dataset_texts(dataset: Any, name: str) -> object:
    """Return a column of a Hugging Face data set as input for :func:`text_keys` or :func:`field_keys`.

    Arrow buffers are used only if the data set returns the stored strings unchanged.
    """
    plain = dataset._format_type in (None, "numpy", "torch") and (
        dataset._format_columns is None or name in dataset._format_columns
    )
    if plain and isinstance(dataset.features[name], sys.modules["datasets"].Value):
        texts = arrow_texts(dataset.data.column(name), row_indices(dataset))
        if texts is not None:
            return texts
    return dataset[name]


def _texts_of(items: Any) -> Texts:
    """Convert any text input into one of two forms."""
    if isinstance(items, ArrowTexts):
        return items
    items = frozen(items)
    if isinstance(items, tuple | Pieces):
        return items
    if _is_column(items):
        source = items.source
        whole = isinstance(source, sys.modules["datasets"].Dataset)
        texts = dataset_texts(source, items.column_name) if whole else items
        return texts if isinstance(texts, ArrowTexts) else tuple(items)
    texts = arrow_texts(items, None)
    return tuple(items.tolist()) if texts is None else texts


@overload
def _digest(texts: Texts, *, lengths: Literal[False]) -> tuple[Keys, None]: ...
@overload
def _digest(texts: Texts, *, lengths: Literal[True], nullable: bool) -> tuple[Keys, NDArray[np.int64]]: ...
def _digest(texts: Texts, *, lengths: bool, nullable: bool = False) -> tuple[Keys, NDArray[np.int64] | None]:
    """Return keys, and with ``lengths`` the lengths in bytes, -1 for null. Null needs ``nullable``."""
    if isinstance(texts, ArrowTexts):
        keys, sizes = texts.digest()
        if not nullable and len(nulls := np.flatnonzero(sizes < 0)):
            raise ItemError(
                "the texts",
                expected="texts (str)",
                found=f"null at position {nulls[0]}",
                remedy="leave the item out, or give it a text",
            )
        return keys, sizes
    absent = [position for position, text in enumerate(texts) if text is None] if nullable else []
    if absent:
        texts = tuple("" if text is None else text for text in texts)
    keys = np.empty((len(texts), 32), np.uint8)
    _hash(texts, keys)
    if not lengths:
        return keys, None
    sizes = np.fromiter(map(_utf8_length, texts), np.int64, len(texts))
    sizes[absent] = -1
    return keys, sizes


def _hash(texts: tuple[Any, ...] | Pieces, keys: Keys) -> None:
    """Write the key of each text into ``keys``."""
    if isinstance(texts, tuple):
        _core.hash_texts(texts, keys)
        return
    for number, piece in enumerate(texts.pieces):
        try:
            _core.hash_texts(piece, keys[number * PIECE :][: len(piece)])
        except ItemError:
            _core.hash_texts(tuple(texts), keys)  # The message names the position among all texts.
            raise


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _field(name: str, column: Any, *, nullable: bool) -> tuple[Keys, NDArray[np.int64]]:
    """Return the digests of one field, and the lengths in bytes, -1 for null."""
    if name in MEDIA and not isinstance(column, Digests):
        column = media_digests(column)
    if isinstance(column, Digests):
        return column.keys, column.sizes
    texts = _conversations(column) if name == "conversation" else _texts_of(column)
    return _digest(texts, lengths=True, nullable=nullable or name != "text")


def _conversations(column: Any) -> tuple[str | None, ...]:
    """Return each conversation as canonical JSON; None if there is none."""
    turns = column.to_pylist() if _is_arrow(column) else column if _is_column(column) else frozen(column)
    try:
        return tuple(None if turn is None else canonical_json(turn) for turn in turns)
    except TypeError as error:
        raise ItemError(
            "a conversation",
            expected="a JSON value",
            found=str(error),
            remedy="write it as a list of turns, each a text or a dict of texts",
        ) from None


def _drop_what_adds_nothing(
    fields: dict[str, tuple[Keys, NDArray[np.int64]]], addition: str, original: str
) -> None:
    """Mark empty additions as absent. Mark originals as absent that equal the text and have no addition."""
    if addition in fields:
        sizes = fields[addition][1]
        sizes[sizes == 0] = -1
    if original in fields:
        digests, sizes = fields[original]
        equal = (digests == fields["text"][0]).all(axis=1) & (fields["text"][1] >= 0)
        sizes[equal & (fields[addition][1] < 0 if addition in fields else True)] = -1


def _number_digests(column: Iterable[object]) -> Digests:
    """Return digests of numbers, dates and the like. They differ from the digest of any text."""
    contents = [b"" if value is None else b"\xff" + repr(value).encode() for value in column]
    keys = b"".join(hashlib.sha256(content).digest() for content in contents)
    sizes = np.array([len(content) or -1 for content in contents], np.int64)
    return Digests(np.frombuffer(bytearray(keys), np.uint8).reshape(-1, 32), sizes)


def _is_number(feature: Any) -> bool:
    """Return whether a column of a data set holds classes, numbers, dates or the like."""
    datasets, types = sys.modules["datasets"], sys.modules["pyarrow"].types
    if isinstance(feature, datasets.ClassLabel):
        return True
    if not isinstance(feature, datasets.Value):
        return False
    kind = feature.pa_type
    return not (
        types.is_null(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_arrow(items: object) -> bool:
    pyarrow = sys.modules.get("pyarrow")
    return pyarrow is not None and isinstance(items, pyarrow.Array | pyarrow.ChunkedArray)


def _is_pandas(items: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(items, pandas.Series | pandas.Index)


def _is_table(items: object) -> bool:
    pandas, polars, pyarrow = (sys.modules.get(name) for name in ("pandas", "polars", "pyarrow"))
    return (
        (pandas is not None and isinstance(items, pandas.DataFrame))
        or (polars is not None and isinstance(items, polars.DataFrame | polars.LazyFrame))
        or (pyarrow is not None and isinstance(items, pyarrow.Table | pyarrow.RecordBatch))
    )


def _is_column(items: object) -> bool:
    module = sys.modules.get("datasets.arrow_dataset")
    return module is not None and isinstance(items, module.Column)
