"""``dejavec run``: see :mod:`dejavec.drop_in.run`."""

from __future__ import annotations

from functools import partial

import click

from dejavec.cli.verb import Outcome, Verb


@click.command("run", cls=Verb, context_settings={"allow_interspersed_args": False})
@click.argument("script", metavar="SCRIPT")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1, type=click.UNPROCESSED)
def command(*, script: str, arguments: tuple[str, ...]) -> Outcome:
    """Run a script written for mteb's cache with dejavec's.

    Runs a Python script as `python SCRIPT ...` does, with dejavec's cache instead of mteb's, also under the
    names of mteb 1.x. The script needs no change.
    """
    from dejavec.drop_in.run import run

    return partial(run, script, arguments)
