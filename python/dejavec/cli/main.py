"""The command line: ``dejavec`` or ``python -m dejavec``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dejavec._core import __version__
from dejavec.errors import DejavecError

_KEPT = {
    "demo": "vectors encoded before the last ten seconds are kept; run it again to continue",
    "import": "what was imported is kept; run it again to continue",
    "export": "nothing was exported; run it again",
    "verify": "an interrupted repair is completed by the next one",
}
"""Messages after an interrupt: what each command keeps."""


_DEMO_SIZES = {"documents": (3000, 300), "queries": (1000, 100)}
"""How many texts the demo has, with a dense model and with another one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; None: the arguments of this process.

    Returns:
        The exit status: 0, 1 for a failure, 2 for a wrong call.
    """
    options = _parser().parse_args(arguments)
    if options.command == "run":
        # Outside the try: exceptions of the script are not caught here.
        from dejavec.drop_in.run import run

        return run(options.script, options.arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names and prompts may hold characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = int(_COMMANDS[options.command](options))
        sys.stdout.flush()
    except DejavecError as error:
        print(f"dejavec: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"dejavec: interrupted; {_KEPT.get(options.command, 'nothing was changed')}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output, such as `head`, closed it.
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        print(f"dejavec: the output could not be written: {error.strerror or error}", file=sys.stderr)
        return 1
    return status


def _drop_output() -> None:
    """Discard the rest of the output, which the interpreter would flush when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dejavec", description="An embedding cache: embed once, never again."
    )
    parser.add_argument("--version", action="version", version=f"dejavec {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="evaluate a model with mteb: uncached, with a cold cache, with a warm cache",
        description="Evaluate a model with mteb three times (without the cache, with a cold cache, with a "
        "warm cache), and compare scores, vectors and times. By default all-MiniLM-L6-v2 searches the "
        "docstrings of Python's standard library, and no network is used.",
    )
    demo.add_argument(
        "--cache", type=Path, default=Path("demo-cache"), metavar="DIR", help="default: %(default)s"
    )
    demo.add_argument("--task", metavar="NAME", help="any task that mteb knows")
    demo.add_argument("--model", metavar="NAME", help="any model that mteb can load")
    demo.add_argument(
        "--kind",
        choices=("dense", "multi-vector", "sparse"),
        default="dense",
        help="what the default model returns: one vector a text, one a token, or a sparse one "
        "(the last two with random weights, so their scores mean nothing); default: %(default)s",
    )
    for name, (dense, other) in _DEMO_SIZES.items():
        demo.add_argument(
            f"--{name}",
            type=_positive,
            metavar="N",
            help=f"default: {dense}, or {other} if --kind is not dense",
        )
    demo.add_argument("--compare", action="store_true", help="run mteb's own cache too")

    listing = commands.add_parser(
        "ls",
        help="list the caches below a directory",
        description="List all caches at and below a directory, with model, settings, number of rows and "
        "size. The status is 1 if a cache cannot be opened.",
    )
    listing.add_argument("directory", type=Path, metavar="DIR", nargs="?", default=Path(), help="default: .")

    stats = commands.add_parser(
        "stats",
        help="print counts, sizes and identity of a cache",
        description="Print the counts and sizes of one cache, and which model and settings made its vectors.",
    )
    stats.add_argument("cache", type=Path, metavar="DIR")

    verify = commands.add_parser(
        "verify",
        help="check every row and file of a cache",
        description="Check every row and file of a cache, and list the damaged ones. With --repair, damaged "
        "rows become misses, and files that can be rebuilt from the others are rebuilt. The status is 1 if "
        "anything is still damaged.",
    )
    verify.add_argument("cache", type=Path, metavar="DIR")
    verify.add_argument("--repair", action="store_true", help="repair a damaged cache")
    verify.add_argument("--force", action="store_true", help="repair it even if most rows are damaged")
    verify.add_argument(
        "--allow-network",
        action="store_true",
        help="repair it on a network file system, whose locks may not hold",
    )

    importing = commands.add_parser(
        "import",
        help="import the vectors of a cache that mteb wrote",
        description="Import the vectors of one cache that mteb 1 or 2 wrote, or of all below a directory, "
        "into caches of dejavec. The old files are only read. Vectors that may be wrong are left out, and "
        "the reason is printed.",
    )
    importing.add_argument("old", type=Path, metavar="OLD")
    importing.add_argument("new", type=Path, metavar="NEW")
    importing.add_argument(
        "--model", required=True, metavar="NAME@REVISION", help="which model made the vectors"
    )
    importing.add_argument("--trust", action="store_true", help="also import vectors that may be wrong")

    exporting = commands.add_parser(
        "export",
        help="write the vectors as a cache that mteb loads",
        description="Write the vectors of a cache, or of all below a directory, as caches that mteb's "
        "NumpyCache loads.",
    )
    exporting.add_argument("source", type=Path, metavar="NEW")
    exporting.add_argument("target", type=Path, metavar="OLD")
    exporting.add_argument("--format", choices=["mteb"], default="mteb", help="default: %(default)s")

    run = commands.add_parser(
        "run",
        help="run a script written for mteb's cache with dejavec's instead",
        description="Run a Python script as `python SCRIPT ...` does, with dejavec's cache instead of "
        "mteb's, also under the names of mteb 1.x. The script needs no change.",
    )
    run.add_argument("script", metavar="SCRIPT")
    run.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="the script's own arguments")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {number}")
    return number


