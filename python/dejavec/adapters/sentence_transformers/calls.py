"""The steps from the inference of one call to its vectors: identity, place, fill, view."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dejavec import _core
from dejavec.adapters.sentence_transformers.source import Facts, Source
from dejavec.errors import ItemError
from dejavec.fill.chunks import is_size, whole_batches
from dejavec.fill.fill import Counts, Filled, fill
from dejavec.fill.settings import FillSettings
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.claiming import ClaimLostError
from dejavec.identity.confirm import Confirming
from dejavec.identity.fingerprint import describe
from dejavec.identity.observed import Look
from dejavec.identity.wrapped import ModelChangedError
from dejavec.keys.items import Keys, item_keys, text_keys
from dejavec.keys.media import MEDIA
from dejavec.remote.shared_cache import opened_with
from dejavec.serving.forms import not_vectors
from dejavec.serving.length_order import LengthOrder, interleave_of
from dejavec.serving.places import Place, Places
from dejavec.serving.siblings import Request, Siblings, own_store
from dejavec.serving.uncacheable import UncacheableError
from dejavec.storage.identity import sibling
from dejavec.support.secret_names import without_secrets
from dejavec.support.warn import warn
from dejavec.vectors.arrays import from_rows, to_rows
from dejavec.vectors.ragged import Rows

_NEUTRAL = frozenset({"batch_size", "show_progress_bar", "save_to_cpu", "convert_to_sparse_tensor"})
"""Arguments of an inference that change no vector."""

_ELSEWHERE = frozenset({"prompt", "task", "output_value"})
"""Arguments of an inference that have entries of their own in the identity, or one value only."""

_OFF = ("normalize_embeddings", "truncate_dim", "max_active_dims", "token_pooling")
"""Arguments of an inference that do nothing if they are None or False. The identity lacks them then."""

Infer = Callable[..., Any]
"""A model's function: takes a list of n inputs and arguments, and returns their vectors."""


@dataclass(frozen=True)
class Inference:
    """One call of a model's inference, with all arguments resolved.

    Attributes:
        infer: returns the model's function, once it is built.
        inputs: the n inputs.
        arguments: the arguments of the function.
        divides: whether it divides the inputs among processes, so that its batches depend on all of them.
        on_cpu: whether the vectors are computed on the CPU.
        place: the device of the result.
    """

    infer: Callable[[Any], Infer]
    inputs: list[Any]
    arguments: Mapping[str, Any]
    divides: bool
    on_cpu: bool
    place: Any


