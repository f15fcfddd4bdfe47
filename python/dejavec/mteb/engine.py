"""The steps from a call of mteb to its vectors: identity, place, fill, check."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from dejavec import _core
from dejavec.fill.fill import Counts, Filled, fill
from dejavec.fill.vector_store import VectorStore
from dejavec.identity.claiming import ClaimLostError
from dejavec.identity.observed import UNSEEN, Look
from dejavec.identity.wrapped import ModelChangedError
from dejavec.keys.items import Keys
from dejavec.mteb.engine_settings import EngineSettings
from dejavec.mteb.foreign_backend import ForeignCache, ForeignCall, not_kept
from dejavec.mteb.items import Items, Positions
from dejavec.mteb.model.encoders import refuse_sharing
from dejavec.mteb.model.identity import Kind, ModelIdentity, Profile, Source
from dejavec.mteb.model.methods import Methods, encoder_of, searcher
from dejavec.mteb.model_call import ModelCall, divides_calls
from dejavec.mteb.places import TaskPlaces
from dejavec.mteb.spot_check import compare, draw
from dejavec.mteb.timed_loader import Pace
from dejavec.mteb.view import WHOLE, divided
from dejavec.remote.shared_cache import opened_with
from dejavec.serving.forms import NOT_VECTORS, not_vectors
from dejavec.serving.places import Place
from dejavec.serving.siblings import Request, Siblings, own_store
from dejavec.serving.uncacheable import UncacheableError
from dejavec.support.warn import warn
from dejavec.vectors.arrays import to_rows
from dejavec.vectors.output import FLOAT32
from dejavec.vectors.ragged import Rows


class Engine:
    """Serves the ``encode`` calls of one model from caches below one directory.

    Args:
        source: the model.
        settings: the settings of the wrapper.

    Attributes:
        source: the model.
        settings: as given.

    Raises:
        ValueError: see ``scope``.
    """

    def __init__(self, source: Source, settings: EngineSettings) -> None:
        self.source = source
        self.settings = settings
        self._identity = ModelIdentity(source, settings.model_name)
        self._places = TaskPlaces(
            settings.cache_path,
            settings.cache_backend,
            settings.scope,
            {"shared": settings.shared, "allow_network": settings.allow_network},
            raises=settings.on_mismatch == "raise",
            opened=partial(opened_with, remote=settings.remote),
        )
        self._siblings = Siblings(self._places, confirming=settings.confirming)
        self._pace = Pace()
        self._counting = threading.Lock()
        self._totals = Counts(0, 0, 0, 0, 0)
        self._not_kept: dict[Place, str] = {}
        """Why the vectors of a place are not kept, where a call has shown it."""
        self._warned: set[str] = set()
        self._searcher: Any = None
        if settings.scope == "model" and source.is_built:
            refuse_sharing(source.profile().kind, text_only=True)
        _core.make_directories(str(settings.cache_path), shared=settings.shared)

    @property
    def totals(self) -> Counts:
        """The sum of the counts of all calls so far."""
        return self._totals

    @property
    def model_name(self) -> str:
        """The name of the model, for the name of a directory."""
        return self._identity.model_name

    @property
    def call_dependent(self) -> bool:
        """Whether a vector depends on the other items of the call."""
        return self.settings.call_dependent or self.source.profile().call_dependent

    def encode(self, inputs: Any, arguments: dict[str, Any]) -> Any:
        """Return the vectors of a loader's items, encoding those that are not cached.

        Args:
            inputs: a ``DataLoader`` of n items.
            arguments: all other arguments of the model's ``encode``.

        Returns:
            The n vectors as the model returns them, or its result if the call cannot be cached.

        Raises:
            DejavecError: as :meth:`dejavec.CachedEmbeddingWrapper.encode` says.
            Exception: the model's own exception.
        """
        try:
            self._profile()
            items = Items(inputs, self.settings.extra_fields)
            inputs = items.inputs
            try:
                return self._encode(items, arguments)
            except ModelChangedError:
                return self._encode(items, arguments)  # The model is built now.
        except UncacheableError as error:
            uncacheable = error
        self._warn_once(uncacheable)
        if uncacheable.vectors is not None:
            return uncacheable.vectors
        return encoder_of(self.source.model)(inputs, **arguments)

    def searcher(self, *, renewed: bool) -> Any:
        """Return the model for its own search. Where possible, its vectors come from the cache.

        Args:
            renewed: whether the search begins, with ``index``. Later calls get the same object.
        """
        model = self.source.model
        if not Methods.of(model).hides_encode:
            return model
        if renewed or self._searcher is None:
            self._searcher = searcher(model, self.encode)
        return self._searcher

    def place(self, kind: Kind, look: Look, arguments: Mapping[str, Any], *, is_full: bool = False) -> Place:
        """Return directory and identity for the vectors of a call.

        Args:
            kind: see :func:`dejavec.mteb.model.identity.encoder_kind`.
            look: the look at the model.
            arguments: all arguments of ``encode`` except the loader.
            is_full: whether the vectors have all dimensions, however many the model keeps by default.

        Raises:
            UncacheableError: an argument or setting has no stable form.
        """
        meta = self.source.mteb_model_meta
        settings = dict(getattr(meta, "experiment_kwargs", None) or {})
        if arguments.get("precision") is not None:
            settings["output_dtypes"] = arguments["precision"]
        named = ("task_metadata", "hf_split", "hf_subset")
        try:
            identity = self._identity.of_call(
                kind,
                look.state,
                **{name: arguments[name] for name in named},
                arguments={name: value for name, value in arguments.items() if name not in named},
                is_full=is_full,
            )
            if self.settings.store_dtype is not None:
                identity["store_dtype"] = self.settings.store_dtype
            return self._places.first(
                identity,
                task=arguments["task_metadata"].name,
                model=self.model_name,
                settings=settings,
            )
        except TypeError as error:
            raise UncacheableError("an argument or setting cannot be told from others", str(error)) from None

    def using(self, place: Place) -> AbstractContextManager[Any]:
        """Open the cache of a place for the time of the context.

        Raises:
            IdentityMismatchError: the directory has another identity, with ``on_mismatch="raise"``.
        """
        return self._places.using(place)

    def close(self) -> None:
        """Close all caches; a later :meth:`encode` opens them again."""
        self._places.close()

    def _encode(self, items: Items, arguments: dict[str, Any]) -> Any:
        """Return the vectors of a call that can be cached.

        Raises:
            UncacheableError: the call cannot be cached.
            ModelChangedError: the model was built in this call, and differs from its record.
        """
        profile = self._profile()
        kind = profile.kind
        if len(items) == 0:
            return encoder_of(self.source.model)(items.inputs, **arguments)
        keys = items.keys()
        if self.settings.scope == "model":
            refuse_sharing(kind, text_only=items.text_only)
        look = self.source.look() if self._siblings.asks else UNSEEN
        known = kind if items.text_only else "other"
        call = divided(arguments, known, profile.encoder, look.description.device)
        place = self.place(kind, look, call.identified, is_full=call.is_full)
        if place in self._not_kept:
            raise UncacheableError(self._not_kept[place])
        try:
            filled = self._fill(place, look, items, keys, kind=kind, arguments=call.arguments)
        except UncacheableError as error:
            if error.reason.startswith(NOT_VECTORS):
                self._not_kept[place] = error.reason
            raise UncacheableError(
                error.reason, vectors=error.vectors if call.view == WHOLE else None
            ) from None
        with self._counting:
            self._totals += filled.counts
        return call.view.of(filled.vectors, filled.output, kind)

    def _profile(self) -> Profile:
        """Return the profile of the model.

        Raises:
            UncacheableError: no vectors of this model can be cached.
        """
        try:
            profile = self.source.profile()
        except TypeError as error:
            raise UncacheableError("a setting of the model cannot be told from others", str(error)) from None
        if self.settings.call_dependent or profile.call_dependent:
            raise UncacheableError("the model's vectors depend on the rest of the call")
        return profile

    def _fill(
        self, place: Place, look: Look, items: Items, keys: Keys, *, kind: Kind, arguments: dict[str, Any]
    ) -> Filled:
        """Have the model encode the misses, and some hits to compare, if they are not proven."""
        source = self.source
        shown = None if arguments.get("show_progress_bar", True) else False
        settings = replace(self.settings.filling, progress=shown)

        def model() -> Any:
            return _Watched(source.ready(), lambda: source.encoding(look))

        def call(cache: Any) -> ModelCall:
            return ModelCall(
                model,
                kind,
                items,
                arguments=arguments,
                settings=settings,
                pace=self._pace,
                divides=divides_calls(source.model if source.is_built else None, arguments),
                refusal=not_kept if cache.container in (None, *FLOAT32) else not_vectors,
            )

        def confirming(positions: Positions, cache: Any) -> Rows | None:
            try:
                vectors = call(cache).encode(positions)
            except UncacheableError:
                return None
            return to_rows(vectors, len(positions), f"the vectors of {len(positions)} items")[0]

        def texts(positions: Positions) -> list[str]:
            return [str(text) for text in items.texts(positions)]

        def store_of(cache: Any) -> tuple[VectorStore, bool]:
            if isinstance(cache, ForeignCache):
                return ForeignCall(cache, keys, items), cache.is_empty
            # Before the cache's vectors are compared with the model's.
            cache.take(keys)
            return own_store(cache)

        request = Request(
            place,
            look,
            keys,
            source.is_built,
            source.ready,
            confirming,
            texts if items.text_only else None,
            store_of,
        )
        while True:
            with suppress(ClaimLostError), self._siblings.serving(request) as (cache, store, asked):
                filled = self._fill_from(
                    cache, store, call, items, keys, task=arguments["task_metadata"].name
                )
                return replace(filled, counts=replace(filled.counts, confirmed=asked))

    def _fill_from(
        self,
        cache: Any,
        store: VectorStore,
        call: Callable[[Any], ModelCall],
        items: Items,
        keys: Keys,
        *,
        task: str,
    ) -> Filled:
        """Fill from the chosen directory, and spot-check it."""

        def name(position: int) -> str:
            return f"item {position} of {task}"

        count = self.settings.spot_check
        hits = np.flatnonzero(store.partition(keys)[0] >= 0) if count else np.empty(0, np.intp)
        asked = call(cache)
        filled = fill(
            store,
            keys,
            asked.encode_in_time,
            asked.settings,
            name=name,
            warn_unwritten=cache.warn_once,
            texts=items.texts if self.settings.keep_texts and items.text_only else None,
            order=asked.order,
        )
        if len(hits):
            chosen = draw(hits, count)
            compare(
                filled.vectors[chosen],
                call(cache).encode(chosen),
                self.settings.spot_checked_within,
                name=lambda position: name(int(chosen[position])),
                path=cache.path,
            )
        return filled

    def _warn_once(self, error: UncacheableError) -> None:
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            warn(f"passed to the model uncached: {error}")


class _Watched:
    """A model that runs each ``encode`` in a context, which records the values that it changes."""

    def __init__(self, model: Any, encoding: Callable[[], AbstractContextManager[None]]) -> None:
        self.model = getattr(model, "model", None)
        self._whole = model
        self._encoding = encoding

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        """Return the result of the model's ``encode``."""
        with self._encoding():
            return encoder_of(self._whole)(inputs, **arguments)
