"""The identity of the vectors of one mteb call: model, prompt and settings, as far as they are readable."""

from __future__ import annotations

import dis
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from dejavec.identity.encoder_settings import encoder_settings
from dejavec.identity.fingerprint import describe, is_module, sha256_of
from dejavec.identity.observed import Look, observe
from dejavec.identity.wrapped import ModelSource, ModelWrapper
from dejavec.mteb.model.methods import Methods, encoder_of
from dejavec.storage.identity import parse_model
from dejavec.support.canonical import canonical_json
from dejavec.support.secret_names import without_secrets

Kind = Literal["sentence-transformers", "instruct", "other"]
"""The ``encode`` of a model. For mteb's two sentence-transformers wrappers, prompts and batches are known."""

NEUTRAL_ARGUMENTS = frozenset({"batch_size", "show_progress_bar", "device", "prompt_type"})
"""Arguments of ``encode`` that do not change vectors, or that are elsewhere in the identity."""

_PLACEHOLDER_NAMES = (None, "", "no_model_name/available")
_COMMIT = re.compile("[0-9a-f]{40}")
_SUBSET_ARGUMENTS = ("hf_subset", "hf_split")
_CALL_DEPENDENT_MODULES = frozenset({"mteb.models.model_implementations.cde_models"})
_MEDIA_SETTINGS = ("fps", "num_frames", "min_frames", "max_frames", "target_sampling_rate", "max_samples")
_PROMPT_SETTINGS = (
    "model_prompts",
    "prompts_dict",
    "prompt_priority",
    "apply_instruction_to_passages",
    "instruction_template",
    "prompts",
    "default_prompt_name",
)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_RESOLVED = frozenset({*_PROMPT_SETTINGS, ".model.truncate_dim"})
"""Settings of a sentence-transformer that the identity of each call holds: the text of its prompt, and its
dimensions."""


def layers(model: Any) -> Iterator[Any]:
    """Yield a model and the models that it wraps, from the outside in, down to the first torch module."""
    seen: set[int] = set()
    while model is not None and id(model) not in seen:
        seen.add(id(model))
        yield model
        if is_module(model):
            return
        if isinstance(model, ModelWrapper):
            model = model.__wrapped_model__().model
        else:
            own = getattr(model, "__dict__", {})
            model = own.get("model", own.get("_model"))


def encoder_kind(model: Any) -> Kind:
    """Return which known ``encode`` of mteb a model has; ``"other"`` for any other, or a changed inner model.

    A decorator with ``__wrapped__`` does not count.
    """
    inner = getattr(model, "__dict__", {}).get("model")
    library = sys.modules.get("sentence_transformers")
    if library is None or not isinstance(inner, library.SentenceTransformer):
        return "other"
    plain = library.SentenceTransformer
    for name in ("encode", "encode_query", "encode_document"):
        if name in vars(inner) or getattr(type(inner), name) is not getattr(plain, name):
            return "other"
    kinds: tuple[tuple[str, str, Kind], ...] = (
        ("sentence_transformer_wrapper", "SentenceTransformerEncoderWrapper", "sentence-transformers"),
        ("instruct_wrapper", "InstructSentenceTransformerModel", "instruct"),
    )
    for module, name, kind in kinds:
        known = getattr(sys.modules.get(f"mteb.models.{module}"), name, None)
        undecorated = inspect.unwrap(model.encode)
        if known is not None and getattr(undecorated, "__func__", None) is known.encode:
            return kind if undecorated.__self__ is model else "other"
    return "other"


@dataclass(frozen=True)
class Profile:
    """Properties of a model that change its vectors, apart from metadata and state.

    Attributes:
        kind: see :func:`encoder_kind`.
        prompter: the model, or an object with the same prompt settings.
        prompt_settings: a digest of the prompt settings, if the prompt itself is unknown; None otherwise.
        encoder: settings of a sentence-transformer that can be assigned after it was loaded.
        media: settings for sampling images, audio and video.
        reads: which of ``hf_subset`` and ``hf_split`` its ``encode`` may read.
        call_dependent: whether a vector depends on the other items of the call.
    """

    kind: Kind
    prompter: Any = field(compare=False)
    prompt_settings: str | None
    encoder: dict[str, Any] | None
    media: dict[str, Any]
    reads: tuple[str, ...]
    call_dependent: bool


