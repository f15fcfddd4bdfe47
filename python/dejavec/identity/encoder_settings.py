"""The settings of a sentence-transformer that can be assigned after it was loaded."""

from __future__ import annotations

from typing import Any

from dejavec.identity.fingerprint import describe


def encoder_settings(model: Any) -> dict[str, Any]:
    """Describe the sequence length and the dtype of a model of sentence-transformers."""
    weight = next(model.parameters(), None)
    return {
        "max_seq_length": describe(model.max_seq_length),
        "dtype": None if weight is None else str(weight.dtype),
    }
