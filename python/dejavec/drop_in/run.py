"""``dejavec run``: runs a script as Python does, with dejavec's cache instead of mteb's."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from dejavec.drop_in.install import install


def run(script: str, arguments: Sequence[str]) -> int:
    """Run a script as ``python script arguments`` does, after :func:`dejavec.install`.

    From here on the process belongs to the script. ``__main__``, ``sys.argv`` and ``sys.path[0]`` stay the
    script's until the process ends, also for threads and exit handlers. Children started by
    ``multiprocessing`` have dejavec's cache too, with any start method. Other programs that the script
    starts do not have it.

    :mod:`runpy` is not used: it restores ``__main__`` too early, and leaves its own frames in tracebacks.

    Args:
        script: the path of a Python source file.
        arguments: the script's ``sys.argv[1:]``.

    Returns:
        The exit status: 0, or 2 if the script cannot be read.

    Raises:
        BaseException: any exception of the script, ``SystemExit`` included. The printed traceback has only
            frames of the script.
    """
    path = Path.cwd() / script
    try:
        source = path.read_bytes()
    except OSError as error:
        print(f"dejavec run: cannot read the script {script}: {error.strerror}", file=sys.stderr)
        return 2
    main = ModuleType("__main__")
    main.__file__ = str(path)
    main.__loader__ = SourceFileLoader("__main__", str(path))
    vars(main)["__cached__"] = None
    sys.modules["__main__"] = main
    sys.argv[:] = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = str(path.resolve().parent)
    _install_here_and_in_children()
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(main))
    except BaseException as error:
        _print_without_this_frame(error)
        raise
    return 0


def _print_without_this_frame(error: BaseException) -> None:
    """If the exception ends the process, print it without the frame of this module.

    The interpreter prints it, and chooses the exit status or signal.
    """
    trace = error.__traceback__ and error.__traceback__.tb_next
    hook = sys.excepthook

    def excepthook(kind: type[BaseException], value: BaseException, whole: TracebackType | None) -> None:
        if value is error:
            hook(kind, value.with_traceback(trace), trace)
        else:
            hook(kind, value, whole)

    sys.excepthook = excepthook


def _install_here_and_in_children() -> None:
    """Install in this process, its ``multiprocessing`` children, their children, and so on.

    A forked child inherits the installation. A spawned child is a new interpreter: it unpickles its
    preparation data, then imports the script. Our entry in this data installs when it is unpickled. A fork
    server gets no such data, so it must not preload the script for its children.
    """
    install()
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload([])
    prepare: Callable[[str], dict[str, Any]] = multiprocessing.spawn.get_preparation_data
    multiprocessing.spawn.get_preparation_data = lambda name: {**prepare(name), "dejavec": _InstallWhenRead()}


class _InstallWhenRead:
    """Unpickling it in a child process calls :func:`install` there."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _install_here_and_in_children, ()
