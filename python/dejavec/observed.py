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

from dejavec.identity import canonical_json
from dejavec.state import digest_of, tensor_digests
from dejavec.survey import Survey, survey

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


_PATIENCE = 10.0
"""Seconds to wait for the ``encode`` of another thread, so that threads that wait for each other go on."""


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


class Observed:
    """What is known of one model in this process.

    What an ``encode`` changes by itself, such as a counter, is no setting: from then on it is taken to be as
    it was before.

    Args:
        left_out: names of attributes that are known otherwise.
    """

    def __init__(self, left_out: frozenset[str] = frozenset()) -> None:
        self._left_out = left_out
        self._running: dict[object, tuple[int, Mapping[str, str]]] = {}
        self._notes_kept: dict[str, str | None] = {}
        self._digests_kept: dict[str, str | None] = {}
        self._changed = threading.Condition()

    def look(self, model: object, settings: Mapping[str, str] | None = None) -> Look:
        """Look at the model.

        Args:
            model: the model, always the same one.
            settings: what is known of it besides, such as how it was loaded.
        """
        found = self._survey(model)
        digests = tensor_digests(found)
        with self._changed:
            notes = _with(found.notes, self._notes_kept)
            state = digest_of(_with(digests, self._digests_kept).values())
        seen = canonical_json([sorted(notes.items()), sorted((settings or {}).items())])
        torch = sys.modules.get("torch")
        devices = {
            getattr(getattr(tensor, "device", None), "type", "cpu") for tensor in found.tensors.values()
        }
        description = Description(
            seen=hashlib.sha256(seen.encode("ascii")).hexdigest()[:32],
            tokenizer=digest_of(found.tokenizers),
            versions=versions(),
            device=",".join(sorted(devices)) or None,
            matmul_precision=None if torch is None else torch.get_float32_matmul_precision(),
        )
        visible = not found.hidden and not found.custom
        return Look(state, description, visible, _dtypes(found), found, digests)

    def _survey(self, model: object) -> Survey:
        """Walk through the model, when no ``encode`` of another thread is about to change what is seen."""
        while True:
            found = survey(model, left_out=self._left_out)
            with self._changed:
                own, now = threading.get_ident(), _with(found.notes, self._notes_kept)
                others = [notes for thread, notes in self._running.values() if thread != own]
                if all(_with(notes, self._notes_kept) == now for notes in others):
                    return found
                if not self._changed.wait(_PATIENCE):
                    return found

    @contextmanager
    def encoding(self, model: object, look: Look) -> Iterator[None]:
        """Learn what an ``encode`` in this context changes since a look."""
        if look.found is None:
            yield
            return
        token = object()
        with self._changed:
            self._running[token] = threading.get_ident(), look.found.notes
        try:
            yield
        finally:
            self._note_encoded(model, look.found, look.digests, token)

    def _note_encoded(
        self, model: object, before: Survey, before_digests: Mapping[str, str], token: object
    ) -> None:
        after = survey(model, left_out=self._left_out)
        own = before.owned | after.owned
        loose = {path: tensor for path, tensor in after.tensors.items() if path not in own}
        digests = {path: digest for path, digest in before_digests.items() if path not in own}
        after_digests = tensor_digests(Survey(loose))
        with self._changed:
            _keep_changed(self._notes_kept, before.notes, after.notes)
            _keep_changed(self._digests_kept, digests, after_digests)
            del self._running[token]
            self._changed.notify_all()


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
def versions() -> tuple[tuple[str, str], ...]:
    """Return name and version of the installed libraries that may change vectors."""
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return tuple(sorted(found.items()))


def _with(found: Mapping[str, str], kept: Mapping[str, str | None]) -> dict[str, str]:
    """Return what was found, with what counts as unchanged in the place of what it is now."""
    merged: dict[str, str | None] = {**found, **kept}
    return {path: value for path, value in merged.items() if value is not None}


def _keep_changed(kept: dict[str, str | None], before: Mapping[str, str], after: Mapping[str, str]) -> None:
    for path in {*before, *after}:
        if before.get(path) != after.get(path):
            kept.setdefault(path, before.get(path))


def _dtypes(found: Survey) -> frozenset[str]:
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in found.tensors.values()}
    torch: Any = sys.modules.get("torch")
    for device in ("cpu", "cuda") if torch is not None else ():
        if torch.is_autocast_enabled(device):
            names.add(str(torch.get_autocast_dtype(device)).removeprefix("torch."))
    return frozenset(names)
