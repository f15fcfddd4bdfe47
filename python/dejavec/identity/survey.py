"""One walk through a model: it collects the tensors, and notes about everything else."""

from __future__ import annotations

import collections
import datetime
import dis
import enum
import functools
import hashlib
import re
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from dejavec import _core
from dejavec.identity.fingerprint import code_form, is_module
from dejavec.identity.libraries import holds_custom, is_library, is_library_function, top_level
from dejavec.identity.tokenizer_content import tokenizer_content
from dejavec.identity.wrapped import ModelWrapper
from dejavec.support.secret_names import is_secret

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice})
_VALUES = (
    enum.Enum,
    PurePath,
    np.generic,
    np.dtype,
    datetime.date,
    datetime.timedelta,
    int,
    float,
    str,
    bytes,
)
_OPAQUE = (types.MethodWrapperType, weakref.ReferenceType)

_IGNORED = frozenset(
    {"batch_size", "cache_dir", "cache_folder", "device", "num_proc", "num_workers", "show_progress_bar"}
    | {"training", "verbose", "_name_or_path", "name_or_path", "transformers_version", "_is_hf_initialized"}
    | {"mteb_model_meta", "model_card_data", "_model_card_vars", "_model_card_text"}
)
"""Attributes that do not change vectors: device, speed, verbosity, names and metadata.

The known wrappers set ``training`` in ``encode``. The mteb room reads the metadata itself.
"""

_LIBRARY_CACHES = frozenset(
    {"_prompt_length_mapping", "_method_signature_cache", "_chat_template_suffix_cache"}
    | {"_similarity", "_similarity_pairwise", "_similarity_fn_name"}
)
"""Caches that sentence-transformers fills during calls, and its similarity function."""

_FILES_OF_TOKENIZERS = frozenset({"vocab_file", "merges_file", "tokenizer_file", "spm_file"})

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DEEPEST = 12
_MOST_VALUES = 20_000
_LONG = 2_000
_SMALL_BYTES = 1 << 20