class Source(ModelSource, Protocol):
    """A model that is built, or may be built later, and its properties."""

    mteb_model_meta: Any
    """The metadata of the model; None without any."""

    @property
    def origin(self) -> tuple[Any, Any]:
        """The arguments of the wrapper: the model, or the recipe that builds it; and ``model_meta``."""

    def ready(self) -> Any:
        """Build the model if necessary, and return it.

        Raises:
            ModelChangedError: it differs from the recorded model, so the call must be prepared again.
        """

    def similarity(self, name: str, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the result of the model's method ``name``: ``similarity`` or ``similarity_pairwise``."""

    def encoding(self, look: Look) -> AbstractContextManager[None]:
        """Return a context for an ``encode``, which records the values that it changes in the model."""

    def profile(self) -> Profile:
        """Return the profile of the model.

        Raises:
            TypeError: a setting has no stable form.
        """

    def look(self) -> Look:
        """Return a look at the model."""


class BuiltModel:
    """A model that is built. It is read again at each call, since settings and weights may have changed."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def model(self) -> Any:
        """The model."""
        return self._model

    @property
    def is_built(self) -> bool:
        """Whether the model is built: always."""
        return True

    @property
    def origin(self) -> tuple[Any, Any]:
        """The model, and no ``model_meta``."""
        return self._model, None

    def ready(self) -> Any:
        """Return the model."""
        return self.model

    def similarity(self, name: str, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the result of the model's method ``name``."""
        return getattr(self.model, name)(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """The metadata of the model; None without any."""
        return getattr(self.model, "mteb_model_meta", None)

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self.model.mteb_model_meta = meta

    def profile(self) -> Profile:
        """Return the profile of the model.

        Raises:
            TypeError: a setting has no stable form.
        """
        model, kind = self.model, encoder_kind(self.model)
        parts = list(layers(model))
        media = {name: _first_setting(parts, name) for name in _MEDIA_SETTINGS}
        parents = {parent.__module__ for layer in parts for parent in type(layer).__mro__}
        return Profile(
            kind=kind,
            prompter=model,
            prompt_settings=_prompt_settings(parts) if kind == "other" else None,
            encoder=None if kind == "other" else _encoder_settings(model.model),
            media={name: describe(value) for name, value in media.items() if value is not None},
            reads=tuple(
                name
                for name in _SUBSET_ARGUMENTS
                if Methods.of(model).are_cached and reads_argument(model, name)
            ),
            call_dependent=not parents.isdisjoint(_CALL_DEPENDENT_MODULES),
        )

    def look(self) -> Look:
        """Return a look at the model."""
        kind = encoder_kind(self.model)
        seen = observe(self.model, _RESOLVED if kind != "other" else frozenset())
        look = seen.look(self.model, loader_settings(self.mteb_model_meta, kind))
        return look if kind != "other" else replace(look, visible=False)

    def encoding(self, look: Look) -> AbstractContextManager[None]:
        """Return a context for an ``encode``, which records the values that it changes in the model."""
        kind = encoder_kind(self.model)
        return observe(self.model, _RESOLVED if kind != "other" else frozenset()).encoding(self.model, look)


class ModelIdentity:
    """The identities of the calls of one model.

    Args:
        source: the model.
        name: ``"name@revision"`` from the user, who then answers for the state of the model.
    """

    def __init__(self, source: Source, name: str | None) -> None:
        self._source = source
        self._name = None if name is None else parse_model(name)

    @property
    def model_name(self) -> str:
        """The name of the model, for the name of a directory."""
        name = (self._name or {}).get("name") or getattr(self._source.mteb_model_meta, "name", None)
        return str(name or _PLACEHOLDER_NAMES[-1])

    def of_call(
        self,
        kind: Kind,
        state: str | None,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        arguments: Mapping[str, Any],
        is_full: bool = False,
    ) -> dict[str, Any]:
        """Return the identity of the vectors that a call makes.

        Args:
            kind: see :func:`encoder_kind`.
            state: the state of the model; None if no tensor can be read.
            task_metadata: mteb's description of the task.
            hf_split: the split that is encoded.
            hf_subset: the subset that is encoded.
            arguments: all further arguments of ``encode``.
            is_full: whether the vectors have all dimensions, however many the model keeps by default.

        Returns:
            A JSON object.

        Raises:
            TypeError: an argument or a setting has no stable form.
        """
        meta = self._source.mteb_model_meta
        profile = self._source.profile()
        prompt_type = arguments.get("prompt_type")
        identity: dict[str, Any] = {
            "model": self._name or _model_part(meta, state),
            "role": None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type)),
            "prompt": prompt(profile, task_metadata, prompt_type),
        }
        if self._name is not None and profile.kind == "other":
            # The model is neither examined nor asked, so its prompt settings must be equal.
            if profile.prompt_settings is None:
                raise TypeError("a setting of its prompts has no stable form")
            identity["prompt"]["settings"] = profile.prompt_settings
        if profile.encoder is not None:
            identity["encoder"] = {**profile.encoder, **({"truncate_dim": None} if is_full else {})}
        identity["experiment"] = describe(experiment_settings(meta))
        identity["media"] = {**profile.media, **_modalities(meta, kind)}
        identity["arguments"] = {
            name: describe(value)
            for name, value in without_secrets(arguments).items()
            if name not in NEUTRAL_ARGUMENTS
        }
        for name, value in (("hf_subset", hf_subset), ("hf_split", hf_split)):
            if name in profile.reads:
                identity[name] = describe(value)
        return {name: part for name, part in identity.items() if part != {}}


def is_identified(meta: Any) -> bool:
    """Return whether a published model has a name and a commit, which identify its weights."""
    name, revision = getattr(meta, "name", None), getattr(meta, "revision", None)
    named = name not in _PLACEHOLDER_NAMES and not is_local(name)
    return named and _COMMIT.fullmatch(str(revision)) is not None and _is_published(meta)


