"""The configuration of a framework's object, as part of the identity of its vectors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dejavec.support.secret_names import is_secret

NO_VECTOR = frozenset(
    {"batch_size", "chunk_size", "embed_batch_size", "num_proc", "num_workers", "parallel", "threads"}
    | {"cache_dir", "cache_folder", "device", "progress_bar", "show_progress", "show_progress_bar", "verbose"}
    | {"cuda", "device_id", "device_ids", "lazy_load", "providers"}
    | {"max_retries", "retry_max_seconds", "retry_min_seconds", "request_timeout", "timeout", "user_agent"}
    | {"callback_manager", "callbacks", "default_headers", "embeddings_cache", "headers", "http_client"}
    | {"http_client_kwargs", "metadata", "rate_limiter", "reuse_client", "tags"}
)
"""Settings that change no vector: speed, retries, connections, and what is shown."""

_CREDENTIALS = re.compile(r"(?<=://)[^/?#@]*@|[?#].*\Z")
"""User, password, query and fragment of an address."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MOST_ENTRIES = 1_000
_MOST_CHARACTERS = 10_000
_DEEPEST = 4
_ABSENT = object()


def config_of(model: object) -> dict[str, Any]:
    """Return the class of an object, and those of its public settings that are JSON values.

    Secrets, and settings that change no vector, are left out. So are settings that are None: a later version
    of a library may add one. Other objects, such as clients, count by their class.

    Args:
        model: a pydantic model, whose declared fields are its settings; or any object, by its attributes.

    Example:
        >>> import types
        >>> config_of(types.SimpleNamespace(model="small", api_key="k", timeout=3, url="http://me:k@host/v1"))
        {'class': 'types.SimpleNamespace', 'settings': {'model': 'small', 'url': 'http://host/v1'}}
    """
    return {"class": class_name(model), "settings": json_form(dict(_settings_of(model)))}


def json_form(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those entries of a mapping that are JSON values and may change vectors, without secrets.

    Example:
        >>> json_form({"model": "small", "token": "k", "fn": len, "batch_size": 4, "of": {"layers": (1, 2)}})
        {'model': 'small', 'of': {'layers': [1, 2]}}
    """
    form: dict[str, Any] = _form(settings, 0)
    return form


def class_name(model: object) -> str:
    """Return the name of an object's class, with its module."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def plain_address(text: str) -> str:
    """Return an address without user, password, query and fragment. Other texts do not change.

    Example:
        >>> plain_address("https://me:secret@host:8000/v1?key=secret"), plain_address("a text?")
        ('https://host:8000/v1', 'a text?')
    """
    return _CREDENTIALS.sub("", text) if _ADDRESS.match(text) else text


def _settings_of(model: object) -> Iterator[tuple[str, Any]]:
    declared = getattr(type(model), "model_fields", None)
    names = declared if isinstance(declared, Mapping) else getattr(model, "__dict__", {})
    for name in sorted(names):
        if not name.startswith("_"):
            yield name, getattr(model, name, None)


def _form(value: object, depth: int) -> Any:
    """Return the JSON form of a value; ``_ABSENT`` for a value without one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_address(str(value)) if len(value) <= _MOST_CHARACTERS else _ABSENT
    if type(value) in (int, float):
        return value
    if depth > _DEEPEST:
        return _ABSENT
    if isinstance(value, Mapping):
        if len(value) > _MOST_ENTRIES:
            return _ABSENT
        entries = {
            name: _form(part, depth + 1)
            for name, part in value.items()
            if isinstance(name, str) and part is not None and name not in NO_VECTOR and not is_secret(name)
        }
        return {name: part for name, part in entries.items() if part is not _ABSENT}
    if isinstance(value, list | tuple):
        if len(value) > _MOST_ENTRIES:
            return _ABSENT
        return [part for part in (_form(part, depth + 1) for part in value) if part is not _ABSENT]
    return _ABSENT
