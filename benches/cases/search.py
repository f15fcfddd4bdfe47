"""Nearest neighbours by the cosine: the mapped file beside FAISS's own flat index in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, measured
from benches.cases.numbered import directory, fill, vectors
from benches.work import Setup

OURS = "dejavec"
FAISS = "faiss IndexFlatIP, unit vectors"
_K = 10


class Search(Case):
    """The 10 nearest of 100 queries, in a process that has searched once before."""

    name = "search"
    title = "The 10 nearest by the cosine, 100 queries"
    item = "query"
    texts: ClassVar[bool] = False
    queries: ClassVar[int] = 100

    def setups(self, small: bool) -> Sequence[Setup]:
        return [Setup(10_000)] if small else [Setup(100_000), Setup(1_000_000)]

    def contestants(self) -> Sequence[str]:
        return (OURS, FAISS)

    def prepare(self, place: Place) -> None:
        fill(place)

    def measure(self, place: Place) -> Measured:
        import faiss

        from dejavec import EmbeddingCache

        queries = np.random.default_rng(1).standard_normal((self.queries, place.setup.dim), np.float32)
        with EmbeddingCache(directory(place), mode="r") as cache:
            if place.contestant == FAISS:
                queries /= np.linalg.norm(queries, axis=1, keepdims=True)
                index = faiss.IndexFlatIP(place.setup.dim)
                for _, block in vectors(place.setup):
                    index.add(block / np.linalg.norm(block, axis=1, keepdims=True))
                index.search(queries, _K)
                found, rows = measured(lambda: index.search(queries, _K)[1], self.queries)
            else:
                cache.search(queries, _K, metric="cosine")
                found, rows = measured(lambda: cache.search(queries, _K, metric="cosine").rows, self.queries)
        checks.equal("the nearest rows", rows[0].tolist(), _nearest(place, queries[0]))
        return found


class SearchOne(Search):
    """The same with one query."""

    name = "search-one"
    title = "The 10 nearest by the cosine, one query"
    queries: ClassVar[int] = 1


def _nearest(place: Place, query: np.ndarray) -> list[int]:
    """The rows that are nearest to a query, calculated in double precision."""
    scores = [
        block.astype(np.float64) @ query / np.linalg.norm(block, axis=1) for _, block in vectors(place.setup)
    ]
    nearest: list[int] = np.argsort(-np.concatenate(scores))[:_K].tolist()
    return nearest
