"""Tables of texts and vectors, for Arrow and pandas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import ItemError, MissingPackageError
from dejavec.keys.items import frozen, take, text_keys
from dejavec.storage.kept_texts import column_of
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.vectors.ragged import Ragged, Rows

TEXT, VECTOR, INDICES, VALUES = "text", "vector", "indices", "values"
"""The names of the columns."""


def to_arrow(cache: KeyedCache, texts: object) -> Any:
    """Do what ``EmbeddingCache.to_arrow`` says."""
    pa = _arrow()
    if texts is None:
        found, rows, column = cache.unmoved(lambda: _all_rows(cache))
    else:
        texts = frozen(texts)
        keys = text_keys(texts)
        found, rows = cache.get(keys)
        column = _text_column(texts, len(keys), pa)
    return pa.table({TEXT: column, **_columns_of(rows, found, pa)})


def _all_rows(cache: KeyedCache) -> tuple[NDArray[np.bool_], Rows, Any]:
    numbers = np.flatnonzero(cache.is_newest())
    rows, damaged = cache.gather(cache.keys_of(numbers), numbers, as_returned=True)
    found = np.ones(len(numbers), np.bool_)
    found[damaged] = False
    return found, rows, column_of(*cache.texts(numbers))


def to_pandas(cache: KeyedCache, texts: object) -> Any:
    """Do what ``EmbeddingCache.to_pandas`` says.

    Raises:
        MissingPackageError: pandas or pyarrow is not installed.
    """
    table = to_arrow(cache, texts)
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise _missing("pandas", error) from None
    return table.to_pandas()


def _columns_of(rows: Rows, found: NDArray[np.bool_], pa: Any) -> dict[str, Any]:
    """Return vectors as columns over their memory, null where they are not found (n,)."""
    mask = None if found.all() else pa.array(~found)
    if not isinstance(rows, Ragged):
        return {VECTOR: _vectors(rows, pa, mask)}
    offsets = pa.array(rows.indptr)
    if rows.indices is None:
        return {VECTOR: pa.LargeListArray.from_arrays(offsets, _vectors(rows.data, pa, None), mask=mask)}
    return {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(part), mask=mask)
        for name, part in ((INDICES, rows.indices), (VALUES, rows.data))
    }


def _vectors(rows: NDArray[Any], pa: Any, mask: Any) -> Any:
    """Return dense rows (n, dim) as lists of a fixed size."""
    if not rows.shape[1]:  # No vectors yet.
        return pa.nulls(len(rows), pa.list_(pa.float32()))
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1], mask=mask)


def _text_column(texts: Any, count: int, pa: Any) -> Any:
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        return texts
    try:
        return pa.array(take(texts, np.arange(count)), pa.large_string())
    except UnicodeEncodeError as error:
        raise ItemError(
            "the texts", expected="Unicode, as Arrow has it", found=str(error), remedy="leave that text out"
        ) from None


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise _missing("pyarrow", error) from None
    return pyarrow


def _missing(package: str, error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        "a table", expected=f"the package {package}", found=f"none ({error})", remedy=f"pip install {package}"
    )
