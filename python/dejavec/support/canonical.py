"""JSON in the one form that equal values share."""

from __future__ import annotations

import json
from collections.abc import Mapping


def canonical_json(value: object) -> str:
    """Write ``value`` as JSON in the one form that equal values share.

    Args:
        value: dicts with string keys, lists and tuples (written as lists), strings, finite numbers,
            booleans and None.

    Returns:
        ASCII text with sorted keys and no spaces.

    Raises:
        TypeError: a part of ``value`` has no JSON form: NaN, infinity, a key that is no string, other types.

    Example:
        >>> canonical_json({"b": [1, 2.5], "a": None})
        '{"a":null,"b":[1,2.5]}'
    """
    _check_keys(value)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise TypeError(f"expected finite numbers, found NaN or infinity: {error}") from None


def _check_keys(value: object) -> None:
    """Refuse keys that ``json`` would turn into strings, where ``1`` and ``"1"`` become one."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise TypeError(f"expected string keys, found {key!r} ({type(key).__name__})")
            _check_keys(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_keys(part)
