"""A function for the ``map`` of a data set: it adds a column of vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Encoder(Protocol):
    """What has ``encode``: an ``EmbeddingCache``."""

    def encode(
        self, texts: object, encode_fn: Callable[[list[str]], Any], *, batch_size: int | None = None
    ) -> Any:
        """Return the vectors of texts."""


@dataclass(frozen=True)
class MapFunction:
    """Returns the vectors of a row or of a batch of rows, as a column: see ``EmbeddingCache.map_fn``.

    Attributes:
        cache: the cache.
        encode_fn: makes the vectors of texts that are not cached.
        column: the column of texts.
        to: the column of vectors.
        batch_size: how many texts ``encode_fn`` gets at a time.
    """

    cache: Encoder
    encode_fn: Callable[[list[str]], Any]
    column: str
    to: str
    batch_size: int | None

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Return the new column of a batch, or its value for one row."""
        texts = rows[self.column]
        if isinstance(texts, str):
            return {self.to: self.cache.encode([texts], self.encode_fn, batch_size=self.batch_size)[0]}
        return {self.to: self.cache.encode(texts, self.encode_fn, batch_size=self.batch_size)}
