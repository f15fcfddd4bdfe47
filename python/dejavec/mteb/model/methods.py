"""Which methods mteb calls on a model, and which one makes the vectors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dejavec.errors import sentence

_HIDDEN = "_encode"
"""The method that makes the vectors of mteb's late-interaction models, which have no ``encode``. Their
``index`` and ``search`` call it. It is private to mteb."""

_ARGUMENTS = frozenset({"task_metadata", "hf_split", "hf_subset", "prompt_type"})


@dataclass(frozen=True)
class Methods:
    """The methods of a model, or of its class.

    Attributes:
        encodes: whether it has ``encode``.
        searches: whether it does its own search.
        predicts: whether it scores pairs, as a cross-encoder does.
        hides_encode: whether its search uses an ``_encode`` with the arguments of ``encode``.
    """

    encodes: bool
    searches: bool
    predicts: bool
    hides_encode: bool

    @classmethod
    def of(cls, model: Any) -> Methods:
        """Return the methods of a model or a class."""

        def has(*names: str) -> bool:
            return all(callable(getattr(model, name, None)) for name in names)

        hidden = getattr(model, _HIDDEN, None)
        return cls(has("encode"), has("index", "search"), has("predict"), _fits(hidden) and not has("encode"))

    @property
    def are_evaluated(self) -> bool:
        """Whether mteb evaluates such a model."""
        return self.encodes or self.searches or self.predicts

    @property
    def are_cached(self) -> bool:
        """Whether there are vectors to cache."""
        return self.encodes or (self.searches and self.hides_encode)


def encoder_of(model: Any) -> Callable[..., Any]:
    """Return the method of a model that makes its vectors.

    Raises:
        AttributeError: it has none.
    """
    methods = Methods.of(model)
    return getattr(model, _HIDDEN if methods.hides_encode else "encode")  # type: ignore[no-any-return]


def searcher(model: Any, encode: Callable[..., Any]) -> Any:
    """Return a model for searching, whose vectors come from another function.

    It is a shallow copy: ``index`` and ``search`` find the method on the instance, and keep things there.

    Args:
        model: a model that hides its ``encode``.
        encode: takes a loader, and the arguments of ``encode`` by name.
    """
    copied = copy.copy(model)

    def hidden(inputs: Any, **arguments: Any) -> Any:
        return encode(inputs, arguments)

    setattr(copied, _HIDDEN, hidden)
    return copied


def no_vectors(name: str, methods: Methods) -> str:
    """Return a message about a model without vectors to cache."""
    found = "a model that scores pairs" if methods.predicts else "a search without a method that makes them"
    return sentence(
        name,
        expected="vectors to cache",
        found=found,
        remedy="the model runs as it is, and nothing is cached",
    )


def _fits(method: Any) -> bool:
    """Return whether a method takes the arguments of ``encode``."""
    try:
        return callable(method) and inspect.signature(method).parameters.keys() >= _ARGUMENTS
    except (TypeError, ValueError):
        return False
