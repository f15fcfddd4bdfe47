"""Models of sentence-transformers that are made in a moment: a table of vectors for words."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def static_model(directory: Path, *, dim: int = 8, seed: int = 0) -> Any:
    """Save a ``SentenceTransformer`` that averages random vectors of words, and return it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", *(f"w{number}" for number in range(200))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(seed)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=dim)], device="cpu")
    model.save(str(directory), create_model_card=False)
    return model
