"""Views of the full vectors of a sentence-transformer, made with the library's operations in its order."""

from __future__ import annotations

from typing import Any


def dense_view(vectors: Any, *, truncate_dim: int | None, normalize: bool) -> Any:
    """Return vectors cut to their first dimensions, then normalised, equal to the library's own to the bit.

    Args:
        vectors: a tensor (n, dim) in the dtype of the model, on the CPU. Sums of squares on a GPU depend on
            the shape of the batch.
        truncate_dim: how many dimensions remain; None: all.
        normalize: whether each row is divided by its length.
    """
    import torch

    if truncate_dim is not None:
        vectors = vectors[..., :truncate_dim]
    if normalize:
        vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
    return vectors.contiguous()
