"""The similarity function of a model, if it can be called without the model."""

from __future__ import annotations

import sys
from typing import Any, Literal, NamedTuple


class Similarity(NamedTuple):
    """A similarity function of a library.

    Attributes:
        library: the library.
        function: the name of the function in it.
    """

    library: Literal["mteb", "sentence-transformers"]
    function: str

    def __call__(self, name: str, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the result of a model's method ``name``: ``similarity`` or ``similarity_pairwise``."""
        from mteb import similarity_functions as functions

        pairwise = name == "similarity_pairwise"
        if self.library == "mteb":
            found = {"cosine": "cos_sim", "dot": "dot_score", "MaxSim": "max_sim"}[self.function]
            return getattr(functions, f"pairwise_{found}" if pairwise else found)(embeddings1, embeddings2)
        from sentence_transformers import SimilarityFunction

        choose = (
            SimilarityFunction.to_similarity_pairwise_fn if pairwise else SimilarityFunction.to_similarity_fn
        )
        upcast = functions._upcast_low_precision
        return choose(self.function)(upcast(embeddings1), upcast(embeddings2))


def similarity_of(model: Any, name: str) -> Similarity | None:
    """Return the function behind a model's method ``name``; None if it is unknown."""
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.models.abs_encoder import AbsEncoder

    method = getattr(type(model), name, None)
    if name in vars(model):
        return None
    if name == "similarity" and method is SentenceTransformerEncoderWrapper.similarity:
        return _of_sentence_transformer(model.model, name)
    if method is not getattr(AbsEncoder, name):
        return None
    chosen = getattr(model.mteb_model_meta, "similarity_fn_name", None)
    if chosen is not None:
        known = str(chosen.value) in ("cosine", "dot", "MaxSim")
        return Similarity("mteb", str(chosen.value)) if known else None
    inner = getattr(model, "model", None)
    if hasattr(inner, name):
        return _of_sentence_transformer(inner, name)
    return Similarity("mteb", "cosine")


def _of_sentence_transformer(inner: Any, name: str) -> Similarity | None:
    library = sys.modules.get("sentence_transformers")
    plain = getattr(library, "SentenceTransformer", None)
    if plain is None or not isinstance(inner, plain):
        return None
    if name in vars(inner) or getattr(type(inner), name) is not getattr(plain, name):
        return None
    return Similarity("sentence-transformers", str(inner.similarity_fn_name))
