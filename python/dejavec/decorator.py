"""The decorator that caches a function of texts."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from dejavec.cache import CacheSettings, EmbeddingCache
from dejavec.identity.arguments import argument_form, self_form
from dejavec.storage.identity import describe, sibling
from dejavec.support.canonical import canonical_json
from dejavec.support.in_thread import call_in_thread, wait_for
from dejavec.support.paths import local_directory

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

P = ParamSpec("P")
R = TypeVar("R")
S_contra = TypeVar("S_contra", contravariant=True)


class CachedFunction(Generic[P, R]):
    """A function of texts with a cache: see :func:`cached`.

    Args:
        function: returns vectors (k, dim), or yields them, or is a coroutine function that returns them.
        path: the directory.
        settings: the settings of the cache.

    Raises:
        TypeError: ``function`` is no function of texts.
    """

    def __init__(
        self, function: Callable[..., R], path: str | os.PathLike[str], settings: CacheSettings
    ) -> None:
        self._signature = _signature(function)
        functools.update_wrapper(self, function)
        self._function = function
        self._path = local_directory(path)
        self._settings = settings
        self._is_method = False
        called = function if inspect.isroutine(function) else type(function).__call__
        self._is_async = any(map(inspect.iscoroutinefunction, (called, inspect.unwrap(function))))
        self._caches: dict[str, EmbeddingCache] = {}
        self._opening = threading.Lock()
        describe(settings.get("model"), settings.get("identity"))
        try:
            self._signature.bind([])
        except TypeError:
            return  # It needs more arguments, or is a method.
        _ = self.cache

    def __set_name__(self, owner: type, name: str) -> None:
        self._is_method = True

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        """Return the method of an object: the function with that object as its first argument."""
        if instance is None:
            return self
        function = self

        @functools.wraps(self._function)
        def method(*args: Any, **keywords: Any) -> Any:
            return function._call((instance, *args), keywords, has_owner=True)

        return method

    def __call__(self, texts: object, *args: P.args, **keywords: P.kwargs) -> R:
        """Return the vectors of texts: see :meth:`dejavec.EmbeddingCache.encode`."""
        # From Python 3.13 on, classmethod calls this with the class first; before, it calls __get__.
        has_class = isinstance(texts, type) and bool(args)
        made: R = self._call((texts, *args), keywords, has_owner=self._is_method or has_class)
        return made

    @property
    def cache(self) -> EmbeddingCache:
        """The cache of a call without further arguments.

        Raises:
            AttributeError: a call needs further arguments, so there is one cache for each call.
        """
        try:
            self._signature.bind([])
        except TypeError as error:
            raise AttributeError(f"{self._name} has a cache for each call: {error}") from None
        return self._cache_for(self._bind(([],), {}, has_owner=False)[2])

    def __repr__(self) -> str:
        return f"<cached {self._name} in {str(self._path)!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the function, the path and the settings."""
        function, name = self._function, getattr(self._function, "__qualname__", "")
        found: Any = sys.modules.get(getattr(function, "__module__", ""))
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            # With decorator syntax, the function's name refers to this object, which leads to the function.
            function.__qualname__ = f"{name}.__wrapped__"
        return CachedFunction, (function, str(self._path), dict(self._settings))

    @property
    def _name(self) -> str:
        return str(getattr(self._function, "__qualname__", self._function)).removesuffix(".__wrapped__")

    def _call(self, args: tuple[Any, ...], keywords: Mapping[str, Any], *, has_owner: bool) -> Any:
        """Call the function for texts that are not cached. The first argument of a method is its object."""
        bound, texts, form = self._bind(args, keywords, has_owner=has_owner)
        cache = self._cache_for(form)

        def encode(some: list[str]) -> Any:
            call = inspect.BoundArguments(self._signature, OrderedDict(bound.arguments))
            call.arguments[self._texts_name(has_owner=has_owner)] = some
            return self._function(*call.args, **call.kwargs)

        if not self._is_async:
            return cache.encode(texts, encode)
        # A thread does the blocking work; the caller's loop runs the coroutines of the function.
        return call_in_thread(lambda loop: cache.encode(texts, lambda some: wait_for(loop, encode(some))))

    def _bind(
        self, args: tuple[Any, ...], keywords: Mapping[str, Any], *, has_owner: bool
    ) -> tuple[inspect.BoundArguments, Any, dict[str, Any]]:
        """Return a call's arguments, its texts, and the stable form of the other arguments.

        Raises:
            TypeError: the arguments do not fit the function, or one has no stable form.
        """
        bound = self._signature.bind(*args, **keywords)
        texts_name = self._texts_name(has_owner=has_owner)
        texts = bound.arguments[texts_name]
        bound.apply_defaults()
        form: dict[str, Any] = {}
        for at, (name, value) in enumerate(bound.arguments.items()):
            variadic = self._signature.parameters[name].kind in _VARIADIC
            if name == texts_name or (variadic and not value):
                continue
            where = f"{self._name}(): argument {name!r}"
            form[name] = self_form(value, where) if has_owner and at == 0 else argument_form(value, where)
        return bound, texts, form

    def _texts_name(self, *, has_owner: bool) -> str:
        names = list(self._signature.parameters)
        if len(names) <= has_owner:
            raise TypeError(f"{self._name}() expected a parameter for texts, found none besides {names[0]!r}")
        return names[int(has_owner)]

    def _cache_for(self, form: dict[str, Any]) -> EmbeddingCache:
        key = canonical_json(form)
        with self._opening:
            if key not in self._caches:
                settings, path = dict(self._settings), self._path
                if form:
                    settings["identity"] = {**(self._settings.get("identity") or {}), "arguments": form}
                    path = sibling(path, {"arguments": form})
                self._caches[key] = EmbeddingCache(path, **settings)  # type: ignore[arg-type]
            return self._caches[key]


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[list[str], P], R]) -> CachedFunction[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[S_contra, list[str], P], R]
    ) -> CachedFunction[Concatenate[list[str], P], R]: ...


