"""A retrieval task over given texts, and its unrounded scores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from dejavec.demo.corpus import Corpus

SPLIT = "test"


class TextRetrieval(AbsTaskRetrieval):  # type: ignore[misc]  # mteb is not analysed
    """Retrieval over given documents and queries, for ``mteb.evaluate``.

    mteb rounds the returned scores to five decimals. So this task also keeps the unrounded values.

    Attributes:
        similarities: query id -> document id -> similarity, in the last evaluation.
        query_scores: query id -> name of a measure -> its unrounded value, in the last evaluation.
    """

    def __init__(
        self,
        name: str,
        description: str,
        documents: Dataset,
        queries: Dataset,
        relevant: Mapping[str, Mapping[str, int]],
    ) -> None:
        """Make a task of these texts.

        Args:
            name: the name of the task, and of its directory in a cache.
            description: one sentence.
            documents: columns ``id``, ``title`` and ``text``.
            queries: columns ``id`` and ``text``.
            relevant: query id -> document id -> relevance.
        """
        self.metadata = TaskMetadata(
            name=name,
            description=description,
            dataset={"path": "local/texts", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=[SPLIT],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )
        super().__init__()
        self._documents = documents
        self._queries = queries
        self._relevant = relevant
        self.similarities: dict[str, dict[str, float]] = {}
        self.query_scores: dict[str, dict[str, float]] = {}

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Give the texts to mteb."""
        relevant = {query: dict(documents) for query, documents in self._relevant.items()}
        self.dataset = {
            "default": {
                SPLIT: RetrievalSplitData(
                    corpus=self._documents, queries=self._queries, relevant_docs=relevant, top_ranked=None
                )
            }
        }
        self.data_loaded = True

    def task_specific_scores(
        self,
        scores: dict[str, dict[str, float]],
        qrels: Mapping[str, Mapping[str, int]],  # noqa: ARG002
        results: dict[str, dict[str, float]],
        hf_split: str,  # noqa: ARG002
        hf_subset: str,  # noqa: ARG002
    ) -> dict[str, float]:
        """Keep the values that mteb will round. Add no scores."""
        self.query_scores = scores
        self.similarities = results
        return {}

    def ndcg_at_10(self) -> float:
        """Return the unrounded mean over the queries of the last evaluation."""
        return float(np.mean([measures["ndcg_cut_10"] for measures in self.query_scores.values()]))

    def digest(self) -> str:
        """Return the SHA-256 of every query, document and similarity of the last evaluation."""
        sha = hashlib.sha256()
        for query in sorted(self.similarities):
            ranked = self.similarities[query]
            documents = sorted(ranked)
            sha.update("\0".join([query, *documents, ""]).encode())
            sha.update(np.array([ranked[document] for document in documents], dtype="<f8").tobytes())
        return sha.hexdigest()


def docstring_task(corpus: Corpus) -> TextRetrieval:
    """Return the task: find the docstring that belongs to a first line."""
    return TextRetrieval(
        "DocstringRetrieval",
        "Find the docstring of the Python standard library that a first line belongs to.",
        Dataset.from_dict(_columns(corpus)),
        Dataset.from_dict(
            {
                "id": [document.title for document in corpus.queries],
                "text": [document.first_line for document in corpus.queries],
            }
        ),
        {document.title: {document.title: 1} for document in corpus.queries},
    )


def _columns(corpus: Corpus) -> dict[str, Sequence[str]]:
    titles = [document.title for document in corpus.documents]
    return {"id": titles, "title": titles, "text": [document.body for document in corpus.documents]}