class Calls:
    """Serves the inferences of one model from caches below one directory.

    Args:
        source: the model.
        path: the directory of all caches.
        settings: the settings of each call.
        confirming: how the model is asked whether cached vectors are its own.
        keep_texts: whether the texts of the rows are kept.
        shared: whether new directories and files are group-shared.
        allow_network: whether to write on a network file system.

    Attributes:
        source: as given.
        path: as given.
        totals: the sum of the counts of all calls so far.
    """

    def __init__(
        self,
        source: Source,
        path: Path,
        settings: FillSettings,
        confirming: Confirming,
        *,
        keep_texts: bool,
        shared: bool,
        allow_network: bool,
        remote: str | None,
    ) -> None:
        self.source = source
        self.path = path
        self.totals = Counts(0, 0, 0, 0, 0)
        self._settings = settings
        self._keep_texts = keep_texts
        options = {"shared": shared, "allow_network": allow_network}
        self._places = Places((), options, raises=False, opened=partial(opened_with, remote=remote))
        self._siblings = Siblings(self._places, confirming=confirming)
        self._counting = threading.Lock()
        self._warned: set[str] = set()
        _core.make_directories(str(path), shared=shared)

    def close(self) -> None:
        """Close all caches; a later call opens them again."""
        self._places.close()

    def run(self, call: Inference) -> Any:
        """Return the vectors of a call, encoding those that are not cached.

        Raises:
            DejavecError: the vectors do not fit, or are not confirmed, and the settings say to raise.
            Exception: the model's own exception.
        """
        try:
            try:
                return self._cached(call)
            except ModelChangedError:
                return self._cached(call)  # The model is built now.
        except UncacheableError as error:
            self.warn_once(error)
        return call.infer(self.source.model)(call.inputs, **call.arguments)

    def warn_once(self, error: UncacheableError) -> None:
        """Warn that a call is not cached, unless the reason is known already."""
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            warn(f"passed to the model uncached: {error}")

    def _cached(self, call: Inference) -> Any:
        """Return the vectors of a call that can be cached.

        Raises:
            UncacheableError: the call cannot be cached.
            ModelChangedError: the model was built in this call, and differs from its record.
        """
        source, family = self.source, self.source.family
        arguments = call.arguments
        if not call.inputs or arguments.get("output_value", family.vectors) != family.vectors:
            return call.infer(source.model)(call.inputs, **arguments)
        try:
            facts, look = source.facts(), source.look()
        except TypeError as error:
            raise UncacheableError("a setting of the model cannot be told from others", str(error)) from None
        keys = _keys(call.inputs, facts)
        stored, view = family.split(arguments, call.on_cpu)
        place = self._place(facts, look, stored)
        filled = self._fill(place, look, call, keys, facts=facts, arguments=stored)
        with self._counting:
            self.totals += filled.counts
        vectors = family.view(from_rows(filled.vectors, filled.output), **view)
        return (
            [one.to(call.place) for one in vectors] if isinstance(vectors, list) else vectors.to(call.place)
        )

    def _place(self, facts: Facts, look: Look, stored: Mapping[str, Any]) -> Place:
        """Return directory and identity for the vectors of a call.

        Raises:
            UncacheableError: an argument has no stable form.
        """
        role, text = stored.get("task"), stored.get("prompt")
        left_out = _NEUTRAL | _ELSEWHERE
        try:
            further = {
                name: describe(value)
                for name, value in without_secrets(dict(stored)).items()
                if name not in left_out and not (name in _OFF and (value is None or value is False))
            }
            identity = {
                "model": {**({"name": facts.name} if facts.name else {}), "state": look.state},
                "encoder": {"family": self.source.family.name, **facts.settings},
                "role": None if role is None else describe(role),
                "prompt": {"text": describe(text)},
                "arguments": further,
            }
        except TypeError as error:
            raise UncacheableError("an argument cannot be told from others", str(error)) from None
        name = role if role in ("query", "document") else "text"
        return Place.of(sibling(self.path / name, identity), identity)

    def _fill(
        self,
        place: Place,
        look: Look,
        call: Inference,
        keys: Keys,
        *,
        facts: Facts,
        arguments: Mapping[str, Any],
    ) -> Filled:
        """Have the model encode the misses, and some hits to compare, if they are not proven."""
        source, inputs = self.source, call.inputs
        texts_only = all(isinstance(item, str) for item in inputs)

        encoding = _Encoding(source, look)

        def encode(positions: Positions) -> Any:
            infer = call.infer(source.ready())
            encoding.begin()
            vectors = infer([inputs[position] for position in positions], **quiet)
            reason = not_vectors(vectors)
            if reason is not None:
                raise UncacheableError(reason)
            return vectors

        def confirming(positions: Positions, cache: Any) -> Rows | None:
            del cache
            with encoding:
                try:
                    return to_rows(
                        encode(positions), len(positions), f"the vectors of {len(positions)} items"
                    )[0]
                except UncacheableError:
                    return None

        def texts(positions: Positions) -> list[str]:
            return [inputs[position] for position in positions]

        def store_of(cache: Any) -> tuple[VectorStore, bool]:
            # Before the cache's vectors are compared with the model's.
            cache.take(keys)
            return own_store(cache)

        size = arguments.get("batch_size")
        sorts = facts.sorts and not call.divides and is_size(size)
        chunks = _Chunks(encode, inputs, source, size if sorts and is_size(size) else None)
        settings = replace(
            self._settings,
            chunk_rows=whole_batches(self._settings.chunk_rows, (size,)) if sorts else len(inputs),
            chunk_seconds=self._settings.chunk_seconds if sorts else None,
            batch_rows=size if sorts else None,
            progress=bool(arguments.get("show_progress_bar")) and sorts,
        )
        # One bar counts the items of the call. The bars of the model would each count those of a chunk.
        quiet = {**arguments, "show_progress_bar": False} if settings.progress else dict(arguments)
        request = Request(
            place,
            look,
            keys,
            source.is_built,
            source.ready,
            confirming,
            texts if texts_only else None,
            store_of,
        )
        while True:
            with suppress(ClaimLostError), self._siblings.serving(request) as (cache, store, asked), encoding:
                filled = fill(
                    store,
                    keys,
                    chunks.encode,
                    settings,
                    warn_unwritten=cache.warn_once,
                    texts=texts if self._keep_texts and texts_only else None,
                    order=chunks.order if sorts else None,
                )
                return replace(filled, counts=replace(filled.counts, confirmed=asked))


