"""A model that costs nothing: it knows the vector of each text by the number that the text begins with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from benches.english import number_of
from benches.work import Vectors, Work

NAME = "bench/numbered@" + "0" * 40


class NumberedModel:
    """The model as a function of texts, and as an mteb encoder."""

    def __init__(self, work: Work) -> None:
        self._vectors = work.vectors()
        self.encoded = 0
        self.seconds = 0.0

    def __call__(self, texts: list[str]) -> Vectors:
        """Return the vectors (n, dim) of n texts; what that takes is added to ``seconds``."""
        return self._take(lambda: map(number_of, texts))

    @property
    def mteb_model_meta(self) -> Any:
        from mteb.models import ModelMeta

        name, revision = NAME.split("@")
        return ModelMeta.create_empty(overwrites={"name": name, "revision": revision})

    def encode(self, inputs: Any, **_: Any) -> Vectors:
        # A corpus has identifiers, and its texts begin with a title.
        return self._take(
            lambda: (
                int(number)
                for batch in inputs
                for number in (batch["id"] if "id" in batch else map(number_of, batch["text"]))
            )
        )

    def similarity(self, one: Any, other: Any) -> Any:
        return one @ other.T

    def similarity_pairwise(self, one: Any, other: Any) -> Any:
        return (one * other).sum(axis=1)

    def _take(self, numbers: Callable[[], Iterable[int]]) -> Vectors:
        start = time.perf_counter()
        vectors = self._vectors[list(numbers())]
        self.encoded += len(vectors)
        self.seconds += time.perf_counter() - start
        return vectors


def task(titled: bool) -> Any:
    """An mteb task: of titled documents, as in retrieval, or of texts, as in classification."""
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name="Bench-titled" if titled else "Bench-texts",
        description="Numbered English texts.",
        dataset={"path": "bench", "revision": "1"},
        type="Retrieval" if titled else "Classification",
        category="t2t" if titled else "t2c",
        modalities=["text"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10" if titled else "accuracy",
    )


def loader(dataset: Any, titled: bool) -> Any:
    """The texts as mteb hands them to a model."""
    from datasets import Dataset
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    if not titled:
        # mteb takes the texts one by one; from a column in a thousand chunks, a million take ten minutes.
        dataset = Dataset.from_dict({"text": dataset["text"][:]})
    return create_dataloader(
        dataset,
        task_metadata=task(titled),
        prompt_type=PromptType.document if titled else None,
        input_column=None if titled else "text",
        batch_size=32,
    )


def arguments(titled: bool) -> dict[str, Any]:
    """What mteb passes to ``encode`` beside the texts."""
    from mteb.types import PromptType

    return {
        "task_metadata": task(titled),
        "hf_split": "test",
        "hf_subset": "default",
        "prompt_type": PromptType.document if titled else None,
        "batch_size": 32,
    }
