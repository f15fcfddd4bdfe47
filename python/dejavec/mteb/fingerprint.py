"""Python values and model weights as JSON that is the same in every process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np

from dejavec.identity import canonical_json

_RUNTIME_CONFIG = ("_name_or_path", "name_or_path", "transformers_version")
"""Entries of a model's configuration that tell where it lies, not what it computes."""

_RUNTIME_ATTRIBUTES = frozenset(
    {"batch_size", "cache_dir", "cache_folder", "device", "num_proc", "num_workers", "show_progress_bar"}
    | {"training", "verbose"}
)
"""Attributes that tell where, how fast and how loudly a model computes; ``encode`` sets ``training``."""

_SAMPLED = 1024


def describe(value: object) -> Any:
    """Return ``value`` as JSON, equal for equal values in every process.

    Types that JSON has not are written as objects whose one key begins with ``$``. Functions are described by
    their code, so that an edited one differs.

    Raises:
        TypeError: the value, or a part of it, has no such form.

    Example:
        >>> describe({"dtype": np.dtype("float16"), "layers": (1, 2)})
        {'dtype': {'$dtype': '<f2'}, 'layers': {'$tuple': [1, 2]}}
    """
    if isinstance(value, Enum):
        return {"$enum": f"{_qualified(type(value))}.{value.name}"}
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is str:
        return value if _is_unicode(value) else {"$surrogates": value.encode("utf-8", "surrogatepass").hex()}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, Mapping):
        return {_escaped(key): describe(part) for key, part in value.items()}
    if type(value) is list:
        return [describe(part) for part in value]
    if type(value) is tuple:
        return {"$tuple": [describe(part) for part in value]}
    if isinstance(value, set | frozenset):
        return {"$set": sorted((describe(part) for part in value), key=canonical_json)}
    if isinstance(value, bytes):
        return {"$bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, PurePath):
        return {"$path": str(value)}
    return _describe_number(value) or _describe_code(value) or _describe_fields(value)


def sha256_of(value: object) -> str:
    """Return the SHA-256 of what :func:`describe` says about ``value``, as 64 hex digits.

    Raises:
        TypeError: see :func:`describe`.
    """
    return hashlib.sha256(canonical_json(describe(value)).encode("ascii")).hexdigest()


def class_code(maker: object) -> str | None:
    """Return a digest of the functions of a class, other for an edited one; None if it is no class."""
    if not isinstance(maker, type):
        return None
    functions = [
        [_qualified(parent), name, _loosely(member)]
        for parent in maker.__mro__
        for name, member in sorted(vars(parent).items())
        if isinstance(member, types.FunctionType)
    ]
    return sha256_of(functions)


def is_module(value: object) -> bool:
    """Tell whether this is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def torch_parts(layers: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return the torch modules and tokenizers that a model and what it wraps hold, each once.

    There are no modules if the weights lie elsewhere.
    """
    modules: list[Any] = []
    tokenizers: list[Any] = []
    for layer in layers:
        held = [layer] if is_module(layer) else [layer, *_held_modules(layer)]
        modules += [part for part in held if is_module(part) and all(part is not other for other in modules)]
        for part in held:
            tokenizer = getattr(part, "tokenizer", None)
            if tokenizer is not None and all(tokenizer is not other for other in tokenizers):
                tokenizers.append(tokenizer)
    if any(getattr(module, "backend", "torch") != "torch" for module in modules):
        return [], []
    with_weights = [module for module in modules if next(module.parameters(), None) is not None]
    return (modules if with_weights else []), tokenizers


def weights_digest(modules: Iterable[Any], tokenizers: Iterable[Any]) -> str:
    """Return the SHA-256 of the torch modules that make the vectors, as 64 hex digits.

    Covered are every tensor of the state with its name, dtype and shape, the class of each submodule, the
    modules' own configurations (pooling, sequence length, truncation) and the tokenizers.

    Raises:
        TypeError: a module keeps state that is no tensor and has no stable form.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(canonical_json(_architecture(module)).encode("ascii"))
        for name, tensor in module.state_dict().items():
            _update_with_tensor(digest, name, tensor)
    for tokenizer in tokenizers:
        digest.update(canonical_json(_tokenizer(tokenizer)).encode("ascii"))
    return digest.hexdigest()


def weights_version(modules: Sequence[Any], tokenizers: Iterable[Any]) -> object:
    """Return, at little cost, what differs if the digest may.

    That is where tensors lie, how often they were written, some of their numbers (training through ``.data``
    is not counted), and the settings.
    """
    tensors = [tensor for module in modules for tensor in chain(module.parameters(), module.buffers())]
    return (
        _sample(tensors),
        [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors],
        [_architecture(module) for module in modules],
        [(id(tokenizer), _tokenizer_settings(tokenizer)) for tokenizer in tokenizers],
    )


def behaviour_of(layers: Iterable[Any]) -> str:
    """Return the SHA-256 of what models do with their weights, as far as that can be seen from outside.

    Covered are the class of each, the code of its ``encode``, and its attributes that are numbers, texts,
    bools, None or containers of these. Empty containers are not: most are filled by encoding.
    """
    parts = []
    for layer in layers:
        encode = inspect.unwrap(getattr(layer, "encode", None))  # type: ignore[arg-type]
        attributes = {
            name: _loosely(value)
            for name, value in getattr(layer, "__dict__", {}).items()
            if name not in _RUNTIME_ATTRIBUTES and _is_setting(value)
        }
        parts.append([_qualified(type(layer)), _loosely(getattr(encode, "__func__", encode)), attributes])
    return sha256_of(parts)


def _is_setting(value: object) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return bool(value) and all(map(_is_plain_value, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return bool(value) and all(type(key) is str and _is_plain_value(value[key]) for key in value)
    return _is_plain_value(value)


def _is_plain_value(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _sample(tensors: Iterable[Any]) -> str:
    """Return a digest of up to some thousand numbers of each tensor."""
    import torch

    parts: dict[Any, list[Any]] = {}
    for tensor in tensors:
        if tensor.numel():
            # An odd step: rows are of even lengths, so every column has its turn.
            step = (tensor.numel() // _SAMPLED) | 1
            numbers = tensor.detach().reshape(-1)[::step].contiguous().view(torch.uint8)
            parts.setdefault(tensor.device, []).append(numbers)
    digest = hashlib.sha256()
    for numbers in parts.values():
        digest.update(torch.cat(numbers).cpu().numpy().data)
    return digest.hexdigest()


def _held_modules(layer: Any) -> list[Any]:
    own = getattr(layer, "__dict__", {})
    return [own[name] for name in sorted(own) if is_module(own[name])]


def _describe_number(value: object) -> Any:
    """Describe NumPy's and torch's values; None if it is none of them."""
    if isinstance(value, np.dtype):
        return {"$dtype": value.str}
    if isinstance(value, np.generic | np.ndarray):
        array = np.ascontiguousarray(value)
        if array.dtype.hasobject:
            raise TypeError(f"expected numbers, found an array of {array.dtype}")
        return {"$array": [array.dtype.str, list(np.shape(value)), hashlib.sha256(array.data).hexdigest()]}
    if type(value).__module__ == "torch" and type(value).__name__ in ("dtype", "device"):
        return {"$torch": str(value)}
    return None


def _describe_code(value: object) -> Any:
    """Describe classes and functions; None if it is neither."""
    if isinstance(value, type | types.BuiltinFunctionType):
        return {"$name": _qualified(value)}
    if isinstance(value, functools.partial):
        return {"$partial": [describe(value.func), describe(list(value.args)), describe(value.keywords)]}
    if isinstance(value, types.MethodType):
        return {"$method": [describe(value.__func__), describe(value.__self__)]}
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [
            _code(value.__code__),
            describe(value.__defaults__),
            describe(value.__kwdefaults__),
            describe(cells),
        ]
        return {"$code": sha256_of(parts)}
    return None


def _describe_fields(value: object) -> Any:
    """Describe objects that list their contents: dataclasses, pydantic models, transformers' configurations.

    Raises:
        TypeError: the object does not.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        contents: object = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(type(value), "model_dump"):
        contents = value.model_dump()  # type: ignore[attr-defined]
    elif type(value).__module__.startswith("transformers.") and hasattr(value, "to_dict"):
        contents = value.to_dict()
    else:
        raise TypeError(f"no stable form is known for {_qualified(type(value))}")
    return {"$object": [_qualified(type(value)), describe(contents)]}


def _code(code: types.CodeType) -> list[Any]:
    constants = [
        _code(part) if isinstance(part, types.CodeType) else describe(_plain(part)) for part in code.co_consts
    ]
    return [
        code.co_code.hex(),
        constants,
        list(code.co_names),
        list(code.co_varnames),
        list(code.co_freevars),
    ]


def _plain(constant: object) -> object:
    """Return a constant of compiled code without the types that only occur there."""
    return repr(constant) if isinstance(constant, complex) or constant is Ellipsis else constant


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _escaped(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"expected string keys, found {key!r} ({type(key).__name__})")
    return f"${key}" if key.startswith("$") else key


def _qualified(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def _update_with_tensor(digest: Any, name: str, tensor: Any) -> None:
    import torch

    if not isinstance(tensor, torch.Tensor):
        digest.update(canonical_json([name, describe(tensor)]).encode("ascii"))
        return
    digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode("ascii"))
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)


