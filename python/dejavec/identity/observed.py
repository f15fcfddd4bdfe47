"""What a model is now: its state, a description of all else, and whether that is all there is to see."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from dejavec.identity.state import digest_of, tensor_digests
from dejavec.identity.survey import Survey, survey
from dejavec.support.canonical import canonical_json
from dejavec.support.fork import make_locks_of

_PACKAGES = (
    "mteb",
    "numpy",
    "onnxruntime",
    "peft",
    "scikit-learn",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)
"""Libraries whose version may change vectors, if it is another."""

_PACKAGE_OF = {"sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Description:
    """All that is seen of a model beside its state, in few words.

    Attributes:
        seen: a digest of classes, attributes, configurations, hooks, code and settings.
        tokenizer: a digest of what its tokenizers contain, None without any.
        versions: name and version of each library that may change vectors.
        device: the types of device that its tensors lie on, such as ``"cpu"``; None without tensors.
        matmul_precision: what PyTorch may round float32 to in matrix products, None without PyTorch.
    """

    seen: str
    tokenizer: str | None
    versions: tuple[tuple[str, str], ...]
    device: str | None
    matmul_precision: str | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Description:
        """Read what :meth:`to_json` returned.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is nothing of the kind.
        """
        versions = tuple(sorted((str(name), str(version)) for name, version in fields["versions"].items()))
        texts = {name: fields[name] for name in ("seen", "tokenizer", "device", "matmul_precision")}
        if not all(text is None or isinstance(text, str) for text in texts.values()) or texts["seen"] is None:
            raise ValueError("expected texts")
        return cls(versions=versions, **texts)

    @property
    def surroundings(self) -> tuple[object, ...]:
        """What changes the last digits of vectors without being a part of the model."""
        return self.versions, self.device, self.matmul_precision


@dataclass(frozen=True)
class Look:
    """What a model is at one moment.

    Attributes:
        state: the digest of all its tensors, None if none can be seen.
        description: all else.
        visible: whether nothing of it is hidden, and nothing custom.
        dtypes: names of the dtypes that its tensors have.
        found: what the walk through it found; None if this is what was recorded of a model.
        digests: of its tensors, by their paths.
    """

    state: str | None
    description: Description
    visible: bool
    dtypes: frozenset[str] = frozenset()
    found: Survey | None = field(default=None, compare=False, repr=False)
    digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


_TRIES = 8
"""Looks at a model while other threads begin and end encodes, before one counts all the same."""

UNSEEN = Look(None, Description("", None, (), None, None), visible=False)
"""Of a model that nobody looks at, since the user answers for it."""


class Observed:
    """What is known of one model in this process.

    What an ``encode`` changes by itself, such as a counter, is no setting: it is taken to be as it was, until
    somebody else changes it.

    Args:
        left_out: names of attributes that are known otherwise.
    """

    def __init__(self, left_out: frozenset[str] = frozenset()) -> None:
        self._left_out = left_out
        self._notes = _Changed()
        self._digests = _Changed()
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock, now and in a forked child, where no other thread runs."""
        self._lock = threading.RLock()
        self._running: dict[object, tuple[int, Look, object]] = {}
        self._counted = 0  # Beginnings and ends of encodes.

    def look(self, model: object, settings: Mapping[str, str] | None = None) -> Look:
        """Look at the model.

        While an ``encode`` of another thread is under way, what is seen besides tensors is taken to be as it
        was when that began: what it changes until it ends is not known yet.

        Args:
            model: the model, always the same one.
            settings: what is known of it besides, such as how it was loaded.
        """
        for left in reversed(range(_TRIES)):
            counted = self._counted
            found = survey(model, left_out=self._left_out)
            digests = tensor_digests(found)
            with self._lock:
                own = threading.get_ident()
                running = [
                    look for thread, look, of in self._running.values() if thread != own and of is model
                ]
                if left and not running and self._counted != counted:
                    continue  # An `encode` began and ended meanwhile, so this is neither before nor after it.
                # What is learnt later counts from here, so it must not hold what others have half changed.
                before = running[0].found if running else None
                found.notes = self._notes.undone(found.notes) if before is None else before.notes
                digests = self._digests.undone(digests)
                break
        if running:
            seen = running[0].description.seen
        else:
            all_seen = canonical_json([sorted(found.notes.items()), sorted((settings or {}).items())])
            seen = hashlib.sha256(all_seen.encode("ascii")).hexdigest()[:32]
        torch = sys.modules.get("torch")
        places = (getattr(tensor, "device", None) for tensor in found.tensors.values())
        devices = {getattr(place, "type", "cpu") for place in places}
        description = Description(
            seen=seen,
            tokenizer=digest_of(found.tokenizers),
            versions=versions(frozenset(found.libraries)),
            device=",".join(sorted(devices)) or None,
            matmul_precision=None if torch is None else _matmul_precision(torch),
        )
        visible = not found.hidden and not found.custom
        state = digest_of(digests.values())
        return Look(state, description, visible, _dtypes(found), found, digests)

    @contextmanager
    def encoding(self, model: object, look: Look) -> Iterator[None]:
        """Learn what an ``encode`` in this context changes since a look."""
        if look.found is None:
            yield
            return
        token = object()
        with self._lock:
            self._counted += 1
            self._running[token] = threading.get_ident(), look, model
        try:
            yield
        finally:
            self._learn(model, look.found, look.digests)
            with self._lock:
                self._counted += 1
                del self._running[token]

    def _learn(self, model: object, before: Survey, before_digests: Mapping[str, str]) -> None:
        # Under the lock: what was seen later must not be learnt before what was seen earlier.
        with self._lock:
            after = survey(model, left_out=self._left_out)
            own = before.owned | after.owned
            loose = {path: tensor for path, tensor in after.tensors.items() if path not in own}
            digests = {path: digest for path, digest in before_digests.items() if path not in own}
            after_digests = tensor_digests(Survey(loose))
            self._notes.learn(before.notes, after.notes)
            self._digests.learn(digests, after_digests)


