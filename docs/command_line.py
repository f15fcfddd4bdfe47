"""The pages about the command line, made of the program itself: ``python docs/command_line.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from dejavec.cli.documents import schema_of
from dejavec.cli.main import program
from dejavec.cli.verb import Verb

_PAGE = Path(__file__).with_name("command-line.md")
_JSON_PAGE = Path(__file__).with_name("command-line-json.md")
_WIDTH = 80
_HEAD = """# Command line

`dejavec` and `python -m dejavec` are the same program: a verb first, then what it reads and what it writes.

- **Exit status.** 0 if all went well. 1 if something is damaged, was refused or failed; a message of one
  sentence says what, and what to do. 2 for a wrong call, which is answered with the usage. 130 after Ctrl-C;
  the message says what is kept. `dejavec run` ends as its script does.
- **Output.** Tables fit the terminal. In a pipe they are plain columns, and nothing is shortened. Progress is
  shown on a terminal alone, on standard error.
- **`--json`** prints one JSON object instead. [Its form](command-line-json.md) may gain entries in a release;
  it loses none without a line in the changelog.
- **Completion.** Add `eval "$(dejavec completion bash)"` to `~/.bashrc`, the same with `zsh` to `~/.zshrc`,
  or run `dejavec completion fish | source`.
"""
_JSON_HEAD = """# JSON of the command line

Each command with `--json` prints one object of this form, as a [JSON Schema](https://json-schema.org).
Paths are as they were given, times are ISO 8601 in UTC, and sizes are bytes.
"""


def page() -> str:
    """Return the page about the commands."""
    parts = [_HEAD, f"```text\n{_help(program, 'dejavec')}\n```\n"]
    parts += [
        f"## dejavec {name}\n\n```text\n{_help(command, f'dejavec {name}')}\n```\n"
        for name, command in _commands()
    ]
    return "\n".join(parts)


def json_page() -> str:
    """Return the page about their JSON."""
    parts = [_JSON_HEAD]
    for name, command in _commands():
        if command.document is not None:
            schema = json.dumps(schema_of(command.document), indent=2)
            parts.append(f"## dejavec {name}\n\n```json\n{schema}\n```\n")
    return "\n".join(parts)


def _commands() -> Iterator[tuple[str, Verb]]:
    context = click.Context(program)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert isinstance(command, Verb)
        yield name, command


def _help(command: click.Command, name: str) -> str:
    settings = {"help_option_names": ["-h", "--help"], **command.context_settings}
    return command.get_help(click.Context(command, info_name=name, terminal_width=_WIDTH, **settings))


if __name__ == "__main__":
    _PAGE.write_text(page(), encoding="utf-8")
    _JSON_PAGE.write_text(json_page(), encoding="utf-8")