def _architecture(module: Any) -> list[Any]:
    """Return what a module computes with its weights, as far as it says so itself."""
    submodules = [[name, _qualified(type(part))] for name, part in module.named_modules()]
    settings = {
        name: _loosely(getattr(module, name, None))
        for name in ("max_seq_length", "truncate_dim", "module_kwargs")
    }
    hooks = [
        [name, [_qualified(hook if hasattr(hook, "__qualname__") else type(hook)) for hook in added]]
        for name, part in module.named_modules()
        if (added := [*part._forward_pre_hooks.values(), *part._forward_hooks.values()])
    ]
    configurations = [[name, _loosely(config)] for name, config in _configurations(module)]
    return [submodules, settings, configurations, *([hooks] if hooks else [])]


def _configurations(module: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, part in module.named_modules():
        if hasattr(part, "get_config_dict"):
            yield name, part.get_config_dict()
        config: Any = getattr(part, "config", None)
        if hasattr(config, "to_dict"):
            entries: Mapping[str, Any] = config.to_dict()
            yield name, {key: value for key, value in entries.items() if key not in _RUNTIME_CONFIG}


def _loosely(value: Any) -> Any:
    """Describe a configuration, beside the weights: a part that has no stable form counts by its type."""
    if isinstance(value, Mapping):
        return {str(key): _loosely(part) for key, part in value.items() if key not in _RUNTIME_CONFIG}
    if isinstance(value, list | tuple):
        return [_loosely(part) for part in value]
    try:
        return describe(value)
    except TypeError:
        return {"$type": _qualified(type(value))}


def _tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    names = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")
    return {name: _loosely(getattr(tokenizer, name, None)) for name in names}


def _tokenizer(tokenizer: Any) -> Any:
    """Return what a tokenizer does, without the padding and truncation that its last call left in it."""
    settings = _tokenizer_settings(tokenizer)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        settings["tokenizer"] = {key: content[key] for key in content if key not in ("padding", "truncation")}
    elif hasattr(tokenizer, "get_vocab"):
        settings["vocabulary"] = tokenizer.get_vocab()
    return [_qualified(type(tokenizer)), settings]
