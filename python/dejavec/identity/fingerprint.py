"""Python values as JSON that is the same in every process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import sys
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from dejavec.support.canonical import canonical_json

_RUNTIME_CONFIG = ("_name_or_path", "name_or_path", "transformers_version")
"""Entries of a model's configuration that say where it is stored, not what it computes."""


def describe(value: object) -> Any:
    """Return ``value`` as JSON, equal for equal values in every process.

    Types that JSON lacks become objects with one key that begins with ``$``. Functions are described by their
    code, so that an edited function differs.

    Raises:
        TypeError: the value, or a part of it, has no JSON form.

    Example:
        >>> describe({"dtype": np.dtype("float16"), "layers": (1, 2)})
        {'dtype': {'$dtype': '<f2'}, 'layers': {'$tuple': [1, 2]}}
    """
    if isinstance(value, Enum):
        return {"$enum": f"{_qualified(type(value))}.{value.name}"}
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is str:
        return value if _is_unicode(value) else {"$surrogates": value.encode("utf-8", "surrogatepass").hex()}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {_escaped(key): describe(part) for key, part in value.items()}
    if type(value) is list:
        return [describe(part) for part in value]
    if type(value) is tuple:
        return {"$tuple": [describe(part) for part in value]}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((describe(part) for part in value), key=canonical_json)}
    if isinstance(value, bytes):
        return {"$bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    return _describe_number(value) or _describe_code(value) or _describe_fields(value)


def sha256_of(value: object) -> str:
    """Return the SHA-256 of :func:`describe` of ``value``, as 64 hex digits.

    Raises:
        TypeError: see :func:`describe`.
    """
    return hashlib.sha256(canonical_json(describe(value)).encode("ascii")).hexdigest()


def class_code(maker: object) -> str | None:
    """Return a digest of the functions of a class, which changes with their code; None if it is no class."""
    if not isinstance(maker, type):
        return None
    functions = [
        [_qualified(parent), name, _loosely(member)]
        for parent in maker.__mro__
        for name, member in sorted(vars(parent).items())
        if isinstance(member, types.FunctionType)
    ]
    return sha256_of(functions)


def is_module(value: object) -> bool:
    """Return whether this is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _describe_number(value: object) -> Any:
    """Describe a value of NumPy or torch; None for other values."""
    if isinstance(value, np.dtype):
        return {"$dtype": value.str}
    if isinstance(value, np.generic | np.ndarray):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"expected numbers, found an array of {array.dtype}")
        return {"$array": [array.dtype.str, list(np.shape(value)), hashlib.sha256(array.data).hexdigest()]}
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return {"$torch": str(value)}
    return None


def _describe_code(value: object) -> Any:
    """Describe a class or function; None for other values."""
    if isinstance(value, type | types.BuiltinFunctionType):
        return {"$name": _qualified(value)}
    if isinstance(value, functools.partial):
        return {"$partial": [describe(value.func), describe(list(value.args)), describe(value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"$method": [describe(value.__func__), describe(value.__self__)]}
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [
            code_form(value.__code__),
            describe(value.__defaults__),
            describe(value.__kwdefaults__),
            describe(cells),
        ]
        return {"$code": sha256_of(parts)}
    return None


def _describe_fields(value: object) -> Any:
    """Describe an object that lists its fields: a dataclass, pydantic model or transformers configuration.

    Raises:
        TypeError: the object lists no fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        contents: object = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(type(value), "model_dump"):
        contents = value.model_dump()  # type: ignore[attr-defined]
    elif type(value).__module__.startswith("transformers.") and hasattr(value, "to_dict"):
        contents = value.to_dict()
    else:
        raise TypeError(f"no stable form is known for {_qualified(type(value))}")
    return {"$object": [_qualified(type(value)), describe(contents)]}


def code_form(code: types.CodeType) -> list[Any]:
    """Return compiled code as JSON, without file names and line numbers."""
    constants = [
        code_form(part) if isinstance(part, types.CodeType) else describe(_plain(part))
        for part in code.co_consts
    ]
    return [
        code.co_code.hex(),
        constants,
        list(code.co_names),
        list(code.co_varnames),
        list(code.co_freevars),
    ]


def _plain(constant: object) -> object:
    """Return a constant of compiled code, with types that only occur there as text."""
    return repr(constant) if isinstance(constant, complex) or constant is Ellipsis else constant


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _escaped(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"expected string keys, found {key!r} ({type(key).__name__})")
    return f"${key}" if key.startswith("$") else key


def _qualified(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def _loosely(value: Any) -> Any:
    """Describe a configuration. A part without a stable form is described by its type."""
    if isinstance(value, Mapping):
        return {str(key): _loosely(part) for key, part in value.items() if key not in _RUNTIME_CONFIG}
    if isinstance(value, list | tuple):
        return [_loosely(part) for part in value]
    try:
        return describe(value)
    except TypeError:
        return {"$type": _qualified(type(value))}
