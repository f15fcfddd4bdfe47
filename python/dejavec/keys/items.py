"""Item to key: 32 bytes that two items share only if a model cannot tell them apart.

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
from dejavec.support.canonical import canonical_json

Keys = NDArray[np.uint8]
"""The keys of n items: C-contiguous, shape (n, 32)."""

TEXT_FIELDS = ("text", "title", "body", "query", "instruction", "conversation")
"""What a model may read of an item's text, in the order in which it is digested."""

FIELDS = (*TEXT_FIELDS, *MEDIA)
"""All that a model may read of an item."""

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
    return field_keys(dataset_fields(dataset, columns))


def dataset_fields(dataset: Any, names: Iterable[str] = FIELDS) -> dict[str, object]:
    """Return the fields of a Hugging Face data set as :func:`field_keys` takes them, in their order there.

    A model may read numbers and classes too, if a column of them is called like a field.

    Args:
        dataset: the data set.
        names: which of its columns, if it has them.

    Raises:
        ItemError: the texts are numbers; see also :func:`dejavec.keys.media.stored_digests`.
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

    Null fields and empty titles and instructions count as absent. What adds nothing is left out, so that
    plain text keeps its plain key: a body equal to the text of an item without title, a query equal to the
    text of an item without instruction. Of media and text the order counts, in which a model may read them.

    Args:
        columns: field name (see :data:`FIELDS`) to column, all of one length. Texts are as for
            :func:`text_keys`, media as for :func:`dejavec.keys.media.media_digest`, or a column of either as
            its digests. A conversation is a JSON value: a list of ``{"role": …, "content": …}`` or of
            strings.

    Returns:
        uint8 array of shape (n, 32).

    Raises:
        ItemError: an item has neither text nor media, a text is no text, or a medium has no key; a field is
            not known; columns differ in length.

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
    """Return the keys of items given one by one: texts, or dicts as mteb has them.

    Only the entries named in :data:`FIELDS` count; identifiers and labels are ignored.

    Raises:
        ItemError: an item is neither, has neither text nor media, or has a medium without a key.

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
        # Items that are read in one order make one group.
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
    """Return, for each of n keys, the position of the first that equals it; shape (n,).

    Example:
        >>> first_of_each(text_keys(["a", "b", "a"]))
        array([0, 1, 0])
    """
    firsts: dict[bytes, int] = {}
    whole = keys.view("V32").ravel().tolist()
    return np.fromiter((firsts.setdefault(key, i) for i, key in enumerate(whole)), np.intp, len(whole))


def frozen(items: object) -> Any:
    """Return ``items`` such that hashing and :func:`take` see the same texts, whatever is assigned meanwhile.

    Arrow data and columns of data sets stay, as nobody can change them; all else becomes a tuple.
    """
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
    return tuple(items)


def take(items: Any, positions: NDArray[np.intp]) -> list[str]:
    """Return the texts at ``positions`` of what :func:`frozen` returned."""
    if isinstance(items, tuple):
        return [items[position] for position in positions.tolist()]
    if _is_arrow(items):
        return [items[position].as_py() for position in positions.tolist()]
    return [str(text) for text in items[positions.tolist()]]


def dataset_texts(dataset: Any, name: str) -> object:
    """Return a column of a Hugging Face data set as input for :func:`text_keys` or :func:`field_keys`.

    Arrow buffers are used only if the data set would hand out the stored strings themselves.
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
    """Bring any text input into one of two forms."""
    if isinstance(items, ArrowTexts):
        return items
    items = frozen(items)
    if isinstance(items, tuple):
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
    """Return keys and lengths in bytes, -1 for null; lengths only if asked for, null only if ``nullable``."""
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
    _core.hash_texts(texts, keys)
    if not lengths:
        return keys, None
    sizes = np.fromiter(map(_utf8_length, texts), np.int64, len(texts))
    sizes[absent] = -1
    return keys, sizes


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _field(name: str, column: Any, *, nullable: bool) -> tuple[Keys, NDArray[np.int64]]:
    """Return the digests of one field and its lengths in bytes, -1 for null."""
    if name in MEDIA and not isinstance(column, Digests):
        column = media_digests(column)
    if isinstance(column, Digests):
        return column.keys, column.sizes
    texts = _conversations(column) if name == "conversation" else _texts_of(column)
    return _digest(texts, lengths=True, nullable=nullable or name != "text")


def _conversations(column: Any) -> tuple[str | None, ...]:
    """Return each conversation as canonical JSON, None if there is none."""
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
    """Mark an empty addition absent, and where there is none, an original that equals the text."""
    if addition in fields:
        sizes = fields[addition][1]
        sizes[sizes == 0] = -1
    if original in fields:
        digests, sizes = fields[original]
        equal = (digests == fields["text"][0]).all(axis=1) & (fields["text"][1] >= 0)
        sizes[equal & (fields[addition][1] < 0 if addition in fields else True)] = -1


def _number_digests(column: Iterable[object]) -> Digests:
    """Return digests of numbers, dates and the like, other than of any text."""
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
