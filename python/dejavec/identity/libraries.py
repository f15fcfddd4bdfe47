"""Separate the code of installed libraries from user code.

The version of a library identifies its code, so library code is not examined. User code may change between
runs.
"""

from __future__ import annotations

import functools
import inspect
import sys
import sysconfig
import types
from pathlib import Path

_ROOTS = tuple(
    {str(Path(path).resolve()) + "/" for name in ("purelib", "platlib") if (path := sysconfig.get_path(name))}
)
"""Installation directories of packages."""


def is_library(module: object) -> bool:
    """Return whether a module belongs to an installed library or to Python.

    Args:
        module: its name, as in ``__module__`` of a class. Some builtins have None, which counts as Python.

    Example:
        >>> is_library("json"), is_library("numpy"), is_library("__main__")
        (True, True, False)
    """
    if not isinstance(module, str):
        return module is None
    return _is_library_name(module, getattr(sys.modules.get(module), "__file__", None))


def top_level(module: object) -> str:
    """Return the name of the top-level module that a module belongs to.

    Example:
        >>> top_level("sentence_transformers.models")
        'sentence_transformers'
    """
    return str(module).partition(".")[0]


def is_library_function(function: types.FunctionType) -> bool:
    """Return whether a function was written in a library.

    ``__module__`` does not count, since decorators copy it from the wrapped function.
    """
    return is_library(function.__globals__.get("__name__"))


def holds_custom(function: types.FunctionType) -> bool:
    """Return whether a library's decorator wraps a user's function."""
    if not function.__closure__:
        return False
    inner = inspect.unwrap(function)
    held = [inner]
    for cell in function.__closure__:
        try:
            held.append(cell.cell_contents)
        except ValueError:
            continue
    return any(isinstance(part, types.FunctionType) and not is_library_function(part) for part in held)


@functools.cache
def _is_library_name(name: str, file: str | None) -> bool:
    if name == "__main__":
        return False
    if top_level(name) in sys.stdlib_module_names or top_level(name) == "dejavec":
        return True
    return file is not None and str(Path(file).resolve()).startswith(_ROOTS)
