"""The toy model as modules of sentence-transformers' encoders. What is pickled cannot be in a test file."""

from __future__ import annotations

from typing import Any

import torch
from toys import model


class ToyModule(torch.nn.Module):
    """The toy model as the only module of an encoder. The prompt is the role."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        return {"numbers": torch.tensor(model(inputs, f"role {prompt}"))}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"sentence_embedding": features["numbers"] * self.scale}


class ToySparseModule(ToyModule):
    """Some of the numbers are zeros."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        numbers = features["numbers"]
        return {"sentence_embedding": torch.where(numbers > 0.5, numbers * self.scale, 0)}


class ToyTokenModule(ToyModule):
    """A text has one to four tokens."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        numbers = features["numbers"] * self.scale
        tokens = 1 + (3 * features["numbers"][:, :1]).int()
        places = torch.arange(4)
        return {
            "token_embeddings": numbers[:, None, :] * (1 + places)[None, :, None],
            "attention_mask": (places[None, :] < tokens).int(),
        }
