"""The command line: ``dejavec`` or ``python -m dejavec``."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click
from click.shell_completion import shell_complete

from dejavec._core import __version__
from dejavec.cli.verb import Outcome, Verb, told
from dejavec.errors import DejavecError

_COMMANDS = {
    "ls": "dejavec.cli.ls",
    "info": "dejavec.cli.info",
    "search": "dejavec.cli.searching",
    "verify": "dejavec.cli.verify",
    "plan": "dejavec.cli.plan",
    "fill": "dejavec.cli.fill",
    "rm": "dejavec.cli.rm",
    "prune": "dejavec.cli.prune",
    "compact": "dejavec.cli.compact",
    "merge": "dejavec.cli.merging",
    "copy": "dejavec.cli.copying",
    "push": "dejavec.cli.pushing",
    "pull": "dejavec.cli.pulling",
    "publish": "dejavec.cli.publishing",
    "tidy": "dejavec.cli.tidying",
    "import": "dejavec.cli.importing",
    "export": "dejavec.cli.exporting",
    "map": "dejavec.cli.mapping",
    "run": "dejavec.cli.run",
    "demo": "dejavec.cli.demo",
    "completion": "dejavec.cli.completion",
}
"""The commands in the order of the help, each with the module that defines it as ``command``."""

_ALIASES = {"stats": "info"}
"""Older names of commands."""

COMPLETE = "_DEJAVEC_COMPLETE"
"""The variable by which a shell asks for completions."""

_INTERRUPTED = 130


class _Program(click.Group):
    """The group of all commands. The module of a command is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return their names, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Verb | None:  # noqa: ARG002
        """Return one of them, also by an older name."""
        module = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        return None if module is None else importlib.import_module(module).command


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="dejavec", message="%(prog)s %(version)s")
def program() -> None:
    """An embedding cache: embed once, never again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; None: the arguments of this process.

    Returns:
        The exit status: 0; 1 for a failure; 2 for a wrong call; 130 after an interrupt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] != ["run"]:  # The streams of a script stay as they are.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # Names and prompts may hold characters that the terminal's encoding lacks.
                stream.reconfigure(errors="backslashreplace")
    outcome = _guarded(words)
    # Outside of the handlers: the exceptions of a script are its own.
    return outcome() if callable(outcome) else outcome


def _guarded(words: list[str]) -> Outcome:
    """Run a command, and answer everything that a user can cause with one sentence."""
    context: click.Context | None = None
    try:
        if COMPLETE in os.environ:
            return shell_complete(program, {}, "dejavec", COMPLETE, os.environ[COMPLETE])
        with program.make_context("dejavec", words) as context:
            outcome: Outcome = program.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DejavecError as error:
        _say(told(error))
        return 1
    except (KeyboardInterrupt, click.Abort):
        _say(f"interrupted; {_kept(context)}")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of the output, such as `head`, closed it.
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else "the output could not be written: "
        _say(f"{where}{error.strerror or error}")
        return 1
    return outcome


def _kept(context: click.Context | None) -> str:
    """Return what the interrupted command keeps."""
    name = None if context is None else context.invoked_subcommand
    found = None if context is None or name is None else program.get_command(context, name)
    return "nothing was changed" if found is None else found.kept


def _say(message: str) -> None:
    print(f"dejavec: {message}", file=sys.stderr)


def _drop_output() -> None:
    """Discard the rest of the output, which the interpreter would flush when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
