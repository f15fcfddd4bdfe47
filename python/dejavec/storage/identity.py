"""The identity: a JSON object, stored with the vectors, that says which model and settings made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dejavec.support.canonical import canonical_json
from dejavec.support.paths import with_suffix

MOST_BYTES = 65_536 - 512
"""The most bytes of an identity as indented JSON: the limit of ``meta.json``, less its other entries."""

MOST_LEVELS = 100
"""The most levels of nested dicts and lists. JSON parsers have a limit; the core's is 128."""

_BARE_ENTRY = "bare-backend"
BARE: dict[str, Any] = {_BARE_ENTRY: True}
"""The identity of a cache without a model name."""

_NAMELESS = "vectors of no named model"


def compared(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that is compared. If it has a state, name and revision do not count.

    Example:
        >>> compared({"model": {"name": "n", "revision": "r", "state": "5b10"}, "role": "query"})
        {'model': {'state': '5b10'}, 'role': 'query'}
    """
    model = identity.get("model")
    if not isinstance(model, Mapping) or "state" not in model:
        return dict(identity)
    part = {name: value for name, value in model.items() if name not in ("name", "revision")}
    return {**identity, "model": part}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two identities are equal, in the parts that count."""
    return canonical_json(compared(one)) == canonical_json(compared(other))


def digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity as 64 hex digits, over the canonical JSON of :func:`compared`.

    Raises:
        TypeError: see :func:`canonical_json`.

    Example:
        >>> digest({"model": {"name": "n", "revision": "r"}})[:12]
        'c5d9d15a5a70'
    """
    return hashlib.sha256(canonical_json(compared(identity)).encode("ascii")).hexdigest()


def parse_model(model: str) -> dict[str, str | None]:
    """Split ``"name@revision"`` at its last ``@``.

    Returns:
        ``{"name": …, "revision": …}``; the revision is None if it is missing.

    Raises:
        ValueError: the name is empty.

    Example:
        >>> parse_model("org/small@v2")
        {'name': 'org/small', 'revision': 'v2'}
    """
    name, separator, revision = model.rpartition("@")
    if not separator:
        name, revision = model, ""
    if not name:
        raise ValueError(f'expected model="name@revision", found {model!r}')
    return {"name": name, "revision": revision or None}


def describe(
    model: str | None,
    identity: Mapping[str, Any] | None,
    *,
    prompt: str | None = None,
    role: str | None = None,
    store_dtype: str | None = None,
) -> dict[str, Any]:
    """Make one identity from the caller's arguments; :data:`BARE` if there are none.

    Raises:
        ValueError: the model, prompt, role or store_dtype is given twice.
        TypeError: the identity is not JSON, or not Unicode.

    Example:
        >>> describe("n@r", {"layer": 3}, prompt="query: ", role="query")
        {'layer': 3, 'model': {'name': 'n', 'revision': 'r'}, 'prompt': 'query: ', 'role': 'query'}
    """
    if model is not None and not isinstance(model, str):
        raise TypeError(f'expected model to be a str "name@revision", found {type(model).__name__}')
    if identity is not None and not isinstance(identity, Mapping):
        raise TypeError(f"expected identity to be a dict, found {type(identity).__name__}")
    described = dict(identity or {})
    given = {
        "model": None if model is None else parse_model(model),
        "prompt": prompt,
        "role": role,
        "store_dtype": store_dtype,
    }
    for name, value in given.items():
        if value is not None:
            if name in described:
                raise ValueError(f'expected {name} either as {name}= or as identity["{name}"], found both')
            described[name] = value
    check_form(described)
    return described or dict(BARE)


def check_form(identity: Mapping[str, Any]) -> None:
    """Check that an identity can be stored: it is JSON in Unicode, and neither too large nor too deep.

    Raises:
        TypeError: it cannot be stored.
    """
    depth = _depth(identity)
    if depth > MOST_LEVELS:
        raise TypeError(
            f"expected an identity of at most {MOST_LEVELS} levels, found more; give a digest of what is deep"
        )
    try:
        canonical_json(identity)
        size = len(json.dumps(identity, ensure_ascii=False, indent=2).encode("utf-8"))
    except UnicodeEncodeError as error:
        raise TypeError(f"expected an identity in Unicode, found a lone surrogate: {error}") from None
    except TypeError as error:
        raise TypeError(f"expected an identity of JSON values: {error}") from None
    if size > MOST_BYTES:
        raise TypeError(
            f"expected an identity of at most {MOST_BYTES:,} bytes of JSON, found {size:,}; give a digest of "
            "what is long"
        )


def _depth(value: object) -> int:
    """Return how many levels of dicts and lists are nested. For cycles, return more than are allowed."""
    depth, level = 0, [value]
    while level and depth <= MOST_LEVELS:
        parts = [part for part in level if isinstance(part, Mapping | list | tuple)]
        if not parts:
            break
        depth += 1
        level = [inner for part in parts for inner in (part.values() if isinstance(part, Mapping) else part)]
    return depth


def model_text(identity: Mapping[str, Any]) -> str | None:
    """Return the model of an identity as ``"name@revision"``; None if it has no name.

    Example:
        >>> model_text({"model": {"name": "m", "revision": "1"}})
        'm@1'
    """
    model = identity.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        return None
    revision = model.get("revision")
    return str(model["name"]) if revision is None else f"{model['name']}@{revision}"


def mismatch(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the parts of a message about an identity mismatch: expected, found and remedy."""
    held = model_text(found)
    if _BARE_ENTRY in expected and held is not None:
        others = sorted(set(found) - {"model", "container"})
        also = f" and the {', '.join(others)} it was made with" if others else ""
        return _NAMELESS, f"those of {held}", f"pass model={held!r}{also}"
    remedy = 'use another directory for other vectors, or on_mismatch="sibling"'
    return *difference(expected, found), remedy


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the differing entries of two identities as text: the expected ones, and the found ones.

    Example:
        >>> difference({"model": "a", "role": "query"}, {"model": "b"})
        ('model "a" and role "query"', 'model "b" and no role')
        >>> difference({"role": "query"}, BARE)
        ('role "query"', 'vectors of no named model')
    """
    names = [name for name in sorted({*expected, *found}) if _clause(expected, name) != _clause(found, name)]
    wanted, held = (
        _NAMELESS
        if _BARE_ENTRY in names and _BARE_ENTRY in side
        else " and ".join(f"{_clause(side, name):.200}" for name in names if name != _BARE_ENTRY)
        for side in (expected, found)
    )
    return wanted, held


def _clause(identity: Mapping[str, Any], name: str) -> str:
    if name not in identity:
        return f"no {name}"
    if name == "model" and set(identity.get(name) or ()) == {"name", "revision"}:
        return f"model {model_text(identity) or canonical_json(identity[name])}"
    return f"{name} {canonical_json(identity[name])}"


def sibling(path: str | Path, identity: Mapping[str, Any]) -> Path:
    """Return the sibling for an identity if ``path`` has another identity: ``<path>@<12 hex digits>``.

    Example:
        >>> sibling("cache", {"model": {"name": "n", "revision": "r"}}).name
        'cache@c5d9d15a5a70'
    """
    path = Path(path)
    return with_suffix(path, f"@{digest(identity)[:12]}")
