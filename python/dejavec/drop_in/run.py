"""``dejavec run``: runs a script as Python does, with dejavec's cache instead of mteb's."""

from __future__ import annotations

import multiprocessing
import multiprocessing.spawn
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from dejavec.drop_in.install import install
from dejavec.drop_in.models import cache_models


def run(script: str, arguments: Sequence[str], *, is_module: bool = False, cache: Path | None = None) -> int:
    """Run a script as ``python script arguments`` does, after :func:`dejavec.install`.

    From here on the process belongs to the script. ``__main__``, ``sys.argv`` and ``sys.path[0]`` stay the
    script's until the process ends, also for threads and exit handlers. Children started by
    ``multiprocessing`` have dejavec's cache too, with any start method. Other programs that the script
    starts do not have it.

    :mod:`runpy` is not used: it restores ``__main__`` too early, and leaves its own frames in tracebacks.

    Args:
        script: the path of a Python source file; or the name of a module, as after ``python -m``.
        arguments: the script's ``sys.argv[1:]``.
        is_module: whether ``script`` is a module.
        cache: the directory where each model that mteb builds is cached; None: only those that the script
            wraps.

    Returns:
        The exit status: 0, or 2 if the script cannot be read.

    Raises:
        BaseException: any exception of the script, ``SystemExit`` included. The printed traceback has only
            frames of the script.
    """
    cache = None if cache is None else cache.absolute()
    main, source = _module(script, cache) if is_module else _script(script, cache)
    if source is None:
        return 2
    sys.modules["__main__"] = main
    sys.argv[:] = [str(main.__file__) if is_module else script, *arguments]
    try:
        # Compiled in this frame, which tracebacks leave out.
        code = (
            source() if callable(source) else compile(source, str(main.__file__), "exec", dont_inherit=True)
        )
        exec(code, vars(main))
    except BaseException as error:
        _print_without_this_frame(error)
        raise
    return 0


def _script(script: str, cache: Path | None) -> tuple[ModuleType, bytes | None]:
    """Return ``__main__`` for a source file, and the source; None if it cannot be read."""
    path, main = Path.cwd() / script, ModuleType("__main__")
    try:
        source = path.read_bytes()
    except OSError as error:
        print(f"dejavec run: cannot read the script {script}: {error.strerror}", file=sys.stderr)
        return main, None
    main.__file__ = str(path)
    main.__loader__ = SourceFileLoader("__main__", str(path))
    vars(main)["__cached__"] = None
    if not sys.flags.safe_path:
        sys.path[0] = str(path.resolve().parent)
    _install_here_and_in_children(cache)
    return main, source


def _module(name: str, cache: Path | None) -> tuple[ModuleType, Callable[[], CodeType] | None]:
    """Return ``__main__`` for a module or a package's ``__main__``, and a function that loads its code."""
    main = ModuleType("__main__")
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd())
    _install_here_and_in_children(cache)
    spec = _found(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _found(f"{name}.__main__")
    get_code = getattr(None if spec is None else spec.loader, "get_code", None)
    if spec is None or get_code is None:
        print(f"dejavec run: no module named {name} that can be run", file=sys.stderr)
        return main, None
    main.__spec__, main.__file__, main.__loader__ = spec, spec.origin, spec.loader
    main.__package__ = spec.parent
    vars(main)["__cached__"] = spec.cached
    return main, lambda: get_code(spec.name)


def _found(name: str) -> ModuleSpec | None:
    """Return the spec of a module; None if there is none. The packages around it are imported."""
    try:
        return find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise


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


def _install_here_and_in_children(cache: Path | None) -> None:
    """Install in this process, its ``multiprocessing`` children, their children, and so on.

    A forked child inherits the installation. A spawned child is a new interpreter: it unpickles its
    preparation data, then imports the script. Our entry in this data installs when it is unpickled. A fork
    server gets no such data, so it must not preload the script for its children.
    """
    install()
    if cache is not None:
        cache_models(cache)
    if "forkserver" in multiprocessing.get_all_start_methods():
        multiprocessing.set_forkserver_preload([])
    prepare: Callable[[str], dict[str, Any]] = multiprocessing.spawn.get_preparation_data
    multiprocessing.spawn.get_preparation_data = lambda name: {
        **prepare(name),
        "dejavec": _InstallWhenRead(cache),
    }


class _InstallWhenRead:
    """Unpickling it in a child process calls :func:`install` there."""

    def __init__(self, cache: Path | None) -> None:
        self._cache = cache

    def __reduce__(self) -> tuple[Callable[[Path | None], None], tuple[Path | None]]:
        return _install_here_and_in_children, (self._cache,)
