"""The versions of mteb that are supported."""

from __future__ import annotations

import importlib.metadata
import re

from dejavec.errors import MissingPackageError

LOWEST = (2, 20)
"""The oldest tested version. Versions 2.0 to 2.12 lack names that the wrapper needs."""


def check_mteb() -> None:
    """Check that a supported mteb is installed.

    Raises:
        MissingPackageError: mteb is too old or not installed.
    """
    expected, remedy = f"mteb {LOWEST[0]}.{LOWEST[1]} or later", "pip install --upgrade 'dejavec[mteb]'"
    try:
        found = importlib.metadata.version("mteb")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if numbers < LOWEST:
        raise MissingPackageError("dejavec's cache for mteb", expected=expected, found=found, remedy=remedy)