@dataclass
class Survey:
    """What :func:`survey` found.

    Attributes:
        tensors: the torch tensors and NumPy arrays of the state, by path.
        owned: paths of the tensors that are parameters or persistent buffers of torch modules.
        embeddings: paths of the tensors that are embedding matrices. Training may change few of their rows.
        notes: everything else, by path: values, names of classes, digests of code.
        tokenizers: a digest of the content of each tokenizer, without the padding that its last call set.
        hidden: paths of objects that the walk could not read, such as objects of extension modules.
        custom: paths of hooks, and of classes and functions outside installed libraries.
        libraries: top-level modules of the installed libraries that the model uses.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)
    embeddings: set[str] = field(default_factory=set)
    notes: dict[str, str] = field(default_factory=dict)
    tokenizers: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    custom: list[str] = field(default_factory=list)
    libraries: set[str] = field(default_factory=set)


def survey(model: object, *, left_out: frozenset[str] = frozenset()) -> Survey:
    """Walk through a model or a function, and everything that it holds or names.

    The tensors are all parameters, persistent float buffers and packed integer weights. Float tensors and
    NumPy arrays count too, if attributes, containers or closures lead to them, or globals that user code
    names. The walk changes nothing, and reads no secrets.

    Args:
        model: any object.
        left_out: attributes to skip: a name, or a path from the model, such as ``".model.truncate_dim"``.

    Example:
        >>> scale = np.ones(3)
        >>> found = survey(lambda texts: [len(text) * scale for text in texts])
        >>> list(found.tensors)
        ['.global scale']
    """
    walk = _Walk(left_out)
    walk.visit("", model, 0)
    torch = sys.modules.get("torch")
    if torch is not None and is_module(model):
        module = sys.modules["torch.nn.modules.module"]
        for name in ("_global_forward_hooks", "_global_forward_pre_hooks"):
            if getattr(module, name, None):
                walk.found.custom.append(f"torch {name}")
                walk.visit(f"torch {name}", getattr(module, name), 0)
    return walk.found


class _Walk:
    def __init__(self, left_out: frozenset[str]) -> None:
        self.found = Survey()
        self._ignored = _IGNORED | left_out
        self._seen: dict[Any, str] = {}  # The first path of each object.
        self._kept: list[Any] = []  # Keeps objects alive, so that no other object gets the same id.
        self._value_count = 0
        self._in_custom = False  # Whether the walk is within a module of a class outside libraries.
        self._torch = sys.modules.get("torch")
        module = getattr(getattr(self._torch, "nn", None), "Module", None)
        self._internals = frozenset(vars(module())) if module is not None else frozenset()

    def visit(self, path: str, value: Any, depth: int) -> None:
        """Note one value, and everything in it."""
        try:
            self._visit(path, value, depth)
        except Exception:
            # Any attribute of a user's object may raise.
            self.found.hidden.append(path)

    def _visit(self, path: str, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _ATOMS or isinstance(value, _VALUES):
            text = repr(value)
            self.found.notes[path] = text if len(text) <= _LONG else _digest(text)
            return
        if isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            self.found.notes[path] = f"{getattr(value, '__module__', '')}.{value.__name__}"
            return
        if isinstance(value, _OPAQUE):
            return
        if id(value) in self._seen:
            # A model may choose between shared objects, so the choice counts as a setting.
            self.found.notes[f"{path}:same"] = self._seen[id(value)]
            return
        self._see(value, path)
        if self._visit_numbers(path, value):
            return
        self._value_count += 1
        if depth > _DEEPEST or self._value_count > _MOST_VALUES:
            self.found.hidden.append(path)
            return
        if self._visit_container(path, value, depth):
            return
        if self._visit_code(path, value, depth):
            return
        self._visit_object(path, value, depth)

    def _see(self, value: Any, path: str) -> None:
        self._seen[id(value)] = path
        self._kept.append(value)

    def _visit_numbers(self, path: str, value: Any) -> bool:
        torch = self._torch
        if torch is not None and isinstance(value, torch.Tensor):
            if (
                value.is_floating_point()
                or value.is_complex()
                or value.is_quantized
                or isinstance(value, torch.nn.Parameter)
            ):
                self._add(path, value)
            else:
                self._note_numbers(path, value)
        elif torch is not None and isinstance(value, torch.dtype):
            self.found.notes[path] = str(value)
        elif torch is not None and isinstance(value, torch.device | torch.Generator):
            pass
        elif isinstance(value, np.ndarray):
            if not value.dtype.hasobject:
                self._add(path, value)
            else:
                for position, part in enumerate(value.ravel()[:_LONG].tolist()):
                    self.visit(f"{path}[{position}]", part, 1)
        else:
            return False
        return True

    def _add(self, path: str, tensor: Any) -> None:
        self.found.tensors[path] = tensor

    def _note_numbers(self, path: str, tensor: Any) -> None:
        """Note a tensor outside the state. A large tensor is noted by dtype and shape only."""
        note = f"{tensor.dtype} {list(tensor.shape)}"
        if tensor.is_meta:
            self.found.hidden.append(path)
        elif 0 < tensor.nbytes <= _SMALL_BYTES:
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(self._torch.uint8)  # type: ignore[union-attr]
            note += f" {_core.fingerprint_blocks([plain.numpy()])[0].hex()}"
        self.found.notes[path] = note

    def _visit_container(self, path: str, value: Any, depth: int) -> bool:
        if isinstance(value, list | tuple | collections.deque):
            if len(value) > _LONG and all(type(part) in _ATOMS for part in value):
                self.found.notes[path] = _digest(repr(list(value)))
                return True
            self.found.notes[path] = f"{len(value)} items"
            for position, part in enumerate(value):
                self.visit(f"{path}[{position}]", part, depth + 1)
        elif isinstance(value, set | frozenset):
            parts = sorted(repr(part) if type(part) in _ATOMS else _name_of(type(part)) for part in value)
            self.found.notes[path] = _digest("\n".join(parts))
        elif isinstance(value, Mapping):
            try:
                items = [(key, part) for key, part in value.items() if not is_secret(key)]
            except Exception:
                # A mapping of another library may raise anything.
                self.found.hidden.append(path)
                return True
            if len(items) > _LONG and all(type(part) in _ATOMS for _, part in items):
                self.found.notes[path] = _digest(repr(items))
                return True
            self.found.notes[path] = f"{len(items)} entries"
            for position, (key, part) in enumerate(items):
                keyed: tuple[Any, ...] = key if type(key) is tuple else (key,)
                plain = all(type(of) in _ATOMS or isinstance(of, _VALUES) for of in keyed)
                name = repr(key) if plain else f"{_name_of(type(key))} {position}"
                if key not in self._ignored if isinstance(key, str) else True:
                    self.visit(f"{path}[{name}]", part, depth + 1)
        else:
            return False
        return True

    def _visit_code(self, path: str, value: Any, depth: int) -> bool:
        if isinstance(value, type):
            self._visit_class(path, value)
        elif isinstance(value, functools.partial):
            self.visit(f"{path}.func", value.func, depth + 1)
            self.visit(f"{path}.args", value.args, depth + 1)
            self.visit(f"{path}.keywords", value.keywords, depth + 1)
        elif isinstance(value, types.MethodType):
            self.visit(f"{path}.self", value.__self__, depth + 1)
            self.visit(f"{path}.function", value.__func__, depth + 1)
        elif isinstance(value, types.FunctionType):
            self._visit_function(path, value, depth)
        elif isinstance(value, staticmethod | classmethod):
            self.visit(path, value.__func__, depth)
        elif isinstance(value, re.Pattern):
            self.found.notes[path] = repr((value.pattern, value.flags))
        else:
            return False
        return True

    def _visit_function(self, path: str, function: types.FunctionType, depth: int) -> None:
        library = is_library_function(function)
        code = function.__code__
        self.found.notes[path] = _name_of(function) if library else _digest(repr(code_form(code)))
        if library:
            self.found.libraries.add(top_level(function.__globals__.get("__name__")))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            try:
                content = cell.cell_contents
            except ValueError:
                continue
            if not is_secret(name):
                self.visit(f"{path}.cell {name}", content, depth + 1)
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self.visit(f"{path}.wrapped", wrapped, depth + 1)
        if library:
            return
        self.found.custom.append(path)
        self.visit(f"{path}.defaults", [function.__defaults__, function.__kwdefaults__], depth + 1)
        self._visit_globals(path, function, depth)

    def _visit_globals(self, path: str, function: types.FunctionType, depth: int) -> None:
        """Note the globals that a function names. For a user's module, note the members that it names."""
        names, members = _names_in(function.__code__)
        for name in names:
            if is_secret(name) or name not in function.__globals__:
                continue
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                if is_library(value.__name__):
                    continue
                for member in members:
                    if member in vars(value) and not is_secret(member):
                        self._visit_named(f"{path}.global {name}.{member}", vars(value)[member], depth)
            else:
                self._visit_named(f"{path}.global {name}", value, depth)

    def _visit_named(self, path: str, value: Any, depth: int) -> None:
        # The version of a library identifies its classes and functions.
        if isinstance(value, type | types.FunctionType) and is_library(value.__module__):
            self.found.notes[path] = _name_of(value)
            self.found.libraries.add(top_level(value.__module__))
        else:
            self.visit(path, value, depth + 1)

    def _visit_class(self, path: str, made: type) -> None:
        """Note a class, and the functions in it that come from outside libraries."""
        self.found.notes[f"{path}:class"] = _name_of(made)
        for parent in made.__mro__:
            if ("class", parent) in self._seen:
                continue
            self._seen["class", parent] = path
            library = is_library(parent.__module__)
            if library:
                self.found.libraries.add(top_level(parent.__module__))
            else:
                self.found.custom.append(f"{path}:{_name_of(parent)}")
            for name, member in sorted(vars(parent).items()):
                for part in _functions_of(member):
                    if not library or not is_library_function(part) or holds_custom(part):
                        self.visit(f"{path}:{parent.__qualname__}.{name}", part, 1)
                if not library and not name.startswith("__") and not callable(member) and not is_secret(name):
                    self.visit(f"{path}:{parent.__qualname__}.{name}", member, 1)

    def _visit_object(self, path: str, value: Any, depth: int) -> None:
        made = type(value)
        if isinstance(value, ModelWrapper) and (source := value.__wrapped_model__()).is_built:
            self.visit(path, source.model, depth)
            return
        if isinstance(value, ModelWrapper) or made.__module__.startswith("dejavec."):
            self.found.hidden.append(path)
            return
        self._visit_class(path, made)
        if self._visit_tokenizer(path, value):
            return
        if is_module(value):
            self._visit_module(path, value, depth)
            return
        if top_level(made.__module__) in sys.stdlib_module_names and made is not types.SimpleNamespace:
            # The content of locks, sockets and the like changes with every call.
            self.found.hidden.append(path)
            return
        attributes = dict(_slots_of(value))
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            attributes.update(own)
        elif not attributes:
            self.found.hidden.append(path)
            return
        self._visit_attributes(path, attributes, depth)

    def _visit_attributes(self, path: str, attributes: Mapping[str, Any], depth: int) -> None:
        for name in sorted(attributes, key=str):
            if not self._ignores(path, name) and not is_secret(name):
                self.visit(f"{path}.{name}", attributes[name], depth + 1)

    def _ignores(self, path: str, name: str) -> bool:
        return name in self._ignored or f"{path}.{name}" in self._ignored

    def _visit_module(self, path: str, module: Any, depth: int) -> None:
        own = dict(vars(module))
        library = is_library(type(module).__module__)
        extra = [name for name in own if name not in self._internals and not self._ignores(path, name)]
        for name in sorted(extra):
            if is_secret(name) or (library and name in _LIBRARY_CACHES):
                continue
            value = own[name]
            if callable(value) and hasattr(type(module), name):
                self.found.custom.append(f"{path}.{name}")  # It replaces a method.
            self.visit(f"{path}.{name}", value, depth + 1)
        for name in _HOOKS:
            for position, hook in enumerate((own.get(name) or {}).values()):
                self.found.custom.append(f"{path}.{name}")
                self.visit(f"{path}.{name}[{position}]", hook, depth + 1)
        for name, parameter in module._parameters.items():
            if parameter is not None and self._is_new(f"{path}.{name}", parameter):
                self._own(f"{path}.{name}", parameter, module)
        for name, buffer in module._buffers.items():
            if buffer is None or not self._is_new(f"{path}.{name}", buffer):
                continue
            persists = name not in module._non_persistent_buffers_set
            if persists and (buffer.is_floating_point() or _is_packed(buffer)):
                self._own(f"{path}.{name}", buffer, module)
            else:
                self._note_numbers(f"{path}.{name}", buffer)
        outer, self._in_custom = self._in_custom, self._in_custom or not library
        if self._in_custom:
            # A library's `encode` sets `training` for all parts; a user's class may not.
            self.found.notes[f"{path}.training"] = repr(module.training)
        for name, part in module._modules.items():
            if part is not None and self._is_new(f"{path}.{name}", part):
                # The depth limit does not count submodules: there are few of them.
                self._visit_object(f"{path}.{name}", part, depth)
        self._in_custom = outer

    def _is_new(self, path: str, value: Any) -> bool:
        if id(value) in self._seen:
            self.found.notes[f"{path}:same"] = self._seen[id(value)]
            return False
        self._see(value, path)
        return True

    def _own(self, path: str, tensor: Any, module: Any) -> None:
        self._add(path, tensor)
        self.found.owned.add(path)
        if isinstance(module, self._torch.nn.Embedding | self._torch.nn.EmbeddingBag):  # type: ignore[union-attr]
            self.found.embeddings.add(path)

    def _visit_tokenizer(self, path: str, value: Any) -> bool:
        found = tokenizer_content(value)
        if found is None:
            return False
        if found.is_hidden:
            self.found.hidden.append("a tokenizer")
        if found.backend is not None:
            self._see(found.backend, "")
        for name, part in (getattr(value, "__dict__", None) or {}).items():
            known = name in _FILES_OF_TOKENIZERS or name in self._ignored or is_secret(name)
            if type(part) in _ATOMS and not known:
                self.visit(f"{path}.{name}", part, 0)
        self.found.tokenizers.append(_digest(found.digest))
        return True


