"""A drop-in for mteb's ``CachedEmbeddingWrapper``: the same scores with and without it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dejavec.backends import NumpyCache
from dejavec.cache import EmbeddingCache, OnProblem
from dejavec.directories import experiment_name, safe_name
from dejavec.errors import DejavecWarning
from dejavec.fill import Plan, fill
from dejavec.handle import OnMismatch
from dejavec.identity import digest
from dejavec.loaders import Items, UncacheableError
from dejavec.model_call import NOT_DENSE, ModelCall
from dejavec.model_identity import Kind, ModelIdentity, encoder_kind, layers
from dejavec.values import Output, Rows, from_rows

_INTEGER_PRECISIONS = frozenset({"int8", "uint8", "int4", "uint4"})
"""Quantised with bounds that are taken over the whole call."""

_QUANTISED_HERE = frozenset({"int8", "uint8", "binary", "ubinary"})
"""What sentence-transformers makes of float vectors after the last batch."""

_OPEN_CACHES = 32
"""A benchmark has thousands of directories, and a process may open some hundred files."""

_CALL_DEPENDENT_MODULES = frozenset({"mteb.models.model_implementations.cde_models"})
_NOT_FORWARDED = frozenset({"predict", "index", "search"})


class CachedEmbeddingWrapper:
    """An mteb model whose text embeddings are kept on disk and made only once.

    Vectors lie in ``<cache_path>/<task>[/experiments/<settings>][/<query or document>]``, one cache for each
    model, prompt and setting: where another's vectors lie already, the cache goes to a directory beside it.
    What cannot be cached truly goes to the model as it is, with one warning: items that are not text, output
    that is no dense 2-D array, models whose vectors depend on the rest of the call.

    Attributes that the wrapper does not have are the model's, to read and to assign.

    Args:
        model: an mteb encoder, or a bare ``SentenceTransformer``.
        cache_path: the directory of all caches of this wrapper.
        cache_backend: the kind of cache.
        model_name: ``"name@revision"``, for a model that cannot be told by its metadata or its weights.
        chunk_rows: how many items are encoded and committed at a time, in whole batches.
        extra_fields: columns besides mteb's own that the model reads.
        call_dependent: whether the model's vectors depend on what else is in the call.
        on_mismatch: whether a directory of another model's vectors is left for one beside it, or raises.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_write_error: whether an evaluation completes with a warning if writing fails, or raises.

    Raises:
        ValueError: the model has no ``encode``, or quantises over the whole call.

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
    cache_backend: type[NumpyCache]
    totals: Plan
    """What all calls so far have found, added up."""
    _model: Any
    _identity: ModelIdentity
    _chunk_rows: int
    _extra_fields: tuple[str, ...]
    _call_dependent: bool
    _options: dict[str, Any]
    _caches: dict[tuple[Path, str], EmbeddingCache]
    _not_dense: set[tuple[Path, str]]
    _warned: set[str]

    def __new__(cls, model: Any, *_args: Any, **_kwargs: Any) -> CachedEmbeddingWrapper:
        """Make a wrapper that searches only if the model does: mteb tells models by their methods."""
        searches = hasattr(model, "index") and hasattr(model, "search")
        return super().__new__(_SearchingWrapper if searches and cls is CachedEmbeddingWrapper else cls)

    def __init__(
        self,
        model: Any,
        cache_path: str | os.PathLike[str],
        cache_backend: type[NumpyCache] = NumpyCache,
        *,
        model_name: str | None = None,
        chunk_rows: int = 10_000,
        extra_fields: Sequence[str] = (),
        call_dependent: bool = False,
        on_mismatch: OnMismatch = "sibling",
        on_nonfinite: OnProblem = "warn",
        on_write_error: OnProblem = "warn",
    ) -> None:
        own = self.__dict__
        own["_model"] = model = _as_encoder(model)
        if cache_backend is not NumpyCache:
            raise ValueError(f"expected cache_backend to be dejavec.NumpyCache, found {cache_backend!r}")
        if chunk_rows < 1:
            raise ValueError(f"expected chunk_rows of at least 1, found {chunk_rows}")
        own["cache_path"] = Path(cache_path)
        own["cache_backend"] = cache_backend
        own["totals"] = Plan(0, 0, 0, 0, 0)
        own["_identity"] = ModelIdentity(model, model_name)
        own["_chunk_rows"] = chunk_rows
        own["_extra_fields"] = tuple(extra_fields)
        own["_call_dependent"] = call_dependent or _depends_on_call(model)
        own["_options"] = {
            "on_mismatch": on_mismatch,
            "on_nonfinite": on_nonfinite,
            "on_write_error": on_write_error,
        }
        own["_caches"] = {}
        own["_not_dense"] = set()
        own["_warned"] = set()
        self.cache_path.mkdir(parents=True, exist_ok=True)

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
            Exception: whatever the model raises, unchanged.
        """
        arguments = {
            "task_metadata": task_metadata,
            "hf_split": hf_split,
            "hf_subset": hf_subset,
            **arguments,
        }
        try:
            if self._call_dependent:
                raise UncacheableError("the model's vectors depend on the rest of the call")
            items = Items(inputs, self._extra_fields)
            inputs = items.inputs
            return self._encode(items, arguments)
        except UncacheableError as error:
            uncacheable = error
        self._warn_once(uncacheable)
        if uncacheable.vectors is not None:
            return uncacheable.vectors
        return self._model.encode(inputs, **arguments)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of all pairs of vectors."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of the vectors at the same position."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """The model's metadata; assigning replaces it in the model."""
        return self._model.mteb_model_meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._model.mteb_model_meta = meta

    def close(self) -> None:
        """Release all caches; a later ``encode`` opens them again."""
        while self._caches:
            self._caches.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        # `_model` is missing only before `__init__`, as while unpickling.
        if name.startswith("__") or name in _NOT_FORWARDED or "_model" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self._model, name, value)

    def _encode(self, items: Items, arguments: dict[str, Any]) -> Any:
        """Do what :meth:`encode` does, for calls that can be cached.

        Raises:
            UncacheableError: this one cannot.
        """
        if len(items) == 0:
            return self._model.encode(items.inputs, **arguments)
        keys = items.keys()
        kind = encoder_kind(self._model)
        precision = arguments.get("precision")
        quantise = kind != "other" and precision in _QUANTISED_HERE
        if precision in _INTEGER_PRECISIONS and not quantise:
            raise UncacheableError(f"precision {precision!r} is taken over the whole call")
        floats = {name: value for name, value in arguments.items() if name != "precision"}
        makes_floats = kind != "other" and (quantise or precision == "float32")
        place = self._place(kind, floats if makes_floats else arguments)
        if place in self._not_dense:
            raise UncacheableError(NOT_DENSE)
        cache, task = self._caches[place], arguments["task_metadata"].name
        batch_sizes = (arguments.get("batch_size"), items.inputs.batch_size)
        cache.chunk_rows = _whole_batches(self._chunk_rows, batch_sizes)
        cache.progress = None if arguments.get("show_progress_bar", True) else False
        call = ModelCall(
            self._model,
            kind,
            items,
            arguments=floats if quantise else arguments,
            chunk_rows=cache.chunk_rows,
        )
        try:
            filled = fill(
                cache,
                keys,
                call.encode,
                name=lambda position: f"item {position} of {task}",
                order=call.order,
            )
        except UncacheableError as error:
            self._not_dense.add(place)
            raise UncacheableError(error.reason, vectors=None if quantise else error.vectors) from None
        self.__dict__["totals"] = _sum(self.totals, filled.plan)
        if quantise:
            return _quantised(filled.vectors, filled.output, kind, str(precision))
        return from_rows(filled.vectors, filled.output)

    def _place(self, kind: Kind, arguments: Mapping[str, Any]) -> tuple[Path, str]:
        """Return directory and identity of a call's vectors, having opened the cache there.

        Raises:
            UncacheableError: nothing stable tells these vectors from others.
        """
        task = arguments["task_metadata"]
        meta = getattr(self._model, "mteb_model_meta", None)
        settings = dict(getattr(meta, "experiment_kwargs", None) or {})
        if arguments.get("precision") is not None:
            settings["output_dtypes"] = arguments["precision"]
        named = ("task_metadata", "hf_split", "hf_subset")
        try:
            identity = self._identity.of_call(
                kind,
                **{name: arguments[name] for name in named},
                arguments={name: value for name, value in arguments.items() if name not in named},
            )
            experiment = experiment_name(settings)
        except TypeError as error:
            raise UncacheableError("an argument or setting cannot be told from others", str(error)) from None
        directory = self.cache_path / safe_name(task.name)
        if experiment is not None:
            directory = directory / "experiments" / experiment
        if identity["role"] is not None:
            directory = directory / safe_name(identity["role"])
        place = (directory, digest(identity))
        if place not in self._caches:
            if len(self._caches) >= _OPEN_CACHES:
                self._caches.pop(next(iter(self._caches))).close()
            self._caches[place] = EmbeddingCache(directory, identity=identity, **self._options)
        return place

    def _warn_once(self, error: UncacheableError) -> None:
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            warnings.warn(f"passed to the model uncached: {error}", DejavecWarning, stacklevel=3)


