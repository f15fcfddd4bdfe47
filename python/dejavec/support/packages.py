"""Packages that few need: imported when they are used, and asked for in one sentence."""

from __future__ import annotations

import importlib
from typing import Any

from dejavec.errors import MissingPackageError


def package(name: str, where: object, *, project: str | None = None) -> Any:
    """Return an imported module.

    Args:
        name: the module.
        where: what needs it, to begin an error message with.
        project: the name to install, if it is another.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name if error.name is None else error.name.partition(".")[0]
        raise MissingPackageError(
            where,
            expected=f"the package {missing}",
            found="none",
            remedy=f"pip install {project or name.partition('.')[0]}",
        ) from None
