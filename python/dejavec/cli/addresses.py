"""Addresses of object stores on the command line, and what is skipped there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from dejavec.cli.tables import printable
from dejavec.remote.defects import Skipped
from dejavec.remote.urls import split

_SHOWN = 10


class _Address(click.ParamType):  # type: ignore[type-arg]  # older releases of click have no parameter
    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check an address."""
        try:
            split(value)
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)
        return str(value)


URL = click.argument("url", metavar="URL", type=_Address())
"""The argument of commands that share."""


def shown_skips(skipped: Sequence[Skipped]) -> str:
    r"""Return what was skipped as lines.

    Example:
        >>> shown_skips([Skipped("notes.txt", "foreign")])
        '  skipped notes.txt: foreign\n'
    """
    lines = [f"  skipped {printable(one.name)}: {printable(one.reason)}\n" for one in skipped[:_SHOWN]]
    if len(skipped) > _SHOWN:
        lines.append(f"  and {len(skipped) - _SHOWN:,} more, which --json names\n")
    return "".join(lines)
