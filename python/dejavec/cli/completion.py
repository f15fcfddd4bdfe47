"""``dejavec completion``: the script that teaches a shell our words."""

from __future__ import annotations

import click

from dejavec.cli.verb import verb


@verb("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> int:
    """Print a script that completes commands and options.

    SHELL is bash, zsh or fish. For bash and zsh, add this line to ~/.bashrc or ~/.zshrc:
    eval "$(dejavec completion bash)". For fish: dejavec completion fish | source.
    """
    from click.shell_completion import get_completion_class

    from dejavec.cli.main import COMPLETE, program

    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(program, {}, "dejavec", COMPLETE).source())
    return 0
