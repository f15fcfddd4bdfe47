"""What a tokenizer contains, without the padding that its last call left in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec import _core

_SETTINGS = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")


@dataclass(frozen=True)
class TokenizerContent:
    """What was found in a tokenizer.

    Attributes:
        digest: fingerprints of its vocabulary, rules and settings, one behind the other.
        backend: the object of the library ``tokenizers`` in it; None if there is none.
        is_hidden: whether it has parts that could not be looked into.
    """

    digest: bytes
    backend: object | None
    is_hidden: bool


def tokenizer_content(value: Any) -> TokenizerContent | None:
    """Return the content of a tokenizer of ``tokenizers`` or transformers; None of any other object."""
    # Asked of the class: an object may answer to any name.
    made = type(value)
    backend = value.backend_tokenizer if hasattr(made, "backend_tokenizer") else value
    is_hidden = False
    if type(backend).__module__.partition(".")[0] == "tokenizers" and hasattr(type(backend), "to_str"):
        try:
            # Padding and truncation come first in this form.
            content = backend.to_str().partition('"added_tokens"')[2]
        except Exception:  # One with parts in Python has no such form.
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
