"""The state of a model: a digest of each tensor, computed again only if the tensor may have changed."""

from __future__ import annotations

import hashlib
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dejavec import _core
from dejavec.identity.survey import Survey

WHOLE_BYTES = 256 << 20
"""A model up to this size is hashed completely at every look."""

_SAMPLED = 1024
_PIECE_BYTES = 16 * _core.BLOCK_BYTES
"""A tensor on another device is copied in pieces of this size."""

_known: dict[int, tuple[weakref.ref[Any], object, str]] = {}
"""Hashed tensors by ``id``: the tensor, its guard and its digest."""


def tensor_digests(found: Survey) -> dict[str, str]:
    """Return a digest of dtype, shape and numbers of each tensor, by path. Tied tensors occur once.

    In models above 256 MB, a tensor is hashed again only if its guard has changed. The guard is the address,
    PyTorch's count of writes, and 1,024 of the numbers. Embedding matrices are hashed each time: training may
    change few of their rows, and a fused optimiser or a write through ``.data`` does not raise the count.

    Unreadable tensors are left out, and noted as hidden.
    """
    tensors = dict(_readable(found))
    if sum(int(tensor.nbytes) for tensor, _ in tensors.values()) <= WHOLE_BYTES:
        return fingerprints({path: tensor for path, (tensor, _) in tensors.items()})
    guards = _guards({path: tensor for path, (tensor, _) in tensors.items()})
    digests, changed = {}, {}
    for path, (tensor, whole) in tensors.items():
        known = _known.get(id(whole))
        same = known is not None and known[0]() is whole and known[1] == guards[path]
        if known is not None and same and path not in found.embeddings:
            digests[path] = known[2]
        else:
            changed[path] = tensor
    digests.update(fingerprints(changed))
    for path in changed:
        _remember(tensors[path][1], guards[path], digests[path])
    return digests


def digest_of(digests: Iterable[str]) -> str | None:
    """Return one digest of many, as 32 hex digits; None for none. Their order does not count.

    Names and classes do not count, so a checkpoint has the same digest under every version of a library.

    Example:
        >>> digest_of(["a", "b"]) == digest_of(["b", "a"]), digest_of([])
        (True, None)
    """
    ordered = sorted(digests)
    return hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:32] if ordered else None


def fingerprints(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of dtype, shape and numbers of each tensor or array, by path.

    All cores hash the numbers, with XXH3 (128 bits).

    Example:
        >>> ones, zeros = np.ones(3), np.zeros(3)
        >>> found = fingerprints({"a": ones, "b": zeros, "c": ones.copy(), "d": ones.astype("f4")})
        >>> found["a"] == found["c"], len(set(found.values()))
        (True, 3)
    """
    near = {path: _bytes_here(tensor) for path, tensor in tensors.items() if _is_near(tensor)}
    blocks = dict(zip(near, _core.fingerprint_blocks(list(near.values())), strict=True))
    for path, tensor in tensors.items():
        if path not in near:
            blocks[path] = b"".join(_pieces(tensor))
    forms = {
        path: f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.") for path, tensor in tensors.items()
    }
    return {path: hashlib.sha256(forms[path].encode() + blocks[path]).hexdigest()[:32] for path in tensors}


def _remember(tensor: Any, guard: object, digest: str) -> None:
    address = id(tensor)
    _known[address] = (weakref.ref(tensor, lambda _: _known.pop(address, None)), guard, digest)


def _readable(found: Survey) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield path, plain tensor and original of each readable tensor, and only the first of tied ones."""
    places: set[object] = set()
    for path, whole in found.tensors.items():
        plain = whole if isinstance(whole, np.ndarray) else _plain(whole)
        if plain is None:
            found.hidden.append(path)
            continue
        if not isinstance(plain, np.ndarray) and plain.numel():
            place = (plain.data_ptr(), plain.dtype, plain.shape, plain.stride(), plain.device)
            if place in places:
                continue
            places.add(place)
        yield path, (plain, whole)


def _plain(tensor: Any) -> Any | None:
    """Return any kind of tensor as a dense one; None if it cannot be read."""
    torch = sys.modules["torch"]
    try:
        if tensor.is_meta:
            return None
        plain = tensor.detach()
        if plain.is_quantized:
            plain = plain.int_repr()
        if plain.layout != torch.strided:
            plain = plain.to_dense()
        plain = plain.as_subclass(torch.Tensor)
        # Some tensor subclasses only describe other tensors, and hold no numbers.
        return None if plain.numel() and not plain.data_ptr() else plain
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None


def _is_near(tensor: Any) -> bool:
    return isinstance(tensor, np.ndarray) or tensor.device.type == "cpu"


def _bytes_here(tensor: Any) -> Any:
    """Return the bytes of an array or of a CPU tensor, without a copy if it is contiguous."""
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    torch = sys.modules["torch"]
    if not tensor.numel():
        return np.empty(0, np.uint8)
    flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def _pieces(tensor: Any) -> Iterator[bytes]:
    """Yield the fingerprints of a tensor on another device, which is copied in pieces of whole blocks."""
    flat = tensor.contiguous().reshape(-1)
    step = _PIECE_BYTES // flat.element_size()
    for start in range(0, max(flat.numel(), 1), step):
        yield _core.fingerprint_blocks([_bytes_here(flat[start : start + step].cpu())])[0]


def _guards(tensors: Mapping[str, Any]) -> dict[str, object]:
    """Return the guard of each tensor: a cheap value that changes whenever the tensor may have changed."""
    samples: dict[str, Any] = {}
    for path, tensor in tensors.items():
        count = tensor.size if isinstance(tensor, np.ndarray) else tensor.numel()
        # Rows usually have an even length, so an odd step samples every column.
        some = tensor.reshape(-1)[:: (count // _SAMPLED) | 1]
        samples[path] = _bytes_here(some if isinstance(some, np.ndarray) else some.cpu())
    found = _core.fingerprint_blocks(list(samples.values()))
    return {
        path: (_place(tensor), sample) for (path, tensor), sample in zip(tensors.items(), found, strict=True)
    }


def _place(tensor: Any) -> object:
    if isinstance(tensor, np.ndarray):
        return tensor.ctypes.data, tensor.shape, tensor.strides
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