def _digest(content: str | bytes) -> str:
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()


def _name_of(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> tuple[list[str], list[str]]:
    """Return the globals that code reads, and all other names in it, such as attributes."""
    read: set[str] = set()
    others: set[str] = set(code.co_names)
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, more = _names_in(constant)
            read.update(inner)
            others.update(more)
    return sorted(read), sorted(others)


def _functions_of(member: Any) -> Iterator[types.FunctionType]:
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    parts = (member.fget, member.fset) if isinstance(member, property) else (member,)
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def _slots_of(value: Any) -> Iterator[tuple[str, Any]]:
    for parent in type(value).__mro__:
        names = vars(parent).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if name not in ("__dict__", "__weakref__") and not is_secret(name):
                try:
                    yield name, getattr(value, name)
                except AttributeError:
                    continue


def _is_packed(buffer: Any) -> bool:
    """Return whether an integer buffer holds weights: scalars, constants and ranges do not."""
    torch = sys.modules["torch"]
    if buffer.numel() < 2 or buffer.dtype == torch.bool or buffer.is_meta:
        return False
    flat = buffer.detach().reshape(-1)
    for numbers in (flat[:1024], flat):
        steps = numbers[1:] - numbers[:-1]
        if (steps == steps[0]).all():
            continue
        # Position buffers count up in each row.
        last = buffer.shape[-1]
        rows = buffer.detach().reshape(-1, last) if last else flat[None]
        within = rows[:, 1:] - rows[:, :-1]
        return not bool(((within == 1) | (within == 0)).all())
    return False
