"""Objects that are skipped, and why: what lies in a bucket is believed only if it is whole and in form."""

from __future__ import annotations

from dataclasses import dataclass


class DefectError(Exception):
    """An object is not in the form of a shared cache. The message says what is wrong."""


@dataclass(frozen=True)
class Skipped:
    """An object that was left out.

    Attributes:
        name: its name below the address.
        reason: why.
    """

    name: str
    reason: str
