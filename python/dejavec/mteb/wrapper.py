"""A drop-in for mteb's ``CachedEmbeddingWrapper``: the same scores with and without it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dejavec.backends import CacheBackendProtocol, NumpyCache
from dejavec.errors import MissingPackageError
from dejavec.fill.fill import Counts
from dejavec.fill.settings import OnProblem
from dejavec.identity.confirm import OnUnconfirmed
from dejavec.identity.wrapped import ModelWrapper
from dejavec.mteb.engine import Engine
from dejavec.mteb.engine_settings import EngineSettings
from dejavec.mteb.model.encoders import as_encoder
from dejavec.mteb.model.identity import BuiltModel, Source
from dejavec.mteb.model.lazy import LazyModel, Recipe, is_recipe
from dejavec.mteb.model.methods import Methods, no_vectors
from dejavec.mteb.places import Scope
from dejavec.storage.handle import OnMismatch
from dejavec.support.closing import Closing
from dejavec.support.warn import warn

_NOT_FORWARDED = frozenset({"predict", "index", "search"})
_NOT_SETTINGS = frozenset({"self", "model", "model_meta", "__class__"})


class CachedEmbeddingWrapper(Closing, ModelWrapper):
    """An mteb model with cached embeddings: each is computed once, and then read from disk.

    Vectors are stored in ``<cache_path>/<task>[/experiments/<settings>][/<query or document>]``. Each state
    of the model, prompt and setting has one cache. If the directory has another cache already, the new one
    goes to a sibling. The state is a digest of all tensors in memory, taken at each call, so vectors from
    before a training are not served after it. If something else may have changed (code, attributes, versions,
    an API), the model is asked once in a process: it encodes a few cached items again. Vectors are served
    only if it returns the same.

    Vectors may be dense (n, dim), multi-vector items or sparse. mteb's late-interaction models search by
    themselves; the vectors of their searches are cached too.

    Some calls cannot be cached correctly: output of another form, vectors that depend on the rest of the
    call, items or arguments without a stable form. They go to the model unchanged, with one warning. So does
    all that is asked of a model without vectors, such as a cross-encoder or BM25.

    A model may be given by its name. It is then built at the first miss, so a run with hits only needs
    neither weights nor a GPU. ``<cache_path>/models.json`` records the look at the model when it was first
    built. This record counts if the weights are known: by name and commit, by ``model_name``, or by unchanged
    files in a local directory. Other models with weights are built at the first call. A function that makes
    no dense model, by its metadata, is called at once, since only the model shows what mteb should call.

    Other attributes are read from the model, and assigned to it.

    Args:
        model: an mteb encoder, or a bare ``SentenceTransformer``; or how to build one: a name in mteb's
            registry, a ``ModelMeta``, or a function without arguments.
        cache_path: the directory of all caches of this wrapper.
        cache_backend: the kind of cache: ``NumpyCache``, ``FaissCache``, or any class with the methods of
            ``CacheBackendProtocol``. All but ``NumpyCache`` keep float32. Vectors that float32 would round
            are not cached. The third kind has its own directories, ``<directory>@<12 hex digits>``.
        model_meta: the metadata of the model that a function builds.
        model_name: ``"name@revision"``: the user answers for the model, and it is not examined.
        chunk_rows: the most items in a chunk, rounded to whole batches.
        chunk_seconds: how long a chunk may take before it is committed; None: no limit. It changes no bit,
            since chunks end where the model's batches end. A model that reads all of its input before it
            computes gets one call for each ``chunk_rows``, and a warning says so.
        extra_fields: columns besides mteb's own that the model reads.
        call_dependent: whether a vector depends on the other items of the call.
        scope: ``"model"`` shares vectors between tasks with the same prompt and role, in
            ``<cache_path>/<model>``. It needs texts, and the ``encode`` of mteb's
            ``SentenceTransformerEncoderWrapper`` or ``InstructSentenceTransformerModel``.
        confirm: how many cached items the model is asked for if it is not proven that it made them; four
            times as many if no similar model is proven. With 0 it is never asked, and only proven
            descriptions are served. None is 4, or no question with ``model_name``.
        confirm_tolerance: how far a number may then be off, as a part of the largest number in its cached
            vector. None is 1e-4; 1e-2 for float16; 5e-2 for bfloat16; and 5e-2 if versions of libraries, the
            type of device or the precision of matrix products differ.
        on_unconfirmed: whether to warn or raise if a model with a proven description fails when it is asked,
            or answers differently each time.
        spot_check: how many hits of each call are encoded again and compared.
        spot_check_tolerance: how far a number may be off in the spot check, as a part of the largest number
            in its cached vector. Models that pad differ in the last bits in another batch: by less than 1e-5
            in float32; half precision needs about 1e-2.
        on_mismatch: whether to use a sibling or raise if a directory has another model's vectors.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_write_error: whether to warn and complete the evaluation if writing fails, or raise.
        shared: whether new directories and files are group-shared, as in ``EmbeddingCache``.
        allow_network: whether to write on a network file system, as in ``EmbeddingCache``.
        keep_texts: whether to keep the texts of the rows that are appended, as in ``EmbeddingCache``. Nothing
            is kept of items with more than text, nor by a backend that is not dejavec's.
        store_dtype: ``"float16"`` stores half of the bytes, as in ``EmbeddingCache``: numbers are rounded, on
            the first run too. Only for ``NumpyCache``. Vectors of another ``store_dtype`` are not served.
        remote: the address of a store for a team, as in ``EmbeddingCache``: vectors that are missing here are
            looked for there, and new ones are pushed. The model is asked about vectors of others, too.

    Raises:
        ValueError: mteb cannot evaluate the model, or it quantises over the whole call; or see ``scope``.
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

    _engine: Engine

    def __new__(cls, model: Any, *_args: Any, **keywords: Any) -> CachedEmbeddingWrapper:
        """Make a wrapper with search methods only if the model has them, since mteb checks for them."""
        if "mteb" not in sys.modules and importlib.util.find_spec("mteb") is None:
            raise MissingPackageError(
                cls.__name__, expected="the package mteb", found="none", remedy="pip install 'dejavec[mteb]'"
            )
        methods = _methods(model, keywords.get("model_meta"))
        return super().__new__(_kind_for(methods) if cls is CachedEmbeddingWrapper else cls)

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
        keep_texts: bool = False,
        store_dtype: Literal["float16"] | None = None,
        remote: str | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in _NOT_SETTINGS}
        settings = EngineSettings(**given)
        source: Source
        recipe = Recipe(model, model_meta) if is_recipe(model) or model_meta is not None else None
        if recipe is not None and not recipe.tells_methods:
            model, recipe = recipe.built(), None
            if type(self) is CachedEmbeddingWrapper:
                self.__class__ = _kind_for(Methods.of(model))
        if recipe is not None:
            source = LazyModel(recipe, settings.cache_path, named=model_name is not None)
            name, methods = str(model), recipe.methods
        else:
            encoder = as_encoder(model)
            source = BuiltModel(encoder)
            name, methods = type(model).__name__, Methods.of(encoder)
        if not methods.are_cached:
            warn(no_vectors(name, methods))
        # `__setattr__` would assign other attributes to the model.
        self.__dict__["_engine"] = Engine(source, settings)

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **arguments: Any
    ) -> Any:
        """Return the vectors of a loader's items, encoding those that are not cached.

        Args:
            inputs: a ``DataLoader`` of n items, as mteb makes it.
            task_metadata: mteb's description of the task.
            hf_split: the split the items are from.
            hf_subset: the subset the items are from.
            **arguments: ``prompt_type``, ``batch_size`` and whatever else the model's ``encode`` takes.

        Returns:
            The n vectors in the order of the loader, with the array kind of the model; tensors are on the
            CPU. If the call cannot be cached, the model's result.

        Raises:
            VectorsError: the number of rows is wrong, or dimension or dtype differ from earlier vectors.
            IdentityMismatchError: see ``on_mismatch``.
            UnconfirmedError: see ``on_unconfirmed``.
            SpotCheckError: see ``spot_check``.
            ValueError: see ``scope``.
            Exception: the model's own exception, unchanged.
        """
        arguments = {
            "task_metadata": task_metadata,
            "hf_split": hf_split,
            "hf_subset": hf_subset,
            **arguments,
        }
        return self._engine.encode(inputs, arguments)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of all pairs of vectors."""
        return self._engine.source.similarity("similarity", embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the model's similarities of the vectors at the same position."""
        return self._engine.source.similarity("similarity_pairwise", embeddings1, embeddings2)

    @property
    def cache_path(self) -> Path:
        """The directory of all caches of this wrapper."""
        return self._engine.settings.cache_path

    @property
    def cache_backend(self) -> type[CacheBackendProtocol] | type[NumpyCache]:
        """The kind of cache."""
        return self._engine.settings.cache_backend

    @property
    def totals(self) -> Counts:
        """The sum of the counts of all calls so far."""
        return self._engine.totals

    @property
    def mteb_model_meta(self) -> Any:
        """The metadata of the model. Assigning replaces it in the model."""
        return self._engine.source.mteb_model_meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._engine.source.mteb_model_meta = meta

    def close(self) -> None:
        """Close all caches; a later ``encode`` opens them again."""
        self._engine.close()

    def __wrapped_model__(self) -> Source:
        """Return the source of the model."""
        return self._engine.source

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the model, the path and the settings. The unpickled wrapper opens the same caches."""
        model, meta = self._engine.source.origin
        return _rewrapped, (
            type(self),
            {"model": model, "model_meta": meta, **self._engine.settings.arguments()},
        )

    def __repr__(self) -> str:
        if "_engine" not in self.__dict__:
            return f"<{type(self).__name__}>"
        return f"CachedEmbeddingWrapper({self._engine.model_name!r}, {str(self.cache_path)!r})"

    def __getattr__(self, name: str) -> Any:
        # `_engine` is missing before `__init__`, for example while unpickling.
        refused = name.startswith("__") or name in _NOT_FORWARDED or "_engine" not in self.__dict__
        # Notebooks and other tools read private names, which must not build a model.
        if refused or (name.startswith("_") and not self._engine.source.is_built):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._engine.source.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self._engine.source.model, name, value)


class _SearchingWrapper(CachedEmbeddingWrapper):
    """The wrapper of a model that does its own search. mteb uses that search in retrieval tasks."""

    def index(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model index a corpus."""
        return self._engine.searcher(renewed=True).index(*args, **kwargs)

    def search(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model search its index."""
        return self._engine.searcher(renewed=False).search(*args, **kwargs)


class _OnlySearchingWrapper(_SearchingWrapper):
    """The wrapper of a model that searches and has no ``encode``, such as a late-interaction model."""

    encode = None  # type: ignore[assignment]  # mteb's protocols read None as no such method.


class _PredictingWrapper(CachedEmbeddingWrapper):
    """The wrapper of a model that scores pairs. There is nothing to cache."""

    encode = None  # type: ignore[assignment]  # As above.

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Have the model score pairs."""
        return self._engine.source.model.predict(*args, **kwargs)


def _methods(model: Any, meta: Any | None) -> Methods:
    """Return the methods of a model, or of the one that a recipe makes."""
    return Recipe(model, meta).methods if is_recipe(model) else Methods.of(as_encoder(model))


def _kind_for(methods: Methods) -> type[CachedEmbeddingWrapper]:
    """Return the class with the methods that mteb should find."""
    if methods.encodes:
        return _SearchingWrapper if methods.searches else CachedEmbeddingWrapper
    return _OnlySearchingWrapper if methods.searches else _PredictingWrapper


def engine_of(wrapper: CachedEmbeddingWrapper) -> Engine:
    """Return the engine of a wrapper. Attributes of the wrapper itself come from its model."""
    return wrapper._engine


def _rewrapped(kind: type[CachedEmbeddingWrapper], given: dict[str, Any]) -> CachedEmbeddingWrapper:
    wrapper = kind.__new__(kind, given["model"], model_meta=given["model_meta"])
    CachedEmbeddingWrapper.__init__(wrapper, **given)
    return wrapper
