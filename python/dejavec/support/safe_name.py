"""Names of directories that are valid on all systems."""

from __future__ import annotations

import hashlib
import re

LONGEST = 242
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
    if len(encoded) <= LONGEST:
        return escaped
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{encoded[:_KEPT].decode(errors='ignore')}%{digest[:32]}"


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
