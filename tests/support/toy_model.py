"""A model that is cheap, deterministic and works item by item."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


class ToyModel:
    """Makes each vector from its text alone, and remembers what it was asked for."""

    def __init__(self, dim: int = 4, dtype: Any = np.float32, fail_at: int | None = None) -> None:
        self.dim = dim
        self.dtype = dtype
        self.fail_at = fail_at
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Any:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the model broke")
        self.calls.append(list(texts))
        return self.vectors(texts)

    def vectors(self, texts: list[str]) -> Any:
        """What an uncached call returns."""
        if isinstance(self.dtype, str):
            import torch

            rows = torch.from_numpy(np.array([self.row(text) for text in texts]).reshape(-1, self.dim))
            return rows.to(getattr(torch, self.dtype))
        return np.array([self.row(text) for text in texts]).reshape(-1, self.dim).astype(self.dtype)

    def row(self, text: str) -> np.ndarray:
        seed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(seed, "little"))
        if np.issubdtype(np.float64 if isinstance(self.dtype, str) else self.dtype, np.integer):
            return generator.integers(0, 127, self.dim)
        return generator.standard_normal(self.dim)

    @property
    def encoded(self) -> list[str]:
        """Every text encoded, in order."""
        return [text for call in self.calls for text in call]
