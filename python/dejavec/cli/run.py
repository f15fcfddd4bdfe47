"""``dejavec run``: see :mod:`dejavec.drop_in.run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from dejavec.cli.verb import Outcome, PathType, Verb

_MODULE = "-m"


class _RunVerb(Verb):
    """All words after the script, or after the module, are its own, even ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse our own words only."""
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != _MODULE:
            at += 2 if args[at] == "--cache" else 1
        if args[at : at + 1] == [_MODULE]:
            at += 2
        ctx.meta["words"] = args[at:]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return what follows the name of the command in its usage."""
        return [*super().collect_usage_pieces(ctx), "(SCRIPT | -m MODULE) [ARGUMENT]..."]


@click.command("run", cls=_RunVerb)
@click.option(
    "--cache", type=PathType(), metavar="DIR", help="Cache each model that mteb builds, below this directory."
)
@click.option(_MODULE, "module", metavar="MODULE", help="Run a module, as python -m does.")
@click.pass_context
def command(context: click.Context, *, cache: Path | None, module: str | None) -> Outcome:
    """Run a script written for mteb's cache with dejavec's.

    Runs a Python script as `python SCRIPT ...` does, or a module as `python -m MODULE ...` does, with
    dejavec's cache instead of mteb's, also under the names of mteb 1.x. The script needs no change. With
    --cache, each model that mteb builds is cached, so that mteb's own command line is cached too:
    `dejavec run --cache DIR -m mteb run ...`.
    """
    from dejavec.drop_in.run import run

    words = list(context.meta["words"])
    if module is not None:
        return partial(run, module, words, is_module=True, cache=cache)
    if not words:
        raise click.UsageError("Missing argument 'SCRIPT'.")
    return partial(run, words[0], words[1:], cache=cache)
