"""A second run through frameworks, which return lists of Python floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benches import checks, floors, memory
from benches.cases.base import SMALL, Case, Measured, Place, timed
from benches.model import NumberedModel
from benches.work import Setup
from dejavec import _core


class FrameworkCaches(Case):
    """The caches of LangChain and LlamaIndex beside this one in their place."""

    name = "frameworks"
    title = "Warm encode through LangChain and LlamaIndex"

    def setups(self, small: bool) -> Sequence[Setup]:
        return SMALL if small else (Setup(10_000),)

    def contestants(self) -> Sequence[str]:
        return (
            "dejavec for LangChain",
            "LangChain, lists",
            "dejavec for LlamaIndex",
            "LlamaIndex IngestionCache",
            "dict of lists",
            floors.LISTS,
        )

    def measure(self, place: Place) -> Measured:
        rows = place.setup.rows
        # A list of floats takes 32 bytes a number.
        at_hand = 32 * rows * place.setup.dim
        if place.contestant == floors.LISTS:
            memory.settle(place.scratch, at_hand)
            vectors = place.work.vectors().astype(np.float64)
            return Measured(timed(lambda: _core.to_lists(vectors))[0], rows)
        subject, model = place.subject(), NumberedModel(place.work)
        inputs = subject.inputs(place.work.dataset())
        subject.warm_up()
        memory.settle(place.store(), at_hand)
        seconds, result = timed(lambda: subject.run(inputs, model))
        checks.equal("texts encoded", model.encoded, 0)
        checks.equal("kinds of numbers", {type(row[0]) for row in result}, {float})
        checks.same(np.array(result, place.setup.dtype), place.work.vectors())
        return Measured(seconds, rows)
