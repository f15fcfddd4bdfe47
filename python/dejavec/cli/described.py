"""What a cache is, read without its vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dejavec import _core
from dejavec.storage.identity import BARE

_COMMITS = "commit*"
"""The files of commit records: one at a time counts."""

_REVISION = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Described:
    """One cache.

    Attributes:
        path: its directory.
        model: a short text that identifies the model; empty if the identity has none.
        role: the role of the texts, or null.
        prompt: the text that the model reads before each text, or null.
        rows: committed rows, including replaced ones.
        dim: numbers in a vector.
        dtype: the dtype of the vectors that the model returned.
        library: the library of these vectors: numpy, torch, scipy, or list.
        container: the format of the rows.
        bytes: the size of all files.
        written: when the last commit was written: ISO 8601, UTC.
    """

    path: Path
    model: str
    role: str | None
    prompt: str | None
    rows: int
    dim: int
    dtype: str
    library: str
    container: str
    bytes: int
    written: str


def open_store(path: Path) -> _core.Store:
    """Open a cache to read it, whichever identity it has, as fast as possible.

    Raises:
        DejavecError: it cannot be opened.
    """
    return _core.Store.open(str(path), mode="r", durability="close", lock_timeout=60.0, allow_network=True)


def described(path: Path, store: _core.Store) -> Described:
    """Return the description of a cache."""
    identity, output = json.loads(store.identity), json.loads(store.output)
    written = datetime.fromtimestamp(max(file.stat().st_mtime for file in path.glob(_COMMITS)), UTC)
    return Described(
        path,
        model_of(identity),
        role_of(identity),
        prompt_of(identity),
        store.rows,
        store.dim,
        str(output["dtype"]),
        str(output["library"]),
        store.container,
        store.bytes_on_disk(),
        written.isoformat(timespec="seconds"),
    )


def role_of(identity: Mapping[str, Any]) -> str | None:
    """Return the role of the texts, or None."""
    role = identity.get("role")
    return None if role is None else str(role)


def prompt_of(identity: Mapping[str, Any]) -> str | None:
    """Return the text that the model reads before each text, or None."""
    prompt = identity.get("prompt")
    text = prompt.get("text") if isinstance(prompt, Mapping) else prompt
    return text if isinstance(text, str) else None


def model_of(identity: Mapping[str, Any]) -> str:
    """Return a short text that identifies a model.

    Example:
        >>> model_of({"model": {"name": "m", "revision": "1"}}), model_of(BARE), model_of({})
        ('m@1', '(none named)', '')
    """
    model = identity.get("model")
    if not isinstance(model, Mapping):
        return "(none named)" if identity == BARE else ""
    name, revision, variant = (model.get(part) for part in ("name", "revision", "variant"))
    parts = [str(name or "(no name)")]
    if revision is not None:
        parts.append(f"@{_short(str(revision))}")
    for digest in ("weights", "state"):  # Older caches have "weights" instead of "state".
        if digest in model:
            parts.append(f" {digest} {str(model[digest])[:12]}")
    if variant is not None:
        parts.append(f" ({variant})")
    return "".join(parts)


def _short(digest: str) -> str:
    return digest[:12] if _REVISION.fullmatch(digest) else digest