class _SearchingWrapper(CachedEmbeddingWrapper):
    """The wrapper of a model that does its own search, with which mteb then evaluates retrieval."""

    def index(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model index a corpus."""
        return self._model.index(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model search its index."""
        return self._model.search(*args, **kwargs)


def _as_encoder(model: Any) -> Any:
    """Return ``model``, wrapped as mteb wraps it if it is a bare model of sentence-transformers.

    Raises:
        ValueError: there is no ``encode`` whose vectors could be cached.
    """
    library = sys.modules.get("sentence_transformers")
    bare = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder")
    if any(isinstance(model, getattr(library, name)) for name in bare if hasattr(library, name)):
        from mteb.evaluate import _sanitize_model

        model = _sanitize_model(model)[0]
    if isinstance(model, str) or not hasattr(model, "encode"):
        raise ValueError(f"Model must have an 'encode' method: found {type(model).__name__}.")
    for layer in layers(model):
        level = getattr(layer, "_quantization_level", None)
        if type(layer).__name__ == "CompressionWrapper" and str(level) in _INTEGER_PRECISIONS:
            raise ValueError(
                "a CompressionWrapper to integers takes its bounds over each call, so its vectors cannot be "
                "cached; wrap the other way round: CompressionWrapper(CachedEmbeddingWrapper(model, …))"
            )
    return model


def _depends_on_call(model: Any) -> bool:
    return any(
        parent.__module__ in _CALL_DEPENDENT_MODULES
        for layer in layers(model)
        for parent in type(layer).__mro__
    )


def _whole_batches(chunk_rows: int, batch_sizes: tuple[Any, ...]) -> int:
    """Return the largest multiple of the first batch size given, up to ``chunk_rows``, at least one batch."""
    for size in batch_sizes:
        if isinstance(size, int) and size > 0:
            return max(size, chunk_rows // size * size)
    return chunk_rows


def _quantised(rows: Rows, output: Output, kind: Kind, precision: str) -> Any:
    """Return float rows as sentence-transformers, and mteb's wrapper of it, return them at ``precision``."""
    import sentence_transformers

    vectors = sentence_transformers.quantize_embeddings(rows, precision=precision)
    if output.library == "numpy":
        return vectors
    import torch

    tensor = torch.as_tensor(vectors)
    return tensor.float() if kind == "sentence-transformers" else tensor


def _sum(one: Plan, other: Plan) -> Plan:
    return Plan(*(left + right for left, right in zip(astuple(one), astuple(other), strict=True)))
