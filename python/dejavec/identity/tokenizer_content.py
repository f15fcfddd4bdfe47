"""The content of a tokenizer, without the padding that its last call set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec import _core
from dejavec.identity.libraries import top_level

_SETTINGS = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")


@dataclass(frozen=True)
class TokenizerContent:
    """The content of a tokenizer.

    Attributes:
        digest: fingerprints of its vocabulary, rules and settings, concatenated.
        backend: its object of the library ``tokenizers``; None if it has none.
        is_hidden: whether some parts could not be read.
    """

    digest: bytes
    backend: object | None
    is_hidden: bool


def tokenizer_content(value: Any) -> TokenizerContent | None:
    """Return the content of a tokenizer of ``tokenizers`` or transformers; None for other objects."""
    # The class is checked, since an object may have a `__getattr__` for every name.
    made = type(value)
    backend = value.backend_tokenizer if hasattr(made, "backend_tokenizer") else value
    is_hidden = False
    if top_level(type(backend).__module__) == "tokenizers" and hasattr(type(backend), "to_str"):
        try:
            # Padding and truncation precede "added_tokens" in this JSON.
            content = backend.to_str().partition('"added_tokens"')[2]
        except Exception:  # A tokenizer with parts in Python has no JSON form.
            content = _vocabulary(backend)
            is_hidden = True
    elif hasattr(made, "get_vocab") and hasattr(made, "convert_tokens_to_ids"):
        content, backend = _vocabulary(value), None
    else:
        return None
    settings = repr([getattr(value, name, None) for name in _SETTINGS])
    whole = np.frombuffer((settings + content).encode("utf-8", "surrogatepass"), np.uint8)
    return TokenizerContent(_core.fingerprint_blocks([whole])[0], backend, is_hidden)


def _vocabulary(tokenizer: Any) -> str:
    return repr(sorted(tokenizer.get_vocab().items()))
