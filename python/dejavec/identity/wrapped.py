"""Our wrappers around a model. A look at a wrapper examines the model instead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol


class ModelChangedError(Exception):
    """The built model differs from the record that replaced it until then. Never leaves the wrapper."""


class ModelSource(Protocol):
    """A model that is built already, or at the first use of :attr:`model`."""

    @property
    def is_built(self) -> bool:
        """Whether the model is built."""

    @property
    def model(self) -> Any:
        """The model, which is built if necessary."""


class ModelWrapper(ABC):
    """A wrapper around a model, which makes all vectors.

    The method has a name that no model has, since a wrapper may forward other names to the model.

    Attributes:
        left_out: names of attributes of the model that change no vector.
    """

    left_out: frozenset[str] = frozenset()

    @abstractmethod
    def __wrapped_model__(self) -> ModelSource:
        """Return the source of the model."""
