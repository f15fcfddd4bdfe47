"""A run with the cache scores what a run without it scores: a real model on the Cranfield collection.

1,400 abstracts on aerodynamics with titles, 225 questions, and judgements by their askers.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset

from dejavec import CachedEmbeddingWrapper, FaissCache
from dejavec.demo.models import demo_model
from dejavec.demo.task import TextRetrieval

CRANFIELD = Path(__file__).parents[3] / "shared" / "data" / "cranfield"
COLUMNS = {"id": "I", "title": "T", "text": "W"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CRANFIELD.is_dir(), reason=f"the Cranfield collection is not at {CRANFIELD}"),
]


def records(name: str) -> Iterator[dict[str, str]]:
    """The entries of a file in which ``.I`` starts an entry and ``.T .A .B .W`` start its fields."""
    for entry in re.split(r"^\.I ", (CRANFIELD / name).read_text(), flags=re.MULTILINE)[1:]:
        number, *fields = re.split(r"^\.([TABW])\n", entry, flags=re.MULTILINE)
        texts = (" ".join(text.split()) for text in fields[1::2])
        yield {"I": number.strip(), **dict(zip(fields[::2], texts, strict=True))}


def judgements() -> dict[str, dict[str, int]]:
    """Query -> document -> relevance. Queries are numbered by their place in the query file."""
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (CRANFIELD / "cranqrel").read_text().splitlines():
        query, document, code = line.split()
        if int(code) in range(1, 5):  # from "a complete answer" to "of minimum interest"
            relevant[query][document] = 1
    return relevant


def cranfield() -> TextRetrieval:
    # Two documents are empty. Equal texts are encoded once, which puts their neighbours into other batches.
    documents = [record for record in records("cran.all.1400") if record["W"]]
    queries = [record["W"] for record in records("cran.qry")]
    assert (len(documents), len(queries)) == (1398, 225)
    known = {record["I"] for record in documents}
    task = TextRetrieval(
        "Cranfield",
        "Find the abstracts that answer a question on aerodynamics.",
        Dataset.from_dict(
            {column: [record[field] for record in documents] for column, field in COLUMNS.items()}
        ),
        Dataset.from_dict({"id": [str(place + 1) for place in range(len(queries))], "text": queries}),
        {
            query: {document: grade for document, grade in judged.items() if document in known}
            for query, judged in judgements().items()
        },
    )
    task.load_data()
    return task


@pytest.fixture(scope="session")
def model() -> Any:
    model = demo_model("dense")
    model.model.max_seq_length = 64  # A quarter of the time.
    return model


def evaluate(model: Any) -> TextRetrieval:
    task = cranfield()
    mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
    )
    return task


class VectorLog:
    """Keeps the ids and vectors of each call on its way to a model."""

    def __init__(self, model: Any) -> None:
        self.mteb_model_meta = model.mteb_model_meta
        self.similarity = model.similarity
        self.similarity_pairwise = model.similarity_pairwise
        self.calls: dict[str, tuple[list[str], Any]] = {}
        self._model = model

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        vectors = self._model.encode(inputs, **arguments)
        self.calls[arguments["prompt_type"].value] = list(inputs.dataset["id"]), vectors
        return vectors


@pytest.fixture(scope="session")
def log(model: Any) -> VectorLog:
    return VectorLog(model)


@pytest.fixture(scope="session")
def uncached(log: VectorLog) -> TextRetrieval:
    return evaluate(log)


def test_the_collection_is_read_as_it_was_written() -> None:
    first = next(records("cran.all.1400"))
    assert first["I"] == "1"
    assert first["T"] == "experimental investigation of the aerodynamics of a wing in a slipstream ."
    assert first["A"] == "brenckman,m."
    relevant = judgements()
    assert len(relevant) == 225
    assert relevant["1"]["184"] == 1


def test_cached_runs_score_what_the_uncached_run_scores(
    model: Any, uncached: TextRetrieval, tmp_path: Path
) -> None:
    assert 0.3 < uncached.ndcg_at_10() < 0.6

    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        cold = evaluate(wrapper)
        assert (wrapper.totals.hits, wrapper.totals.misses) == (0, 1398 + 225)
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        warm = evaluate(wrapper)
        assert (wrapper.totals.hits, wrapper.totals.misses) == (1398 + 225, 0)
        assert wrapper.totals.confirmed == 0

    for cached in (cold, warm):
        assert cached.ndcg_at_10() == uncached.ndcg_at_10()
        assert cached.query_scores == uncached.query_scores
        assert cached.similarities == uncached.similarities


def ndcg_at_10(found: list[str], judged: Mapping[str, int]) -> float:
    """Of grades that are all 1."""
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([document in judged for document in found])
    return float((gains * discounts).sum() / discounts[: len(judged)].sum())


def test_search_in_the_file_ranks_as_mteb_does(
    log: VectorLog, uncached: TextRetrieval, tmp_path: Path
) -> None:
    names, vectors = log.calls["document"]
    queries, asked = log.calls["query"]
    cache = FaissCache(tmp_path)
    cache.add(names, vectors)
    # The model's vectors have length 1, so that L2 ranks as the cosine does.
    rows = cache.search(asked, 10).rows
    scores = [
        ndcg_at_10([names[row] for row in found], uncached._relevant[query])
        for query, found in zip(queries, rows, strict=True)
    ]
    assert np.mean(scores) == pytest.approx(uncached.ndcg_at_10(), abs=1e-9)
