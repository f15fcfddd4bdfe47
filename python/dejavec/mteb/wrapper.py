"""A drop-in for mteb's ``CachedEmbeddingWrapper``: the same scores with and without it."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dejavec import _core
from dejavec.backends import CacheBackendProtocol, NumpyCache
from dejavec.claiming import ClaimLostError
from dejavec.closing import Closing
from dejavec.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.errors import MissingPackageError
from dejavec.fill import Counts, Filled, fill
from dejavec.handle import OnMismatch
from dejavec.keys import Keys
from dejavec.mteb.encoders import INTEGER_PRECISIONS, as_encoder, refuse_sharing, searches
from dejavec.mteb.foreign_backend import is_backend, not_kept
from dejavec.mteb.lazy_model import LazyModel, ModelChangedError, Recipe, is_recipe
from dejavec.mteb.loaders import Items, Positions, UncacheableError
from dejavec.mteb.model_call import NOT_DENSE, ModelCall, divides_calls, not_dense, quantised
from dejavec.mteb.model_identity import BuiltModel, Kind, ModelIdentity
from dejavec.mteb.places import Place, Places, Scope
from dejavec.mteb.siblings import Request, Siblings
from dejavec.mteb.spot_check import compare, draw
from dejavec.mteb.timed_loader import Pace
from dejavec.observed import UNSEEN, Look
from dejavec.paths import local_directory
from dejavec.settings import FillSettings, OnProblem, check_choice
from dejavec.values import Rows, from_rows, to_rows
from dejavec.vector_store import VectorStore
from dejavec.warn import warn

_QUANTISED_HERE = frozenset({"int8", "uint8", "binary", "ubinary"})
"""What sentence-transformers makes of float vectors after the last batch."""

_NOT_FORWARDED = frozenset({"predict", "index", "search"})


class CachedEmbeddingWrapper(Closing):
    """An mteb model whose embeddings are kept on disk and made only once.

    Vectors lie in ``<cache_path>/<task>[/experiments/<settings>][/<query or document>]``, one cache for each
    state of the model, prompt and setting: where another's vectors lie already, the cache goes to a directory
    beside it. The state is a digest of all tensors of the model as they are in memory, taken at each call, so
    vectors from before a training are not served after it. Where more than tensors may have changed (code,
    attributes, versions, an API), the model is asked: it encodes a few of the cached items again, once in a
    process, and vectors are served only if it returns the same.

    What cannot be cached truly goes to the model as it is, with one warning: output that is no dense 2-D
    array, models whose vectors depend on the rest of the call, items and arguments that cannot be told apart.

    A model may be given by its name: then it is built when the first vector is missing, and a run that finds
    all needs neither weights nor a GPU. What was seen of it when it was built first lies in
    ``<cache_path>/models.json``, and counts if its name and a commit, or ``model_name``, settle the weights,
    or if its name is a directory in which no file has changed. Other models with weights are built at the
    first call.

    Attributes that the wrapper does not have are the model's, to read and to assign.

    Args:
        model: an mteb encoder, or a bare ``SentenceTransformer``; or how to build one: a name in mteb's
            registry, a ``ModelMeta``, or a function without arguments.
        cache_path: the directory of all caches of this wrapper.
        cache_backend: the kind of cache: ``NumpyCache``, ``FaissCache``, or any class with the methods of
            ``CacheBackendProtocol``. All but the first keep float32; what that does not hold passes through.
            The third kind lies in directories of its own, ``<directory>@<12 hex digits>``.
        model_meta: the metadata of what a function builds.
        model_name: ``"name@revision"``: the user answers for the model, whatever is seen of it.
        chunk_rows: how many items are encoded and committed at a time at most, in whole batches.
        chunk_seconds: how long a chunk may take before it is committed; None: only ``chunk_rows`` counts. It
            changes no bit: chunks are cut where the model's batches end. A model that reads all of its input
            before it computes gets one call for each ``chunk_rows``, and a warning says so.
        extra_fields: columns besides mteb's own that the model reads.
        call_dependent: whether the model's vectors depend on what else is in the call.
        scope: ``"model"`` shares the vectors between tasks, apart by prompt and role, in
            ``<cache_path>/<model>``. Only for text, and models whose ``encode`` is that of mteb's
            ``SentenceTransformerEncoderWrapper`` or ``InstructSentenceTransformerModel``.
        confirm: how many cached items the model is asked for where it cannot be seen whether it is the one
            that made them; four times as many if nothing like it did. With 0 it is never asked, and only
            vectors of a description that is proven are served. None is 4, or no question with ``model_name``.
        confirm_tolerance: how far a number may be from the cached one then, as a part of the largest number
            in its vector; None is 1e-4, of half precision 1e-2 (float16) or 5e-2 (bfloat16), and 5e-2 where
            versions of libraries, the type of device or the precision of matrix products differ.
        on_unconfirmed: whether cached vectors warn or raise if the model fails when it is asked, or answers
            differently each time, but looks as it did when it made them.
        spot_check: how many of the vectors that each call finds are made again, to compare them.
        spot_check_tolerance: how far a number of such a vector may be from the held one, as a part of the
            largest number in it. Models that pad differ in the last bits when the batch is another: of
            float32, by less than 1e-5; half precision needs about 1e-2.
        on_mismatch: whether a directory of another model's vectors is left for one beside it, or raises.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_write_error: whether an evaluation completes with a warning if writing fails, or raises.
        shared: whether new directories and their files are for the group too, as in ``EmbeddingCache``.
        allow_network: whether to write on a network file system, as in ``EmbeddingCache``.

    Raises:
        ValueError: the model has no ``encode``, or quantises over the whole call; or see ``scope``.
        KeyError: mteb knows no model of this name.

    Example:
        >>> import tempfile, mteb
        >>> from mteb.mocks.mock_tasks import MockRetrievalTask
        >>> from dejavec import CachedEmbeddingWrapper
        >>> model, task = mteb.get_model("mteb/baseline-random-encoder"), MockRetrievalTask()
        >>> with (
        ...     tempfile.TemporaryDirectory() as directory,
        ...     CachedEmbeddingWrapper(model, directory, model_name="random@2") as cached,
        ... ):
        ...     result = mteb.evaluate(cached, task, cache=None, co2_tracker=False)
        ...     cached.totals.misses, sorted(path.name for path in Path(directory).glob("*/*"))
        (4, ['document', 'query'])
    """

    cache_path: Path
    cache_backend: type[CacheBackendProtocol] | type[NumpyCache]
    _given: dict[str, Any]
    _counting: threading.Lock
    totals: Counts
    """What all calls so far have found, added up."""
    _source: BuiltModel | LazyModel
    _identity: ModelIdentity
    _places: Places
    _siblings: Siblings
    _scope: Scope
    _settings: FillSettings
    _pace: Pace
    _extra_fields: tuple[str, ...]
    _marked_call_dependent: bool
    _spot_check: int
    _tolerance: float
    _not_dense: set[Place]
    _warned: set[str]

    def __new__(cls, model: Any, *_args: Any, **keywords: Any) -> CachedEmbeddingWrapper:
        """Make a wrapper that searches only if the model does: mteb tells models by their methods."""
        if "mteb" not in sys.modules and importlib.util.find_spec("mteb") is None:
            raise MissingPackageError(
                cls.__name__, expected="the package mteb", found="none", remedy="pip install 'dejavec[mteb]'"
            )
        if is_recipe(model):
            searching = Recipe(model, keywords.get("model_meta")).searches
        else:
            searching = searches(model)
        return super().__new__(_SearchingWrapper if searching and cls is CachedEmbeddingWrapper else cls)

    def __init__(
        self,
        model: Any,
        cache_path: str | os.PathLike[str],
        cache_backend: type[CacheBackendProtocol] | type[NumpyCache] = NumpyCache,
        *,
        model_meta: Any | None = None,
        model_name: str | None = None,
        chunk_rows: int = 10_000,
        chunk_seconds: float | None = 10.0,
        extra_fields: Sequence[str] = (),
        call_dependent: bool = False,
        scope: Scope = "task",
        confirm: int | None = None,
        confirm_tolerance: float | None = None,
        on_unconfirmed: OnUnconfirmed = "warn",
        spot_check: int = 0,
        spot_check_tolerance: float = 1e-5,
        on_mismatch: OnMismatch = "sibling",
        on_nonfinite: OnProblem = "warn",
        on_write_error: OnProblem = "warn",
        shared: bool = False,
        allow_network: bool = False,
    ) -> None:
        own = self.__dict__
        given = {name: value for name, value in locals().items() if name not in ("self", "own", "__class__")}
        own["cache_path"] = local_directory(cache_path, "cache_path")
        own["_given"] = {**given, "cache_path": str(self.cache_path)}
        if is_recipe(model) or model_meta is not None:
            recipe = Recipe(model, model_meta)
            own["_source"] = LazyModel(recipe, self.cache_path, named=model_name is not None)
        else:
            own["_source"] = BuiltModel(as_encoder(model))
        if not is_backend(cache_backend):
            raise ValueError(f"expected cache_backend to be a CacheBackendProtocol, found {cache_backend!r}")
        if spot_check < 0 or not spot_check_tolerance >= 0:
            raise ValueError(
                "expected spot_check and spot_check_tolerance of at least 0, found "
                f"{spot_check} and {spot_check_tolerance}"
            )
        own["_settings"] = FillSettings(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            on_nonfinite=on_nonfinite,
            on_write_error=on_write_error,
        )
        check_choice("on_mismatch", on_mismatch, OnMismatch)
        check_choice("on_unconfirmed", on_unconfirmed, OnUnconfirmed)
        own["_pace"] = Pace()
        if scope not in get_args(Scope):
            raise ValueError(f"expected scope to be one of {get_args(Scope)}, found {scope!r}")
        own["cache_backend"] = cache_backend
        own["totals"] = Counts(0, 0, 0, 0, 0)
        own["_counting"] = threading.Lock()
        own["_identity"] = ModelIdentity(self._source, model_name)
        options = {"shared": shared, "allow_network": allow_network}
        raises = on_mismatch == "raise"
        own["_places"] = Places(self.cache_path, cache_backend, scope, options, raises=raises)
        items = KNOWN_ITEMS if confirm is None else confirm
        confirming = Confirming(items, confirm_tolerance, on_unconfirmed)
        own["_siblings"] = Siblings(
            self._places,
            confirming=None if confirm is None and model_name is not None else confirming,
        )
        own["_scope"] = scope
        own["_extra_fields"] = tuple(extra_fields)
        own["_marked_call_dependent"] = call_dependent
        own["_spot_check"] = spot_check
        own["_tolerance"] = spot_check_tolerance
        own["_not_dense"] = set()
        own["_warned"] = set()
        if scope == "model" and self._source.is_built:
            refuse_sharing(self._source.profile().kind, text_only=True)
        _core.make_directories(str(self.cache_path), shared)

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **arguments: Any
    ) -> Any:
        """Return the vectors of a loader's items, encoding those that are not held.

        Args:
            inputs: a ``DataLoader`` of n items, as mteb makes it.
            task_metadata: mteb's description of the task.
            hf_split: the split the items are from.
            hf_subset: the subset the items are from.
            **arguments: ``prompt_type``, ``batch_size`` and whatever else the model's ``encode`` takes.

        Returns:
            The vectors (n, dim), in the order of the loader, of the kind and dtype that the model returns;
            tensors are on the CPU. If the call cannot be cached, what the model returns.

        Raises:
            VectorsError: the model returned another number of rows, another dimension or dtype than before.
            IdentityMismatchError: see ``on_mismatch``.
            UnconfirmedError: see ``on_unconfirmed``.
            SpotCheckError: see ``spot_check``.
            ValueError: see ``scope``.
            Exception: whatever the model raises, unchanged.
        """
        arguments = {
            "task_metadata": task_metadata,
            "hf_split": hf_split,
            "hf_subset": hf_subset,
            **arguments,
        }
        try:
            self._known_kind()
            items = Items(inputs, self._extra_fields)
            inputs = items.inputs
            try:
                return self._encode(items, arguments)
            except ModelChangedError:
                return self._encode(items, arguments)  # It is built by now, and asked itself.
        except UncacheableError as error:
            uncacheable = error
        self._warn_once(uncacheable)
        if uncacheable.vectors is not None:
            return uncacheable.vectors
        return self._model.encode(inputs, **arguments)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of all pairs of vectors."""
        return self._source.similarity("similarity", embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of the vectors at the same position."""
        return self._source.similarity("similarity_pairwise", embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """The model's metadata; assigning replaces it in the model."""
        return self._source.mteb_model_meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._source.mteb_model_meta = meta

    def close(self) -> None:
        """Release all caches; a later ``encode`` opens them again."""
        self._places.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the model, the path and the settings; whoever is given them opens the caches there."""
        model = self._source.model if isinstance(self._source, BuiltModel) else self._given["model"]
        return _rewrapped, (type(self), {**self._given, "model": model})

    def __repr__(self) -> str:
        if "_identity" not in self.__dict__:
            return f"<{type(self).__name__}>"
        return f"CachedEmbeddingWrapper({self._identity.model_name!r}, {str(self.cache_path)!r})"

    def __getattr__(self, name: str) -> Any:
        # `_source` is missing only before `__init__`, as while unpickling.
        refused = name.startswith("__") or name in _NOT_FORWARDED or "_source" not in self.__dict__
        # Notebooks and the like look for private names, which is no reason to build a model.
        if refused or (name.startswith("_") and not self._source.is_built):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self._model, name, value)

    @property
    def _model(self) -> Any:
        """The model, built by now."""
        return self._source.model

    @property
    def _call_dependent(self) -> bool:
        return self._marked_call_dependent or self._source.profile().call_dependent

    def _encode(self, items: Items, arguments: dict[str, Any]) -> Any:
        """Do what :meth:`encode` does, for calls that can be cached.

        Raises:
            UncacheableError: this one cannot.
            ModelChangedError: the model is built now, and is another than it was known to be.
        """
        kind = self._known_kind()
        if len(items) == 0:
            return self._model.encode(items.inputs, **arguments)
        keys = items.keys()
        if self._scope == "model":
            refuse_sharing(kind, text_only=items.text_only)
        known = kind != "other" and items.text_only
        precision = arguments.get("precision")
        quantise = known and precision in _QUANTISED_HERE
        if precision in INTEGER_PRECISIONS and not quantise:
            raise UncacheableError(f"precision {precision!r} is taken over the whole call")
        floats = {name: value for name, value in arguments.items() if name != "precision"}
        makes_floats = known and (quantise or precision == "float32")
        look = self._source.look() if self._siblings.asks else UNSEEN
        place = self._place(kind, look, floats if makes_floats else arguments)
        if place in self._not_dense:
            raise UncacheableError(NOT_DENSE)
        try:
            filled = self._fill(
                place, look, items, keys, kind=kind, arguments=floats if quantise else arguments
            )
        except UncacheableError as error:
            if error.reason == NOT_DENSE:
                self._not_dense.add(place)
            raise UncacheableError(error.reason, vectors=None if quantise else error.vectors) from None
        with self._counting:
            self.__dict__["totals"] = _sum(self.totals, filled.counts)
        if quantise:
            return quantised(filled.vectors, filled.output, kind, str(precision))
        return from_rows(filled.vectors, filled.output)

    def _known_kind(self) -> Kind:
        """Return how much is known of the model's ``encode``.

        Raises:
            UncacheableError: no vectors of this model can be cached.
        """
        try:
            kind, call_dependent = self._source.profile().kind, self._call_dependent
        except TypeError as error:
            raise UncacheableError("a setting of the model cannot be told from others", str(error)) from None
        if call_dependent:
            raise UncacheableError("the model's vectors depend on the rest of the call")
        return kind

    def _fill(
        self, place: Place, look: Look, items: Items, keys: Keys, *, kind: Kind, arguments: dict[str, Any]
    ) -> Filled:
        """Have the model encode what is missing, and some of what is not where that is in doubt."""
        settings = replace(
            self._settings, progress=None if arguments.get("show_progress_bar", True) else False
        )

        def model() -> Any:
            return _Watched(self._source.ready(), lambda: self._source.encoding(look))

        def call(cache: Any) -> ModelCall:
            return ModelCall(
                model,
                kind,
                items,
                arguments=arguments,
                settings=settings,
                pace=self._pace,
                divides=divides_calls(self._model if self._source.is_built else None, arguments),
                refusal=not_dense if cache.container == "npy" else not_kept,
            )

        def confirming(positions: Positions, cache: Any) -> Rows | None:
            try:
                vectors = call(cache).encode(positions)
            except UncacheableError:
                return None
            return to_rows(vectors, len(positions), f"the vectors of {len(positions)} items")[0]

        request = Request(place, look, items, keys, self._source.is_built, self._source.ready, confirming)
        while True:
            with suppress(ClaimLostError), self._siblings.serving(request) as (cache, store, asked):
                filled = self._fill_from(cache, store, call, keys, arguments["task_metadata"].name)
                return replace(filled, counts=replace(filled.counts, confirmed=asked))

    def _fill_from(
        self, cache: Any, store: VectorStore, call: Callable[[Any], ModelCall], keys: Keys, task: str
    ) -> Filled:
        """Fill from the directory that serves a call, and spot-check it."""

        def name(position: int) -> str:
            return f"item {position} of {task}"

        hits = np.flatnonzero(store.partition(keys)[0] >= 0) if self._spot_check else np.empty(0, np.intp)
        asked = call(cache)
        filled = fill(
            store,
            keys,
            asked.encode_in_time,
            asked.settings,
            name=name,
            warn_unwritten=cache.warn_once,
            order=asked.order,
        )
        if len(hits):
            chosen = draw(hits, self._spot_check)
            compare(
                filled.vectors[chosen],
                call(cache).encode(chosen),
                self._tolerance,
                name=lambda position: name(int(chosen[position])),
                path=cache.path,
            )
        return filled

    def _place(self, kind: Kind, look: Look, arguments: Mapping[str, Any]) -> Place:
        """Return directory and identity of a call's vectors.

        Raises:
            UncacheableError: nothing stable tells these vectors from others.
        """
        meta = self.mteb_model_meta
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
            )
            return self._places.first(
                identity,
                task=arguments["task_metadata"].name,
                model=self._identity.model_name,
                settings=settings,
            )
        except TypeError as error:
            raise UncacheableError("an argument or setting cannot be told from others", str(error)) from None

    def _warn_once(self, error: UncacheableError) -> None:
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            warn(f"passed to the model uncached: {error}")


class _Watched:
    """A model of which each ``encode`` is watched for what it changes in the model."""

    def __init__(self, model: Any, encoding: Callable[[], AbstractContextManager[None]]) -> None:
        self.model = getattr(model, "model", None)
        self._whole = model
        self._encoding = encoding

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        """Do what the model's ``encode`` does."""
        with self._encoding():
            return self._whole.encode(inputs, **arguments)


class _SearchingWrapper(CachedEmbeddingWrapper):
    """The wrapper of a model that does its own search, with which mteb then evaluates retrieval."""

    def index(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model index a corpus."""
        return self._model.index(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model search its index."""
        return self._model.search(*args, **kwargs)


def _rewrapped(kind: type[CachedEmbeddingWrapper], given: dict[str, Any]) -> CachedEmbeddingWrapper:
    wrapper = kind.__new__(kind, given["model"], model_meta=given["model_meta"])
    CachedEmbeddingWrapper.__init__(wrapper, **given)
    return wrapper


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(*(left + right for left, right in zip(astuple(one), astuple(other), strict=True)))
