"""A look at a model: its state, its description, and whether any part is hidden."""

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
"""Another version of one of these libraries may change vectors."""

_PACKAGE_OF = {"sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Description:
    """Everything seen of a model besides its state, as digests and short texts.

    Attributes:
        seen: a digest of classes, attributes, configurations, hooks, code and settings.
        tokenizer: a digest of the content of its tokenizers; None without any.
        versions: name and version of each library that may change vectors.
        device: the device types of its tensors, such as ``"cpu"``; None without tensors.
        matmul_precision: PyTorch's precision for float32 matrix products; None without PyTorch.
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
            KeyError, TypeError, ValueError, AttributeError: the fields are no description.
        """
        versions = tuple(sorted((str(name), str(version)) for name, version in fields["versions"].items()))
        texts = {name: fields[name] for name in ("seen", "tokenizer", "device", "matmul_precision")}
        if not all(text is None or isinstance(text, str) for text in texts.values()) or texts["seen"] is None:
            raise ValueError("expected texts")
        return cls(versions=versions, **texts)

    @property
    def surroundings(self) -> tuple[object, ...]:
        """Versions, device and precision, which may change the last digits of vectors."""
        return self.versions, self.device, self.matmul_precision


@dataclass(frozen=True)
class Look:
    """A model as it is at one moment.

    Attributes:
        state: the digest of all its tensors; None if none can be read.
        description: everything else.
        visible: whether no part is hidden or custom (see :class:`~dejavec.identity.survey.Survey`).
        dtypes: names of the dtypes of its tensors.
        found: the result of the walk; None if the look comes from a record instead.
        digests: the digest of each tensor, by path.
    """

    state: str | None
    description: Description
    visible: bool
    dtypes: frozenset[str] = frozenset()
    found: Survey | None = field(default=None, compare=False, repr=False)
    digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


_TRIES = 8
"""Attempts to look at a model while no other thread begins or ends an encode. The last one counts anyway."""

UNSEEN = Look(None, Description("", None, (), None, None), visible=False)
"""The look for a model that is not examined, because the user vouches for it."""


class Observed:
    """The knowledge of this process about one model.

    A value that ``encode`` itself changes, such as a counter, is no setting. A look reports its first value,
    until somebody else changes it.

    Args:
        left_out: names of attributes to skip.
    """

    def __init__(self, left_out: frozenset[str] = frozenset()) -> None:
        self._left_out = left_out
        self._notes = _Changed()
        self._digests = _Changed()
        make_locks_of(self)

    def make_locks(self) -> None:
        """Make the lock. A forked child makes a new one, since no other thread runs there."""
        self._lock = threading.RLock()
        self._running: dict[object, tuple[int, Look, object]] = {}
        self._counted = 0  # How many encodes began, plus how many ended.

    def look(self, model: object, settings: Mapping[str, str] | None = None) -> Look:
        """Look at the model.

        While another thread runs ``encode``, the look reports the notes from the start of that ``encode``.
        Only its end shows which of them it changes. Tensors are read as they are.

        Args:
            model: the model, always the same one.
            settings: settings known from elsewhere, such as how the model was loaded.
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
                    continue  # An `encode` began or ended meanwhile, so the values may be half changed.
                # Later changes are measured from this look, so it must hold no half-changed values.
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
        """Record which values an ``encode`` in this context changes after a look."""
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
        # The lock covers the walk too, so that walks are learnt in the order in which they ran.
        with self._lock:
            after = survey(model, left_out=self._left_out)
            own = before.owned | after.owned
            loose = {path: tensor for path, tensor in after.tensors.items() if path not in own}
            digests = {path: digest for path, digest in before_digests.items() if path not in own}
            after_digests = tensor_digests(Survey(loose))
            self._notes.learn(before.notes, after.notes)
            self._digests.learn(digests, after_digests)


class _Changed:
    """Values that ``encode`` changed, by path: before the first ``encode``, and after the last."""

    def __init__(self) -> None:
        self._changed_values: dict[str, tuple[str | None, str | None]] = {}

    def learn(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Note the values that differ."""
        for path in {*before, *after}:
            now = after.get(path)
            if path in self._changed_values or before.get(path) != now:
                first, _ = self._changed_values.get(path, (before.get(path), None))
                self._changed_values[path] = first, now

    def undone(self, found: Mapping[str, str]) -> dict[str, str]:
        """Return the found values, but the first value where only ``encode`` changed it."""
        result = dict(found)
        for path, (first, last) in list(self._changed_values.items()):
            if found.get(path) != last:
                del self._changed_values[path]
            elif first is None:
                result.pop(path, None)
            else:
                result[path] = first
        return result


def observe(model: object, left_out: frozenset[str] = frozenset(), root: str = "model") -> Observed:
    """Return the knowledge of this process about a model. It is dropped together with the model.

    Args:
        model: the model, or an object with the same lifetime as several objects that count as one model.
        left_out: names of attributes to skip.
        root: names the object where looks begin, since paths start there.
    """
    key = (id(model), left_out, root)
    known = _known.get(key)
    if known is not None and known[0]() is model:
        return known[1]
    observed = Observed(left_out)
    with suppress(TypeError):  # Some objects allow no weak reference.
        _known[key] = (weakref.ref(model, lambda _: _known.pop(key, None)), observed)
    return observed


_known: dict[tuple[int, frozenset[str], str], tuple[weakref.ref[Any], Observed]] = {}


@functools.cache
def versions(modules: frozenset[str] = frozenset()) -> tuple[tuple[str, str], ...]:
    """Return name and version of the installed libraries that may change vectors.

    Args:
        modules: names of further top-level modules to include.
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
    """Return PyTorch's precision for matrix products: its setting, and autocast if that is on."""
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
