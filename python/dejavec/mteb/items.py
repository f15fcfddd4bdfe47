"""The items of one ``encode`` call: their order, their keys, and loaders over some of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import ItemError
from dejavec.identity.fingerprint import describe
from dejavec.keys.items import FIELDS, Keys, dataset_fields, field_keys, item_keys, text_keys
from dejavec.keys.media import MEDIA, media_digest
from dejavec.serving.uncacheable import UncacheableError
from dejavec.support.canonical import canonical_json

Positions = NDArray[np.intp]
"""Positions among the items of one call, shape (k,)."""


class RowsView:
    """Some rows of a data set without ``select``. Other attributes come from the data set.

    Args:
        rows: the object with the rows.
        positions: which rows, in order.
        dataset: the object with other attributes, such as ``features``.
    """

    def __init__(self, rows: Any, positions: Positions, dataset: Any) -> None:
        self._rows = rows
        self._positions = positions
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self]
        row = self._rows[int(self._positions[key])]
        # Copied, since models decode values in place, and rows of a stream are handed out several times.
        return copy(row) if isinstance(row, dict) else row

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(len(self)))

    def __getattr__(self, name: str) -> Any:
        # With the data set's `__getitems__`, a loader would read the wrong rows.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)


class Items:
    """The items of one call of ``encode``, in the order of its loader.

    The caller's loader and data set are only read.

    Args:
        inputs: the loader that mteb gives to ``encode``.
        extra_fields: columns besides mteb's own that the model reads.

    Attributes:
        inputs: a loader over these items. It is the caller's loader, unless that can be read only once or
            would now give another order.
        text_only: whether no item can have an image, audio or video; known after :meth:`keys`.

    Raises:
        UncacheableError: such items have no key, or only the loader knows their order. Nothing was read then.
    """

    def __init__(self, inputs: Any, extra_fields: Sequence[str]) -> None:
        from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

        if not isinstance(inputs, DataLoader):
            raise UncacheableError(f"the input is a {type(inputs).__name__}, not a DataLoader")
        if inputs.batch_sampler is None and not isinstance(inputs.dataset, IterableDataset):
            raise UncacheableError("the loader does not batch")
        self.inputs = inputs
        self.text_only = True
        self._settings = inputs
        self._extra_fields = tuple(name for name in extra_fields if name not in FIELDS)
        self._dataset = inputs.dataset
        self._rows = inputs.dataset
        plain = type(inputs.sampler) is SequentialSampler and type(inputs.batch_sampler) is BatchSampler
        if isinstance(inputs.dataset, IterableDataset):
            self._order = self._stream()
        elif plain:
            self._order = np.arange(self._full(len(inputs.dataset)))
            return
        else:
            self._order = self._sample()
        self.inputs = self.loader(np.arange(len(self)))

    def __len__(self) -> int:
        return len(self._order)

    def is_whole(self, positions: Positions) -> bool:
        """Return whether these are all items in order, as in ``inputs``."""
        return np.array_equal(positions, np.arange(len(self)))

    def keys(self) -> Keys:
        """Return the items' keys (n, 32).

        Raises:
            UncacheableError: an item has no key.
        """
        try:
            if not self._selects():
                return self._keys_of_rows()
            keys = self._keys_of_columns()
            return keys if np.array_equal(self._order, np.arange(len(keys))) else keys[self._order]
        except (ItemError, TypeError) as error:
            raise UncacheableError("an item has no key", str(error)) from None

    def loader(self, positions: Positions) -> Any:
        """Return a new loader over the items at ``positions``, with the settings of the caller's loader."""
        from torch.utils.data import DataLoader

        settings, rows = self._settings, self._order[positions]
        some = self._rows.select(rows) if self._selects() else RowsView(self._rows, rows, self._dataset)
        return DataLoader(
            some,
            batch_size=self._batch_size(),
            collate_fn=settings.collate_fn,
            num_workers=settings.num_workers,
            pin_memory=settings.pin_memory,
            worker_init_fn=settings.worker_init_fn,
        )

    def text_lengths(self, positions: Positions) -> NDArray[np.int64]:
        """Return the number of characters of each item's text (k,); zeros if some items are not text."""
        if not self.text_only:
            return np.zeros(len(positions), np.int64)
        return np.fromiter(map(len, self.texts(positions)), np.int64, len(positions))

    def texts(self, positions: Positions) -> list[str]:
        """Return the text of each item (k,). All items must have one."""
        rows = self._order[positions]
        if self._selects():
            return list(self._rows.select(rows)["text"])
        return [self._rows[int(row)]["text"] for row in rows]

    def _sample(self) -> Positions:
        """Draw the order once, in the same way as the caller's loader."""
        from torch.utils.data import DataLoader

        batches = DataLoader(
            range(len(self._dataset)),
            batch_sampler=self._settings.batch_sampler,
            collate_fn=list,
            generator=self._settings.generator,
        )
        return np.fromiter(chain.from_iterable(batches), np.intp)

    def _stream(self) -> Positions:
        """Read a stream once, into memory."""
        if self._settings.num_workers or self._settings.batch_size is None:
            raise UncacheableError("only the loader knows the order of this stream")
        self._rows = list(self._dataset)
        return np.arange(self._full(len(self._rows)))

    def _full(self, count: int) -> int:
        """Return how many of ``count`` rows are in the batches of the loader."""
        batch_size = self._settings.batch_size
        return count // batch_size * batch_size if self._settings.drop_last else count

    def _batch_size(self) -> int:
        sampler = self._settings.batch_sampler
        return int(self._settings.batch_size or getattr(sampler, "batch_size", None) or 1)

    def _selects(self) -> bool:
        """Return whether rows come from a Hugging Face data set with unchanged columns."""
        datasets = sys.modules.get("datasets")
        return (
            datasets is not None
            and isinstance(self._rows, datasets.Dataset)
            and self._rows._format_type in (None, "numpy", "torch")
        )

    def _keys_of_columns(self) -> Keys:
        """Return the keys of all rows of a data set, in row order."""
        dataset = self._rows
        shown = set(dataset.column_names)
        if dataset._format_columns is not None and not dataset._output_all_columns:
            shown &= set(dataset._format_columns)
        columns = dataset_fields(dataset, shown & set(FIELDS))
        self._note_media(shown)
        if not {"text", *MEDIA} & set(columns):
            raise UncacheableError("the data set has no text, image, audio or video")
        keys = field_keys(columns)
        return self._with_extra_fields(
            keys, {name: dataset[name] for name in self._extra_fields if name in shown}
        )

    def _keys_of_rows(self) -> Keys:
        """Return the keys of the items, which are read one by one."""
        rows: list[dict[str, Any]] = []
        extra: dict[str, list[Any]] = {}
        for count, position in enumerate(self._order):
            row = self._rows[int(position)]
            if not isinstance(row, Mapping):
                raise UncacheableError(f"items are {type(row).__name__}, not dicts")
            self._note_media(row)
            # Only digests of media are kept: the decoded media of a whole call may not fit in memory.
            rows.append(
                {
                    name: media_digest(value) if name in MEDIA and value is not None else value
                    for name, value in row.items()
                    if name in FIELDS
                }
            )
            for name in self._extra_fields:
                if name in row:
                    extra.setdefault(name, [None] * count)
            for name, column in extra.items():
                column.append(row.get(name))
        self._note_media(getattr(self._dataset, "features", None) or ())
        return self._with_extra_fields(item_keys(rows), extra)

    def _note_media(self, names: Any) -> None:
        if any(name in names for name in MEDIA):
            self.text_only = False

    def _with_extra_fields(self, keys: Keys, columns: Mapping[str, Any]) -> Keys:
        """Return the keys of items that also have these columns.

        Raises:
            TypeError: a value has no stable form.
        """
        if not columns:
            return keys
        fields = [("item", np.full(len(keys), keys.shape[1], np.int64), keys)]
        for name, column in columns.items():
            texts = tuple(canonical_json(describe(value)) for value in column)
            fields.append((name, np.array([len(text) for text in texts], np.int64), text_keys(texts)))
        combined = np.empty_like(keys)
        _core.hash_fields(fields, combined)
        return combined
