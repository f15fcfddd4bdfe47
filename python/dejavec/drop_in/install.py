"""dejavec's classes under the names of mteb's cache, so that what was written for that one uses this one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
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
"""Every module of mteb that binds a class for which dejavec has its own."""

_OLD_MODULE = "mteb.models.cache_wrapper"
_OLD_NAMES = ("CachedEmbeddingWrapper", "TextVectorMap")
"""Where mteb 1.x had its cache."""

_ABSENT = object()


def install() -> None:
    """Put dejavec's cache in the place of mteb's, for this process.

    From now on ``CachedEmbeddingWrapper``, ``NumpyCache`` and ``FaissCache`` are dejavec's wherever they are
    imported from mteb, and ``mteb.models.cache_wrapper``, the module of mteb 1.x, can be imported with its
    ``CachedEmbeddingWrapper`` and ``TextVectorMap``. mteb itself is not imported: if it is not yet, this
    happens as soon as something imports it. Installing twice is fine.

    What was taken from mteb before cannot be changed: after ``from mteb.models import
    CachedEmbeddingWrapper`` that name, a subclass made of it and its instances stay mteb's. So call this
    first. A child process started by ``multiprocessing`` with "spawn" or "forkserver" imports the main script
    anew: call this at its top level, not below ``if __name__ == "__main__"``.

    Raises:
        MissingPackageError: mteb is older than 2.20; raised by the import of mteb if that comes later.

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
    """Undo :func:`install`: mteb's modules have their own names again, and only these.

    Names that were imported in between stay dejavec's, and their instances go on working. A name that
    somebody else has replaced since is left to them. Uninstalling twice, or without installing, is fine.
    """
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _names.restore()


class _Names:
    """What has been put into modules and ``sys.modules``, and what was there before."""

    def __init__(self) -> None:
        self._done: list[tuple[dict[str, Any], str, object, object]] = []

    def replace(self) -> None:
        """Put our classes into mteb's modules, all or none.

        Raises:
            ImportError: these are not the modules of a supported mteb.
        """
        for namespace, name, ours in list(_wanted()):
            theirs = namespace.get(name, _ABSENT)
            if theirs is not ours:
                self._done.append((namespace, name, theirs, ours))
                namespace[name] = ours

    def restore(self) -> None:
        """Put back what was there, the last first."""
        while self._done:
            namespace, name, theirs, ours = self._done.pop()
            if namespace.get(name, _ABSENT) is not ours:
                continue
            if theirs is _ABSENT:
                del namespace[name]
            else:
                namespace[name] = theirs


def _wanted() -> Iterator[tuple[dict[str, Any], str, object]]:
    """Yield each namespace, the name in it and the object that it is to have.

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
                f"dejavec's cache can take the place of that of mteb 2.20 or later, found {found}, without "
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
    """Finds mteb as the other finders do, and has the names replaced once it is imported.

    All of mteb's modules are imported after ``mteb`` itself, so nobody can be given a name before.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of ``mteb``, None for all else."""
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
    """Loads a module as another loader does, and has the names replaced then."""

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


_names = _Names()
_finder = _Finder()