def experiment_settings(meta: Any) -> dict[str, Any]:
    """Return the settings of the experiment, without secrets."""
    settings: dict[str, Any] = without_secrets(dict(getattr(meta, "experiment_kwargs", None) or {}))
    return settings


def _model_part(meta: Any, state: str | None) -> dict[str, Any]:
    """Return the state, and name and revision for readers. Without a state, return only the latter."""
    name, revision = getattr(meta, "name", None), getattr(meta, "revision", None)
    named = name not in _PLACEHOLDER_NAMES and not is_local(name)
    part: dict[str, Any] = {"name": name, "revision": revision} if named else {}
    return part if state is None else {**part, "state": state}


def prompt(profile: Profile, task_metadata: Any, prompt_type: Any) -> dict[str, Any]:
    """Return the prompt of a call: its text if that is known, otherwise all inputs that may make it.

    Raises:
        TypeError: a prompt setting has no stable form.
    """
    role, model = getattr(prompt_type, "value", prompt_type), profile.prompter
    if profile.kind == "sentence-transformers":
        wrapper = sys.modules["mteb.models.sentence_transformer_wrapper"]
        text = wrapper._resolve_prompt(model.model_prompts, task_metadata, prompt_type)
        return {"text": describe(_default_prompt(model.model, role) if text is None else text)}
    if profile.kind == "instruct":
        text = model.get_task_instruction(task_metadata, prompt_type)
        if role == "document" and not model.apply_instruction_to_passages:
            text = None
        return {"text": describe(_default_prompt(model.model, None) if text is None else text)}
    return {
        "task": describe(task_metadata.name),
        "type": describe(task_metadata.type),
        "metadata": describe(task_metadata.prompt),
    }


def reads_argument(model: Any, name: str) -> bool:
    """Return whether a model's ``encode`` may read an argument: unless it declares and never loads it.

    Example:
        >>> class Model:
        ...     def encode(self, inputs, *, hf_split, hf_subset):
        ...         return [hf_subset for _ in inputs]
        >>> reads_argument(Model(), "hf_subset"), reads_argument(Model(), "hf_split")
        (True, False)
    """
    function = inspect.unwrap(encoder_of(model))
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or name not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return True
    if {"locals", "vars", "eval", "exec"} & set(code.co_names):
        return True
    # One instruction may load several names, as a tuple.
    loads = (step for step in dis.get_instructions(code) if "LOAD" in step.opname)
    return any(name in (step.argval if isinstance(step.argval, tuple) else (step.argval,)) for step in loads)


def _prompt_settings(parts: list[Any]) -> str | None:
    """Return a digest of all prompt settings; None if one has no stable form."""
    try:
        return sha256_of([{name: getattr(part, name, None) for name in _PROMPT_SETTINGS} for part in parts])
    except TypeError:
        return None


def _first_setting(parts: list[Any], name: str) -> Any:
    """Return the first value of a setting in a model or the models that it wraps; None if there is none."""
    found = (getattr(part, name, None) for part in parts if not is_module(part))
    return next((value for value in found if value is not None), None)


def _modalities(meta: Any, kind: Kind) -> dict[str, Any]:
    """Describe which columns mteb's sentence-transformers read, unless it is only the text."""
    modalities = getattr(meta, "modalities", None)
    if kind == "other" or modalities in (None, ["text"]):
        return {}
    return {"modalities": describe(list(modalities))}


def _default_prompt(inner: Any, role: str | None) -> str | None:
    """Return the default prompt of sentence-transformers."""
    candidates = {"query": ("query",), "document": _DOCUMENT_PROMPTS}.get(role or "", ())
    name = next((name for name in candidates if name in inner.prompts), inner.default_prompt_name)
    text: str | None = None if name is None else inner.prompts.get(name)
    return text


def _encoder_settings(inner: Any) -> dict[str, Any]:
    """Describe settings of a sentence-transformer that can be assigned after it was loaded."""
    return {**encoder_settings(inner), "truncate_dim": describe(inner.truncate_dim)}


def loader_settings(meta: Any, kind: Kind) -> dict[str, str]:
    """Describe how the model was loaded, without secrets, and without what a call's identity holds."""
    left_out = {"device"} if kind == "other" else {"device", "model_prompts", "prompts_dict", "embed_dim"}
    settings = without_secrets(dict(getattr(meta, "loader_kwargs", None) or {}))
    described = {}
    for name, value in settings.items():
        if name not in left_out:
            try:
                described[f"loader {name}"] = canonical_json(describe(value))
            except TypeError:
                described[f"loader {name}"] = f"a {type(value).__qualname__}"
    return described


def is_local(name: str) -> bool:
    """Return whether a model's name is a local path. A path does not identify weights."""
    return name.startswith((".", "~", "/")) or "\\" in name or Path(name).exists()


def _is_published(meta: Any) -> bool:
    """Return whether metadata come from mteb's registry or a hub, not from an object in memory.

    Metadata of an object in memory have the name and commit of the model before any training.
    """
    return getattr(meta, "release_date", None) is not None or getattr(meta, "open_weights", None) is not None