class _Changed:
    """Values that an ``encode`` has changed, by their path: what they were before any, and after the last."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[str | None, str | None]] = {}

    def learn(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Note what differs."""
        for path in {*before, *after}:
            now = after.get(path)
            if path in self._values or before.get(path) != now:
                first, _ = self._values.get(path, (before.get(path), None))
                self._values[path] = first, now

    def undone(self, found: Mapping[str, str]) -> dict[str, str]:
        """Return what was found, with the first values where nobody else has changed them since."""
        result = dict(found)
        for path, (first, last) in list(self._values.items()):
            if found.get(path) != last:
                del self._values[path]
            elif first is None:
                result.pop(path, None)
            else:
                result[path] = first
        return result


def observe(model: object, left_out: frozenset[str] = frozenset(), root: str = "model") -> Observed:
    """Return what this process knows of a model; it is forgotten with the model.

    Args:
        model: the model, or what lives as long as several objects that count as one.
        left_out: names of attributes that are known otherwise.
        root: what the looks begin at, since paths are counted from there.
    """
    key = (id(model), left_out, root)
    known = _known.get(key)
    if known is not None and known[0]() is model:
        return known[1]
    observed = Observed(left_out)
    with suppress(TypeError):  # Not every object can be referred to weakly.
        _known[key] = (weakref.ref(model, lambda _: _known.pop(key, None)), observed)
    return observed


_known: dict[tuple[int, frozenset[str], str], tuple[weakref.ref[Any], Observed]] = {}


@functools.cache
def versions(modules: frozenset[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Return name and version of the installed libraries that may change vectors.

    Args:
        modules: names of top-level modules that count besides.
    """
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for name in modules - sys.stdlib_module_names - {"dejavec"}:
        package = _PACKAGE_OF.get(name, name).replace("_", "-")
        version = getattr(sys.modules.get(name), "__version__", None)
        if package not in found and isinstance(version, str):
            found[package] = version
    return tuple(sorted(found.items()))


def _matmul_precision(torch: Any) -> str:
    """Return what PyTorch may round numbers to in matrix products: its setting, and autocast if it is on."""
    kinds = [str(torch.get_float32_matmul_precision())]
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            kinds.append(f"{device} autocast {torch.get_autocast_dtype(device)}")
    return ", ".join(kinds)


def _dtypes(found: Survey) -> frozenset[str]:
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values()}
    torch: Any = sys.modules.get("torch")
    for device in ("cpu", "cuda") if torch is not None else ():
        if torch.is_autocast_enabled(device):
            names.add(str(torch.get_autocast_dtype(device)).removeprefix("torch."))
    return frozenset(names)
