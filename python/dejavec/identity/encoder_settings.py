"""The settings of a sentence-transformer that can be assigned after it was loaded."""

from __future__ import annotations

from typing import Any

from dejavec.identity.fingerprint import describe


def encoder_settings(model: Any) -> dict[str, Any]:
    """Describe the sequence length and the dtypes of a model of sentence-transformers."""
    dtypes = sorted({str(weight.dtype) for weight in model.parameters()})
    return {
        "max_seq_length": describe(model.max_seq_length),
        "dtype": ", ".join(dtypes) if dtypes else None,
    }
