"""Names of secret settings. Secrets are never read or written, and never part of an identity."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r".*(token|api_?keys?|access_?key|private_?key|secret_?key|passwords?|passwd|passphrase|secrets?)"
    r"|(.*[^a-z0-9])?(auth|authorization|key_?id|credentials?|cookies?|bearer)"
)
_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SPECIAL_TOKENS = frozenset(
    f"{name}_token"
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image", "audio", "video", "special")
)
"""Tokens of a vocabulary, which are no secrets."""


def is_secret(name: object) -> bool:
    """Return whether a setting of this name is a secret, such as an access token or a password.

    Example:
        >>> [is_secret(name) for name in ("token", "openai_api_key", "hfToken", "pad_token", "tokenizer")]
        [True, True, True, False, False]
    """
    if not isinstance(name, str):
        return False
    plain = _PARTS.sub("_", name).lower().replace("-", "_").strip("_")
    return plain not in _SPECIAL_TOKENS and _SECRET.fullmatch(plain) is not None


def without_secrets(value: Any) -> Any:
    """Return a value without the secrets in its dicts, at any depth.

    Example:
        >>> without_secrets({"token": "hf_x", "layers": [{"api_key": "k", "index": 3}]})
        {'layers': [{'index': 3}]}
    """
    if isinstance(value, Mapping):
        return {name: without_secrets(part) for name, part in value.items() if not is_secret(name)}
    if type(value) in (list, tuple):
        return type(value)(without_secrets(part) for part in value)
    return value
