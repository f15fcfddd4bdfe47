"""Objects of ours around a model: whoever looks at one of these looks at the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol


class ModelSource(Protocol):
    """A model that is built, or is built when it is asked for."""

    @property
    def is_built(self) -> bool:
        """Whether the model is there."""

    @property
    def model(self) -> Any:
        """The model, built by now."""


class ModelWrapper(ABC):
    """An object that stands in for a model, which makes all vectors.

    Its one method has a name that no model has, since other names may be forwarded to the model.
    """

    @abstractmethod
    def __wrapped_model__(self) -> ModelSource:
        """Return where the model is."""
