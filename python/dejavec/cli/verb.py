"""A command of the program, and the parameters that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dejavec.errors import DejavecError, LockTimeoutError, sentence

Outcome = int | Callable[[], int]
"""What a command returns: the exit status; or what is left to run outside of the program's own handlers."""


class Verb(click.Command):
    """A command that returns an :data:`Outcome`.

    Args:
        kept: what the message after an interrupt says, which has to be true at any moment.
        document: the dataclass that ``--json`` prints; None if there is no such option.
        **settings: those of ``click.Command``.
    """

    def __init__(
        self, *, kept: str = "nothing was changed", document: type | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.kept = kept
        self.document = document
        if document is not None:
            self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."))


def verb(
    name: str, *, kept: str = "nothing was changed", document: type | None = None, reads: bool = False
) -> Callable[[Callable[..., Outcome]], Verb]:
    """Return a decorator that makes a function the body of a command: see :class:`Verb`.

    The function's docstring is the help. With ``reads``, it goes on with the formats of FILE.
    """

    def decorate(function: Callable[..., Outcome]) -> Verb:
        text = inspect.cleandoc(function.__doc__ or "") + (f"\n\n{_FILE}" if reads else "")
        return click.command(name, cls=Verb, kept=kept, document=document, help=text)(function)

    return decorate


def told(error: DejavecError) -> str:
    """Return what the program says of an error."""
    if isinstance(error, LockTimeoutError):
        # The remedy of the library is an argument that no command has.
        return sentence(error.where, remedy="run it again when that process is done")
    return str(error)


class PathType(click.Path):
    """A path as the caller wrote it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


def path_argument(name: str, metavar: str, **settings: Any) -> Callable[[Any], Any]:
    """Return the decorator for an argument that is a path."""
    return click.argument(name, metavar=metavar, type=PathType(), **settings)


DRY_RUN = click.option("--dry-run", "-n", is_flag=True, help="Say what would be written, and write nothing.")
"""The option of commands that write."""

COLUMN = click.option(
    "--column", metavar="NAME", default="text", show_default=True, help="The column of FILE with the texts."
)
"""The option of commands that read FILE."""

_FILE = (
    "FILE is .txt (a text a line), .jsonl, .csv, .tsv, .parquet, a data set directory (save_to_disk), "
    "or - for lines on standard input."
)
"""The last sentence of the help of commands that read FILE."""