class _Encoding:
    """Encloses all chunks of a call, so that one walk through the model finds what its inference changes.

    Args:
        source: the model.
        look: the look at it before the call.
    """

    def __init__(self, source: Source, look: Look) -> None:
        self._source = source
        self._look = look
        self._entered: ExitStack | None = None

    def begin(self) -> None:
        """Say that the model is about to encode."""
        if self._entered is None:
            self._entered = ExitStack()
            self._entered.enter_context(self._source.encoding(self._look))

    def __enter__(self) -> None:
        """Do nothing: if all items are cached, the model is not read again."""

    def __exit__(self, *_: object) -> None:
        if self._entered is not None:
            self._entered.close()
            self._entered = None


class _Chunks:
    """Encodes the items of one call in chunks that have the batches of the whole call.

    Args:
        encode: returns the model's vectors of the items at some positions.
        inputs: all items of the call.
        source: the model.
        batch_rows: how many items the model computes together; None: it is not known in which order.
    """

    def __init__(
        self,
        encode: Callable[[Positions], Any],
        inputs: list[Any],
        source: Source,
        batch_rows: int | None,
    ) -> None:
        self._encode = encode
        self._inputs = inputs
        self._source = source
        self._batch_rows = batch_rows
        self._order: LengthOrder | None = None

    def order(self, misses: Positions) -> Positions:
        """Sort positions as the model does."""
        if self._batch_rows is None or len(misses) <= self._batch_rows:
            return misses
        model = self._source.ready()
        lengths = np.fromiter(map(model._input_length, self._inputs), np.int64, len(self._inputs))
        interleave = interleave_of(model) if self._source.family.interleaves else None
        self._order = LengthOrder(lengths, interleave)
        return self._order.of(misses)

    def encode(self, positions: Positions) -> Any:
        """Return the vectors of the items at positions that :meth:`order` has sorted."""
        if self._order is None or self._batch_rows is None:
            return self._encode(positions)
        return self._order.encode_batches(positions, self._encode, self._batch_rows)


_PATH = "a text is the path or the address of a file"


def _keys(inputs: list[Any], facts: Facts) -> Keys:
    """Return the keys of inputs (n, 32).

    Raises:
        UncacheableError: an input has no key.
    """
    try:
        if all(isinstance(item, str) for item in inputs) and not facts.reads_media:
            return text_keys(inputs)
        return item_keys([_fields(item, facts) for item in inputs])
    except (ItemError, ValueError) as error:
        raise UncacheableError("an input has no key", str(error)) from None


def _fields(item: Any, facts: Facts) -> dict[str, Any]:
    """Return an input as the fields that the library reads from it.

    Raises:
        ValueError: these are unknown.
    """
    from sentence_transformers.base.modality import infer_modality

    if isinstance(item, dict) and set(item) <= {"text", *MEDIA}:
        if any(isinstance(part, str) and _is_file(part, facts) for part in item.values()):
            raise ValueError(_PATH)
        return item
    if isinstance(item, str):
        if _is_file(item, facts):
            raise ValueError(_PATH)
        return {"text": item}
    modality = infer_modality(item)
    if modality not in MEDIA:
        raise ValueError(f"an input is {modality}: a {type(item).__name__}")
    return {str(modality): item}


def _is_file(text: str, facts: Facts) -> bool:
    """Return whether the library may read a text as the path or the address of a file."""
    from sentence_transformers.base.modality import infer_modality

    return facts.reads_media and infer_modality(text) != "text"
