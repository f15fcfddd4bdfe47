"""``dejavec ls`` and ``dejavec stats``: the caches below a directory, and the models of their vectors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dejavec.errors import DejavecError
from dejavec.identity.proven import FILE as PROVEN
from dejavec.identity.proven import read_proven
from dejavec.storage.find import META, caches_below
from dejavec.storage.identity import BARE
from dejavec.storage.keyed_cache import KeyedCache

_HEADINGS = ("cache", "model", "role", "prompt", "rows", "dim", "dtype", "bytes")
_NUMBERS = ("rows", "dim", "bytes")
_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_LONGEST = 48
"""Characters of a name or prompt that are shown."""


@dataclass(frozen=True)
class Listed:
    """One cache.

    Attributes:
        path: its directory.
        identity: which model and settings made its vectors.
        rows: committed rows, including replaced ones.
        dim: numbers in a vector.
        dtype: the library and dtype of the vectors that the model returned, such as ``"numpy float32"``.
        bytes: the size of all files.
    """

    path: Path
    identity: Mapping[str, Any]
    rows: int
    dim: int
    dtype: str
    bytes: int


def describe_cache(path: Path) -> Listed:
    """Return the description of one cache, without reading its vectors.

    Raises:
        DejavecError: the cache cannot be opened.
    """
    with KeyedCache(path, mode="r") as cache:
        stats, output = cache.stats(), cache.output
        identity = json.loads((path / META).read_text())["identity"]
        dtype = "" if output is None else f"{output.library} {output.dtype}"
        return Listed(path, identity, stats["rows"], cache.dim or 0, dtype, stats["bytes_on_disk"])


def ls_command(directory: Path) -> int:
    """Print a table of all caches at and below a directory.

    Returns:
        The exit status: 1 if a cache cannot be opened or a directory cannot be read, otherwise 0.

    Raises:
        CacheNotFoundError: there is no cache.
    """
    listed: list[Listed] = []
    refused: list[str] = []
    unreadable: list[str] = []
    for path in caches_below(directory, unreadable):
        try:
            listed.append(describe_cache(path))
        except (DejavecError, OSError) as error:
            refused.append(str(error))
    if listed:
        print("\n".join(_table([_cells(cache, directory) for cache in listed])))
    rows, size = (sum(getattr(cache, name) for cache in listed) for name in ("rows", "bytes"))
    print(f"{len(listed)} {'cache' if len(listed) == 1 else 'caches'}, {rows:,} rows, {size:,} bytes")
    for reason in refused:
        print(f"does not open: {reason}")
    for reason in unreadable:
        print(reason)
    return 1 if refused or unreadable else 0


def stats_command(path: Path) -> int:
    """Print the counts and the identity of one cache.

    Returns:
        The exit status, 0.

    Raises:
        DejavecError: there is no cache, or it cannot be opened.
    """
    cache = describe_cache(path)
    with KeyedCache(path, mode="r") as opened:
        numbers = {"dim": cache.dim, **opened.stats()}
    print(f"{path}: vectors of {cache.dtype}")
    for name, number in numbers.items():
        print(f"  {name.replace('_', ' '):14}{number:>16,}")
    print(json.dumps(cache.identity, indent=2, sort_keys=True))
    for description in read_proven(path / PROVEN):
        versions = " ".join(f"{name} {version}" for name, version in description.versions)
        seen = f"{description.seen[:12]} on {description.device or 'no device'}"
        print(f"  proven for a model with the description {seen}, {versions}")
    return 0


def _cells(cache: Listed, directory: Path) -> dict[str, str]:
    identity = cache.identity
    prompt = identity.get("prompt")
    text = prompt.get("text") if isinstance(prompt, Mapping) else prompt
    return {
        "cache": _printable(str(cache.path.relative_to(directory))),
        "model": _shown(_model(identity)),
        "role": _shown(str(identity.get("role") or "")),
        "prompt": _shown(repr(text)) if isinstance(text, str) else "",
        "rows": f"{cache.rows:,}",
        "dim": f"{cache.dim:,}",
        "dtype": cache.dtype,
        "bytes": f"{cache.bytes:,}",
    }


def _model(identity: Mapping[str, Any]) -> str:
    """Return a short text that identifies a model."""
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
    return digest[:12] if _COMMIT.fullmatch(digest) else digest


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _shown(text: str) -> str:
    """Return a text as one short line that any terminal can print."""
    plain = _printable(text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield the lines of a table without empty columns. Texts are left-aligned, numbers right-aligned."""
    names = [name for name in _HEADINGS if any(row[name] for row in rows)]
    lines = [{name: name for name in names}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    for line in lines:
        cells = (
            line[name].rjust(widths[name]) if name in _NUMBERS else line[name].ljust(widths[name])
            for name in names
        )
        yield "  ".join(cells).rstrip()
