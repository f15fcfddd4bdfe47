"""dejavec's classes under the names of mteb's cache, so that code for mteb's cache uses dejavec's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

from dejavec.drop_in.versions import check_mteb

_REPLACED = (
    ("mteb.models", "CachedEmbeddingWrapper"),
    ("mteb.models.cache_wrappers", "CachedEmbeddingWrapper"),
    ("mteb.models.cache_wrappers.cache_wrapper", "CachedEmbeddingWrapper"),
    ("mteb.models.cache_wrappers.cache_wrapper", "NumpyCache"),
    ("mteb.models.cache_wrappers.cache_backends", "NumpyCache"),
    ("mteb.models.cache_wrappers.cache_backends", "FaissCache"),
    ("mteb.models.cache_wrappers.cache_backends.numpy_cache", "NumpyCache"),
    ("mteb.models.cache_wrappers.cache_backends.faiss_cache", "FaissCache"),
)
"""Every module of mteb with a class that dejavec replaces, and the name of the class."""

_OLD_MODULE = "mteb.models.cache_wrapper"
_OLD_NAMES = ("CachedEmbeddingWrapper", "TextVectorMap")
"""Where mteb 1.x had its cache."""

_ABSENT = object()


def install() -> None:
    """Replace mteb's cache by dejavec's, in this process.

    From now on, an import of ``CachedEmbeddingWrapper``, ``NumpyCache`` or ``FaissCache`` from mteb gives
    dejavec's class. The module of mteb 1.x, ``mteb.models.cache_wrapper``, can be imported too, with its
    ``CachedEmbeddingWrapper`` and ``TextVectorMap``. This function does not import mteb. If mteb is not yet
    imported, its names are replaced when something imports it. Installing twice is allowed.

    Names that were imported from mteb earlier do not change. After ``from mteb.models import
    CachedEmbeddingWrapper``, that name, its subclasses and its instances stay mteb's. So call this first. A
    child process started by ``multiprocessing`` with "spawn" or "forkserver" imports the main script again.
    So call this at the top level of the script, not below ``if __name__ == "__main__"``.

    Raises:
        MissingPackageError: mteb is older than 2.20. If mteb is imported later, that import raises it.

    Example:
        >>> import dejavec
        >>> dejavec.install()
        >>> from mteb.models.cache_wrapper import CachedEmbeddingWrapper
        >>> CachedEmbeddingWrapper is dejavec.CachedEmbeddingWrapper
        True
        >>> dejavec.uninstall()
    """
    if sys.modules.get("mteb") is not None:
        check_mteb()
        _names.replace()
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo :func:`install`: mteb's modules get their own classes back, and lose the names of mteb 1.x.

    Names that were imported in between stay dejavec's, and their instances continue to work. A name that
    other code has replaced since then is not changed. Uninstalling twice, or without installing, is allowed.
    """
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _names.restore()


def when_mteb_is_imported(call: Callable[[], object]) -> None:
    """Call something now if mteb is imported, otherwise when it has been, after :func:`install`."""
    if sys.modules.get("mteb") is None:
        _waiting.append(call)
    else:
        call()


class _Names:
    """The replaced entries of modules and of ``sys.modules``, with their old values."""

    def __init__(self) -> None:
        self._done: list[tuple[dict[str, Any], str, object, object]] = []

    def replace(self) -> None:
        """Put our classes into mteb's modules, all or none.

        Raises:
            ImportError: this mteb is not supported.
        """
        for namespace, name, ours in list(_wanted()):
            theirs = namespace.get(name, _ABSENT)
            if theirs is not ours:
                self._done.append((namespace, name, theirs, ours))
                namespace[name] = ours

    def restore(self) -> None:
        """Put the old values back, the latest first."""
        while self._done:
            namespace, name, theirs, ours = self._done.pop()
            if namespace.get(name, _ABSENT) is not ours:
                continue
            if theirs is _ABSENT:
                del namespace[name]
            else:
                namespace[name] = theirs


def _wanted() -> Iterator[tuple[dict[str, Any], str, object]]:
    """Yield each namespace, the name to replace in it, and the new object.

    Raises:
        ImportError: a module or a name is missing.
    """
    import dejavec

    for path, name in _REPLACED:
        try:
            namespace = vars(importlib.import_module(path))
            namespace[name]
        except (ModuleNotFoundError, KeyError) as error:
            found = getattr(sys.modules.get("mteb"), "__version__", "a module without version")
            raise ImportError(
                f"dejavec's cache for mteb: expected mteb 2.20 or later, found {found}, without "
                f"{path}.{name}; install a newer mteb, or run without dejavec",
                name=path,
            ) from error
        yield namespace, name, getattr(dejavec, name)
    package, _, name = _OLD_MODULE.rpartition(".")
    yield sys.modules, _OLD_MODULE, _old_module()
    yield vars(sys.modules[package]), name, _old_module()


@cache
def _old_module() -> ModuleType:
    import dejavec

    module = module_from_spec(ModuleSpec(_OLD_MODULE, loader=None, origin="dejavec"))
    module.__doc__ = "The cache of mteb 1.x, by dejavec."
    vars(module).update({name: getattr(dejavec, name) for name in _OLD_NAMES})
    return module


class _Finder(MetaPathFinder):
    """Finds mteb as the other finders do, and replaces the names when mteb has been imported.

    Other code imports mteb's modules only after ``mteb`` itself, so it always gets the new names.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of ``mteb``; None for every other module."""
        if fullname != "mteb" or self not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Loads a module as another loader does, then replaces the names."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the other loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code, then replace the names."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        check_mteb()
        self._loader.exec_module(module)
        _names.replace()
        while _waiting:
            _waiting.pop(0)()


_waiting: list[Callable[[], object]] = []
_names = _Names()
_finder = _Finder()
