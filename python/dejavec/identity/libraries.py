"""What is an installed library's, and what is the user's own.

A library's code is told by its version, so it is not looked into. All other code may change between two runs.
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
"""Directories that packages are installed into."""


def is_library(module: object) -> bool:
    """Tell whether a module belongs to an installed library or to Python.

    Args:
        module: its name, as ``__module__`` of a class has it; None, as of some builtins, is Python's.

    Example:
        >>> is_library("json"), is_library("numpy"), is_library("__main__")
        (True, True, False)
    """
    if not isinstance(module, str):
        return module is None
    return _is_library_name(module, getattr(sys.modules.get(module), "__file__", None))


def is_library_function(function: types.FunctionType) -> bool:
    """Tell whether a function was written in a library.

    A decorator copies ``__module__`` from what it wraps, so that does not count.
    """
    return is_library(function.__globals__.get("__name__"))


def holds_custom(function: types.FunctionType) -> bool:
    """Tell whether a library's decorator was put around a function of no library."""
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
    if name.partition(".")[0] in sys.stdlib_module_names or name.partition(".")[0] == "dejavec":
        return True
    return file is not None and str(Path(file).resolve()).startswith(_ROOTS)
