"""Directory names for tasks and settings."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from dejavec.identity.fingerprint import sha256_of

_LONGEST = 242
"""The most bytes of a name. File systems allow 255, and a sibling directory adds 13."""

_KEPT = 160
"""Bytes of a longer name that are kept before its digest."""

_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|\ud800-\udfff]|[. ]\Z')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)


def safe_name(name: str) -> str:
    """Return a name that is valid as one directory on all systems. Plain names do not change.

    Separators, control characters and the like become ``%`` and their hex digits. So do the first letter of a
    device name and a final dot or space. Names too long for a file system are cut and get a digest.

    Example:
        >>> safe_name("NanoArguAnaRetrieval"), safe_name("../x"), safe_name("..")
        ('NanoArguAnaRetrieval', '..%2Fx', '.%2E')
    """
    escaped = _UNSAFE.sub(lambda match: _percent(match[0]), name) or "%"
    if _DEVICE.match(escaped):
        escaped = _percent(escaped[0]) + escaped[1:]
    encoded = escaped.encode()
    if len(encoded) <= _LONGEST:
        return escaped
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{encoded[:_KEPT].decode(errors='ignore')}%{digest[:32]}"


def experiment_name(settings: Mapping[str, Any]) -> str | None:
    """Return mteb's directory name for experiment settings, None if there are none.

    Raises:
        TypeError: a setting has no stable form.
    """
    from mteb.models.model_meta import _serialize_experiment_kwargs_to_name

    try:
        name: str | None = _serialize_experiment_kwargs_to_name(settings)
    except ValueError:
        name = None
    if not settings or (name is not None and len(os.fsencode(name)) <= _LONGEST):
        return name
    return f"exp_{sha256_of(dict(settings))[:16]}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
