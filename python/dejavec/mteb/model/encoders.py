"""Checks of models: which can be wrapped, and which may share vectors between tasks."""

from __future__ import annotations

import sys
from typing import Any

from dejavec.mteb.model.identity import Kind, layers
from dejavec.mteb.model.methods import Methods

INTEGER_PRECISIONS = frozenset({"int8", "uint8", "int4", "uint4"})
"""Precisions that scale by the whole call."""

_BARE = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder")


def as_encoder(model: Any) -> Any:
    """Return ``model``, wrapped as mteb wraps it if it is a bare model of sentence-transformers.

    Raises:
        ValueError: mteb cannot evaluate it, or its vectors depend on the rest of the call.
    """
    library = sys.modules.get("sentence_transformers")
    if any(isinstance(model, getattr(library, name)) for name in _BARE if hasattr(library, name)):
        from mteb.evaluate import _sanitize_model

        model = _sanitize_model(model)[0]
    if not Methods.of(model).are_evaluated:
        raise ValueError(f"Model must have an 'encode' method: found {type(model).__name__}.")
    for layer in layers(model):
        level = getattr(layer, "_quantization_level", None)
        if type(layer).__name__ == "CompressionWrapper" and str(level) in INTEGER_PRECISIONS:
            raise ValueError(
                "a CompressionWrapper to integers takes its bounds over each call, so its vectors cannot be "
                "cached; wrap the other way round: CompressionWrapper(CachedEmbeddingWrapper(model, …))"
            )
    return model


def refuse_sharing(kind: Kind, *, text_only: bool) -> None:
    """Refuse to share vectors between tasks, unless they depend only on the text and a known prompt.

    Raises:
        ValueError: they may depend on something else.
    """
    if kind != "other" and text_only:
        return
    found = "a model with an encode of its own" if kind == "other" else "items that are not text"
    raise ValueError(
        'expected, for scope="model", text and the encode of mteb\'s SentenceTransformerEncoderWrapper or '
        f'InstructSentenceTransformerModel, whose prompts can be told, found {found}; use scope="task"'
    )
