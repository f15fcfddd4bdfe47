"""The arguments of a cached function, as part of the identity of its vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

from dejavec.support.canonical import canonical_json

_NO_IDENTITY = object()


def argument_form(value: object, where: str) -> Any:
    """Return an argument as JSON.

    Args:
        value: a string, number, boolean, None, or a list, tuple or dict of these; a dataclass of them.
        where: names the argument in a message.

    Raises:
        TypeError: the value has no JSON form.

    Example:
        >>> argument_form((1, "a"), "embed(): argument 'prompt'")
        [1, 'a']
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _of_dataclass(value, where)
    try:
        canonical_json(value)
    except TypeError:
        raise TypeError(
            f"{where}: expected text, numbers, or lists and dicts of them, as it is part of the cache's "
            f"identity, found {type(value).__name__}; bind it with functools.partial, and name it in "
            "model= or identity="
        ) from None
    return list(value) if isinstance(value, tuple) else value


def self_form(value: object, where: str) -> Any:
    """Return the JSON form of an object: its ``cache_identity``, the name of a class, or dataclass fields.

    Raises:
        TypeError: the object has none of these.
    """
    made = value if isinstance(value, type) else type(value)
    name = f"{made.__module__}.{made.__qualname__}"
    said = getattr(value, "cache_identity", _NO_IDENTITY)
    if said is not _NO_IDENTITY and not callable(said):
        return {"class": name, "identity": argument_form(said, f"{where}.cache_identity")}
    if isinstance(value, type):
        return {"class": name}
    if dataclasses.is_dataclass(value):
        return _of_dataclass(value, where)
    raise TypeError(
        f"{where}: expected an object that says which vectors it makes, found {made.__qualname__} without "
        "cache_identity; give it this attribute, a JSON value of all that changes its vectors, or make it a "
        "dataclass"
    )


def _of_dataclass(value: Any, where: str) -> dict[str, Any]:
    made = type(value)
    fields = {
        field.name: argument_form(getattr(value, field.name), f"{where}.{field.name}")
        for field in dataclasses.fields(value)
    }
    return {"class": f"{made.__module__}.{made.__qualname__}", "fields": fields}