def cached(path: str | os.PathLike[str], **settings: Unpack[CacheSettings]) -> _Decorator:
    """Cache the vectors (n, dim) that the decorated function returns for a list of texts.

    A coroutine function stays one: ``await embed(texts)``. A function may have further arguments after the
    texts: strings, numbers, and lists and dicts of these. They are part of the identity, and each combination
    has a separate cache beside ``path``. In a method, ``self`` is part of the identity too: a dataclass by
    its fields, any other object by its attribute ``cache_identity``, a JSON value of everything that changes
    its vectors.

    Args:
        path: the directory.
        **settings: see :class:`EmbeddingCache`; ``model="name@revision"`` above all.

    Returns:
        A decorator. The decorated function has the cache as its attribute ``cache``.

    Raises:
        TypeError: the decorated object is no function of texts.

    Example:
        >>> import tempfile, numpy as np
        >>> from dejavec import cached
        >>> directory = tempfile.TemporaryDirectory()
        >>> @cached(directory.name, model="toy@1")
        ... def embed(texts: list[str]) -> np.ndarray:
        ...     print("encoding", texts)
        ...     return np.array([[len(text)] for text in texts], np.float32)
        >>> embed(["a", "bcd"]).shape
        encoding ['a', 'bcd']
        (2, 1)
        >>> embed(["bcd", "a"]).ravel()
        array([3., 1.], dtype=float32)
        >>> embed.cache.close()
        >>> directory.cleanup()
    """
    if callable(path):
        raise TypeError(
            'expected a directory, as in @cached("embeddings", model="name@revision"), found the function'
        )
    local_directory(path)
    unknown = sorted(set(settings) - CacheSettings.__annotations__.keys())
    if unknown:
        raise TypeError(f"expected settings of EmbeddingCache, found {', '.join(unknown)}")

    def decorate(function: Callable[..., Any]) -> Any:
        return CachedFunction(function, path, settings)

    return decorate


def _signature(function: Any) -> inspect.Signature:
    """Return the signature of a function of texts.

    Raises:
        TypeError: it is no function of texts.
    """
    if isinstance(function, classmethod | staticmethod):
        kind = type(function).__name__
        raise TypeError(f"expected a function, found a {kind}; write @{kind} above @cached")
    if not callable(function):
        raise TypeError(f"expected a function of texts, found {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        signature = inspect.Signature(
            [inspect.Parameter("texts", inspect.Parameter.POSITIONAL_ONLY)]
        )  # A builtin without a signature.
    first = next(iter(signature.parameters.values()), None)
    name = getattr(function, "__qualname__", type(function).__name__)
    if first is None:
        raise TypeError(f"expected a function of texts, found {name}() without parameters")
    if first.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
        raise TypeError(f"expected a function whose first parameter is for texts, found {name}({first})")
    return signature
