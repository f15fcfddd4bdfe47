"""What ``--json`` prints: frozen dataclasses, as JSON and as JSON Schema."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

_NAMES = {str: "string", Path: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
_ATTRIBUTE = re.compile(r"^        (\w+): (.+?)(?=^        \w+: |^    \S|\Z)", re.MULTILINE | re.DOTALL)


def print_json(document: Any) -> None:
    """Print a dataclass as JSON, ASCII only, so that any terminal and program can read it."""
    print(json.dumps(plain(document), indent=2))


def plain(value: Any) -> Any:
    """Return dataclasses and paths within a value as dicts and texts.

    Example:
        >>> plain([Path("a"), {"b": 1}])
        ['a', {'b': 1}]
    """
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def schema_of(document: type) -> dict[str, Any]:
    """Return the JSON Schema of a dataclass, with the descriptions in its docstring.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Point:
        ...     x: int | None
        >>> schema_of(Point)["properties"]
        {'x': {'type': ['integer', 'null']}}
    """
    hints = get_type_hints(document)
    found = {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(document.__doc__ or "")}
    properties = {
        field.name: _schema(hints[field.name])
        | ({"description": found[field.name]} if field.name in found else {})
        for field in fields(document)
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _schema(hint: Any) -> dict[str, Any]:
    if is_dataclass(hint):
        return schema_of(hint)  # type: ignore[arg-type]
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return {"type": [_NAMES[part] for part in parts]}
    if origin is list:
        return {"type": "array", "items": _schema(parts[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(parts[1])}
    return {}
