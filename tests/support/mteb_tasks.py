"""The mock tasks of mteb, what was called in one, and half of the items of a call."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from mteb.mocks import mock_tasks
from mteb.mocks.mock_tasks import create_mock_samples
from mteb_models import evaluate, loader, loads_ffmpeg

MODULES = [
    importlib.import_module(f"{mock_tasks.__name__}.{part.name}")
    for part in pkgutil.iter_modules(mock_tasks.__path__)
]


@contextmanager
def each_video_once() -> Iterator[None]:
    """mteb encodes the videos of a task anew for each evaluation, from the same random numbers."""
    known: dict[str, tuple[list[bytes], Any]] = {}
    create = create_mock_samples.create_mock_video_bytes

    def create_once(np_rng: np.random.Generator, *arguments: Any, **settings: Any) -> list[bytes]:
        key = repr((np_rng.bit_generator.state, arguments, sorted(settings.items())))
        if key not in known:
            known[key] = create(np_rng, *arguments, **settings), np_rng.bit_generator.state
        videos, np_rng.bit_generator.state = known[key]
        return list(videos)

    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            if hasattr(module, create.__name__):
                patch.setattr(module, create.__name__, create_once)
        yield


def mock_classes() -> list[type]:
    return [
        made
        for module in MODULES
        for name, made in vars(module).items()
        if name.startswith("Mock") and isinstance(made, type) and made.__module__ == module.__name__
    ]


ALL_CLASSES = mock_classes()


# torchcodec decodes audio and video with the shared libraries of FFmpeg, which are no Python package.
NEED_FFMPEG = [
    "MockAudioMultilabelClassificationTask",
    "MockAudioClassification",
    "MockAudioClassificationCrossVal",
    "MockVideoClassification",
    "MockVideoAudioClassification",
    "MockVideoMultilabelClassificationTask",
    "MockVideoAudioMultilabelClassificationTask",
    "MockAudioClusteringTask",
    "MockVideoClusteringTask",
    "MockVideoAudioClusteringTask",
    "MockAudioPairClassification",
    "MockVideoPairClassificationTask",
    "MockVideoAudioPairClassificationTask",
    "MockAsymVideoAudioPairClassificationTask",
    "MockAsymVideoAudioPairClassificationTaskV2",
    "MockSymCustomVideoAudioPairClassificationTaskV2",
    "MockAudioReranking",
    "MockAny2AnyRetrievalT2ATask",
    "MockAny2AnyRetrievalA2TTask",
    "MockAny2AnyRetrievalA2ATask",
    "MockVideoRetrievalV2T",
    "MockVideoRetrievalT2V",
    "MockVideoAudioRetrievalVA2T",
    "MockVideoAudioRetrievalT2VA",
    "MockVideoAudioTextRetrievalVAT2T",
    "MockVideoAudioSTSTask",
    "MockSymCustomVideoAudiSTSTask",
    "MockAudioZeroshotClassificationTask",
    "MockVideoZeroshotClassificationTask",
    "MockVideoAudioZeroshotClassificationTask",
]
FAIL_UNCACHED = [] if loads_ffmpeg() else NEED_FFMPEG
"""Tasks that mteb itself cannot evaluate in this environment."""


class Part:
    """Some rows of a data set that cannot select them."""

    def __init__(self, rows: Any, positions: Sequence[int]) -> None:
        self.features = rows.features
        self._items = [rows[position] for position in positions]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, position: int) -> Any:
        return dict(self._items[position])


def half(inputs: Any) -> Any:
    rows = inputs.dataset
    even = range(0, len(rows), 2)
    part = rows.select(even) if hasattr(rows, "select") else Part(rows, even)
    return loader(part, collate_fn=inputs.collate_fn)


def small(task_class: type) -> Any:
    """A new task, with fewer repetitions of what is done with the vectors."""
    task = task_class()
    for repetitions in ("n_experiments", "n_clusters"):
        if hasattr(task, repetitions):
            setattr(task, repetitions, 2)
    return task


class Calls:
    """Keeps the loader, the arguments and the result of each call that makes vectors."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, dict[str, Any], Any]] = []

    def watch(self, function: Any) -> Any:
        @functools.wraps(function)
        def watching(inputs: Any, **arguments: Any) -> Any:
            made = function(inputs, **arguments)
            self.made.append((inputs, arguments, made))
            return made

        return watching


def outcome(model: Any, task: Any) -> str:
    """The scores; or the error, since no model can be evaluated in every task."""
    try:
        return evaluate(model, task)
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace(repr(model), "the model").split(" object at ")[0]
