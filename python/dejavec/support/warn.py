"""The one way to warn: at the line of the caller, not of the library."""

from __future__ import annotations

import sys
import warnings

from dejavec.errors import DejavecWarning, sentence

_LIBRARIES = ("dejavec", "mteb")
"""Packages that a warning steps out of. mteb is one, since it calls the wrapper for the user."""

_IMPORTING = ("importlib._bootstrap", "importlib._bootstrap_external")
"""Frames that ``warnings`` does not count."""


def warn(
    where: object,
    *,
    expected: str | None = None,
    found: str | None = None,
    remedy: str | None = None,
) -> None:
    """Issue a ``DejavecWarning`` that names the line from which the library was called.

    The arguments are those of :func:`dejavec.errors.sentence`.
    """
    frame, level = sys._getframe(1), 1
    first_outside = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module not in _IMPORTING:
            level += 1
            package = module.partition(".")[0]
            if package != "dejavec" and first_outside is None:
                first_outside = level
            if package not in _LIBRARIES:
                break
        frame = frame.f_back  # type: ignore[assignment]
    else:
        level = first_outside or 2
    message = sentence(where, expected=expected, found=found, remedy=remedy)
    warnings.warn(message, DejavecWarning, stacklevel=level)