def _demo(options: argparse.Namespace) -> int:
    # The libraries read these variables when they are imported.
    if options.task is None and options.model is None:
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            os.environ.setdefault(variable, "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from dejavec.demo.evaluate import Options, demo
    except ModuleNotFoundError as error:
        print(f"dejavec demo needs {error.name}: pip install 'dejavec[demo]'", file=sys.stderr)
        return 1
    is_dense = options.kind == "dense"
    sizes = {
        name: getattr(options, name) or (dense if is_dense else other)
        for name, (dense, other) in _DEMO_SIZES.items()
    }
    return demo(
        Options(
            cache=options.cache,
            task=options.task,
            model=options.model,
            kind=options.kind,
            **sizes,
            compare=options.compare,
        )
    )


def _ls(options: argparse.Namespace) -> int:
    from dejavec.cli.listing import ls_command

    return ls_command(options.directory)


def _stats(options: argparse.Namespace) -> int:
    from dejavec.cli.listing import stats_command

    return stats_command(options.cache)


def _verify(options: argparse.Namespace) -> int:
    from dejavec import EmbeddingCache, _core
    from dejavec.support.core_errors import repair_command

    path = str(options.cache)
    if options.repair:
        found = EmbeddingCache.repair(
            options.cache.absolute(), force=options.force, allow_network=options.allow_network
        )
    else:
        found = _core.verify(path)
    damaged, problems, texts = found["damaged"], found["problems"], found["damaged_texts"]
    counts = ", ".join(f"{found[name]:,} {name}" for name in ("rows", "keys", "replaced", "dead"))
    print(f"{path}: {counts}, {len(damaged):,} damaged")
    if found["texts"] or texts:
        print(f"  {found['texts']:,} rows with a text, {len(texts):,} damaged texts")
    for problem in problems:
        print(f"  {problem}")
    if damaged:
        print(f"  damaged rows: {', '.join(map(str, damaged))}")
    if texts:
        print(f"  sound rows with a damaged text: {', '.join(map(str, texts))}")
    if not damaged and not problems and not texts:
        return 0
    if not options.repair:
        print(f"  repair it with: {repair_command(path)}")
        return 1
    left = _core.verify(path)
    print(f"  repaired; {left['keys']:,} keys are left")
    return 1 if left["damaged"] or left["problems"] or left["damaged_texts"] else 0


def _import(options: argparse.Namespace) -> int:
    from dejavec.mteb.migrate.importer import import_command

    return import_command(options.old, options.new, options.model, trust=options.trust)


def _export(options: argparse.Namespace) -> int:
    from dejavec.mteb.migrate.exporter import export_command

    return export_command(options.source, options.target)


_COMMANDS = {
    "demo": _demo,
    "ls": _ls,
    "stats": _stats,
    "verify": _verify,
    "import": _import,
    "export": _export,
}
