"""A model that is built at the first miss. Until then, the record of an earlier build replaces it."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from dejavec.identity.files import is_model, model_files
from dejavec.identity.fingerprint import class_code, sha256_of
from dejavec.identity.observed import Look
from dejavec.identity.wrapped import ModelChangedError
from dejavec.mteb.model.encoders import as_encoder
from dejavec.mteb.model.identity import BuiltModel, Profile, is_identified, is_local
from dejavec.mteb.model.methods import Methods
from dejavec.mteb.model.record import look_from, profile_from, record_of
from dejavec.mteb.model.similarity import Similarity
from dejavec.support.json_file import read_record, update_record
from dejavec.support.secret_names import without_secrets
from dejavec.support.warn import warn

MODELS_FILE = "models.json"
_SEEN = frozenset({"description", "visible"})
"""Entries of a record that come from the look at the model."""


_ENCODER = Methods(encodes=True, searches=False, predicts=False, hides_encode=False)


class Recipe:
    """How a model is built, and its metadata.

    Args:
        model: a registered name, a ``ModelMeta``, or a function without arguments.
        meta: the metadata of the model that the function makes.

    Attributes:
        origin: ``model`` and ``meta``, as given.
        meta: the metadata of the model.
        loader: the function that makes the model.
        build: makes the model, without arguments.
        made_by_mteb: whether mteb loads it.

    Raises:
        ValueError: the recipe makes no encoder, or only one of a function and its metadata is given.
        KeyError: mteb knows no model of this name.
    """

    def __init__(self, model: Any, meta: Any | None) -> None:
        from mteb import get_model_meta
        from mteb.models import ModelMeta

        self.origin = model, meta
        builds = callable(model) and (isinstance(model, type) or not hasattr(model, "encode"))
        if (meta is not None) != builds:
            raise ValueError("expected model_meta= with a function that builds a model, and only with one")
        self.made_by_mteb = meta is None
        if meta is None:
            meta = get_model_meta(model) if isinstance(model, str) else model
            self.loader: Any = meta.loader
            self.build: Callable[[], Any] = meta.load_model
            meta = _as_loaded(meta)
        else:
            self.loader = self.build = model
        if not isinstance(meta, ModelMeta):
            raise ValueError(f"expected model_meta= to be a ModelMeta, found {type(meta).__name__}")
        self.meta = meta
        if not self.methods.are_evaluated:
            raise ValueError(f"Model must have an 'encode' method: found {_maker(self.loader).__name__}.")

    @property
    def tells_methods(self) -> bool:
        """Whether the methods of the model are known before it is built."""
        # Other functions may make a model that only searches.
        return isinstance(_maker(self.loader), type) or "dense" in (self.meta.model_type or ("dense",))

    def built(self) -> Any:
        """Return the model, built now, as mteb evaluates it."""
        model = as_encoder(self.build())
        if getattr(model, "mteb_model_meta", None) is None:
            model.mteb_model_meta = self.meta
        return model

    @property
    def methods(self) -> Methods:
        """The methods of the model, if a class makes it. Other loaders should make an encoder."""
        maker = _maker(self.loader)
        return Methods.of(maker) if isinstance(maker, type) else _ENCODER

    def key(self) -> str:
        """Return a digest of loader, name, revision and arguments, without secrets.

        Raises:
            TypeError: one of these has no stable form.
        """
        import mteb

        name, arguments = self.meta.name, without_secrets(dict(self.meta.loader_kwargs))
        arguments.pop("device", None)
        return sha256_of(
            {
                "mteb": mteb.__version__,
                "loader": [self.loader, class_code(_maker(self.loader))],
                "name": str(Path(name).absolute()) if name and is_local(name) else name,
                "revision": self.meta.revision,
                "arguments": arguments,
                "experiment": without_secrets(dict(self.meta.experiment_kwargs or {})),
            }
        )

    def files(self) -> dict[str, str]:
        """Return the SHA-256 of each local file of the model, by path.

        The name may be a path, and arguments may be paths of files or of a model's directory.

        Raises:
            OSError: a file cannot be read.
        """
        arguments = [
            value for value in self.meta.loader_kwargs.values() if isinstance(value, str | os.PathLike)
        ]
        places = [Path(self.meta.name)] if self.meta.name else []
        places += [Path(value) for value in arguments if value and is_model(Path(value))]
        return model_files(places)


class LazyModel:
    """A model that is built when it is first needed.

    Args:
        recipe: how the model is built.
        directory: the directory of ``models.json``.
        named: whether the user answers for the weights.
    """

    def __init__(self, recipe: Recipe, directory: Path, *, named: bool = False) -> None:
        self._recipe = recipe
        self._path = directory / MODELS_FILE
        self._meta = recipe.meta
        self._named = named
        self._look: Look | None = None
        self._look_when_built: Look | None = None
        self._built: BuiltModel | None = None
        self._recalled = False
        self._record: dict[str, Any] | None = None
        self._told: dict[str, Any] | None = None
        self._profile: Profile | None = None

    @property
    def is_built(self) -> bool:
        """Whether the model is built."""
        return self._built is not None

    @property
    def origin(self) -> tuple[Any, Any]:
        """The arguments of the recipe."""
        return self._recipe.origin

    @property
    def model(self) -> Any:
        """The model, which is built if necessary."""
        return self._build().model

    def ready(self) -> Any:
        """Build the model if necessary, and return it.

        Raises:
            ModelChangedError: it differs from the recorded model, so the call must be prepared again.
        """
        if self._built is not None:
            return self._built.model
        model = self._build().model
        if self._record is not None and self._told != _told(self._record):
            raise ModelChangedError
        return model

    @property
    def mteb_model_meta(self) -> Any:
        """The metadata. Assigning replaces them in the model too, once it is built."""
        if self._built is not None and self._recipe.made_by_mteb:
            return self._built.mteb_model_meta
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._meta = meta
        if self._built is not None:
            self._built.mteb_model_meta = meta

    def profile(self) -> Profile:
        """Return the profile of the model, which is read from the record before the model is built.

        Raises:
            TypeError: a setting has no stable form.
        """
        if self._built is None and self._recall() is not None and self._profile is not None:
            return self._profile
        return self._build().profile()

    def look(self) -> Look:
        """Return a look at the model, or the recorded look before the model is built.

        The record counts only if the weights are known to be the same: by files, by name and commit, or
        because the user answers for them. A model without tensors has no weights, so the record counts too.

        Raises:
            ModelChangedError: see :meth:`ready`.
        """
        record = self._recall() if self._built is None else None
        if record is not None and self._look is not None:
            settled = self._named or record["files"] or is_identified(self._meta)
            if settled or record["state"] is None:
                return self._look
        self.ready()
        return self._build().look()

    def encoding(self, look: Look) -> AbstractContextManager[None]:
        """Return a context for an ``encode``, which records the values that it changes in the model."""
        if self._built is None:
            return nullcontext()
        first = self._look_when_built
        return self._built.encoding(first if look.found is None and first is not None else look)

    def similarity(self, name: str, embeddings1: Any, embeddings2: Any) -> Any:
        """Return similarities. If the model's function is known, this needs no model.

        Args:
            name: ``similarity`` or ``similarity_pairwise``.
            embeddings1: vectors (n, dim).
            embeddings2: vectors (m, dim).
        """
        record = self._recall() if self._built is None else None
        function = getattr(self._meta, "similarity_fn_name", None)
        same_function = function == self._recipe.meta.similarity_fn_name
        if record is not None and record[name] is not None and same_function:
            return Similarity(*record[name])(name, embeddings1, embeddings2)
        return getattr(self.model, name)(embeddings1, embeddings2)

    def _recall(self) -> dict[str, Any] | None:
        """Return the record of an earlier build, unless the model's files have changed."""
        if not self._recalled:
            self._recalled = True
            try:
                record = (read_record(self._path) or {}).get(self._recipe.key())
                if record is not None and self._recipe.files().items() <= record["files"].items():
                    self._profile = profile_from(record, self._recipe.meta.loader_kwargs)
                    self._look = look_from(record)
                    self._record = record
            except (OSError, TypeError, ValueError, LookupError):
                pass  # Without a usable record, the model must be built.
        return self._record

    def _build(self) -> BuiltModel:
        """Build the model if it is not built yet, and record it."""
        if self._built is not None:
            return self._built
        try:
            key, files = self._recipe.key(), self._recipe.files()
        except (OSError, TypeError):
            key, files = None, {}
        model = self._recipe.built()
        if Methods.of(model) != self._recipe.methods:
            raise ValueError(
                "the model does its own search or has no encode; pass it built, or name its model_type in "
                "model_meta"
            )
        built = BuiltModel(model)
        self._look_when_built = built.look()
        with suppress(TypeError):  # This model cannot be recorded.
            self._told = record_of(built, self._look_when_built)
        if self._meta is not self._recipe.meta:
            model.mteb_model_meta = self._meta
        self._built = built
        if key is not None and self._told is not None:
            self._remember(key, {**self._told, "files": files})
        return built

    def _remember(self, key: str, record: dict[str, Any]) -> None:
        """Record the model, and warn if the record of an earlier build differs."""
        stored = (read_record(self._path) or {}).get(key)
        if stored == record:
            return
        # The look may differ for harmless reasons, and then the model is asked. So this is no reason to warn.
        counts = set(_told(record)) - _SEEN
        before = record if stored is None else stored
        names = [name for name in record if name in counts and record[name] != before.get(name)]
        if names:
            warn(
                self._path,
                expected=f"the model {self._recipe.meta.name} as it was recorded there",
                found=f"another {', '.join(names)}",
                remedy="what it is now counts",
            )
        try:
            update_record(self._path, key, record)
        except OSError as error:
            warn(f"{self._path}: cannot be written, so the next run builds the model again: {error}")


def is_recipe(model: Any) -> bool:
    """Return whether this is no model but a recipe for one."""
    meta = getattr(sys.modules.get("mteb.models.model_meta"), "ModelMeta", None)
    made = isinstance(model, str | type | functools.partial) or inspect.isroutine(model)
    return made or (meta is not None and isinstance(model, meta))


def _told(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without the files, since some of them may not change the model."""
    return {name: value for name, value in record.items() if name != "files"}


def _as_loaded(meta: Any) -> Any:
    """Return metadata as ``ModelMeta.load_model`` stores it in the model."""
    from mteb.models import model_meta

    # mteb before 2.23 keeps empty settings.
    counts = getattr(model_meta, "_has_meaningful_value", None)
    settings = dict(meta.experiment_kwargs or {})
    kept = {name: value for name, value in settings.items() if counts is None or counts(value)}
    return meta.model_copy(
        update={"experiment_kwargs": kept or None, "loader_kwargs": {**meta.loader_kwargs, **settings}}
    )


def _maker(loader: Any) -> Any:
    return _maker(loader.func) if isinstance(loader, functools.partial) else loader
