"""Which model and settings make the vectors of one mteb call, as far as the model tells."""

from __future__ import annotations

import dis
import inspect
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dejavec.errors import DejavecWarning
from dejavec.fingerprint import describe, sha256_of, weights_digest, weights_version
from dejavec.identity import parse_model

Kind = Literal["sentence-transformers", "instruct", "other"]
"""How much is known of ``encode``: one of mteb's two, whose prompts and batches can be told, or another."""

NEUTRAL_ARGUMENTS = frozenset({"batch_size", "show_progress_bar", "device", "prompt_type"})
"""Encode arguments that do not change vectors, or that the identity holds elsewhere."""

_PLACEHOLDER_NAMES = (None, "", "no_model_name/available")
_COMMIT = re.compile("[0-9a-f]{40}")
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


def layers(model: Any) -> Iterator[Any]:
    """Yield a model and what it wraps, from the outside in, down to the first torch module."""
    seen: set[int] = set()
    while model is not None and id(model) not in seen:
        seen.add(id(model))
        yield model
        if _is_module(model):
            return
        own = getattr(model, "__dict__", {})
        model = own.get("model", own.get("_model"))


def encoder_kind(model: Any) -> Kind:
    """Tell whether ``model.encode`` is one of mteb's two for sentence-transformers, over an unchanged model.

    A decorator that names what it wraps does not count.
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


class ModelIdentity:
    """What is learnt of one model object, the costly part of it once.

    Args:
        model: the model that makes the vectors.
        name: ``"name@revision"`` from the user, who then answers for the weights and how they were loaded.
    """

    def __init__(self, model: Any, name: str | None) -> None:
        self._model = model
        self._name = None if name is None else parse_model(name)
        self._weights: tuple[object, str] | None = None
        self._warned = False

    def of_call(
        self,
        kind: Kind,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        arguments: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the identity of the vectors that a call makes.

        Args:
            kind: see :func:`encoder_kind`.
            task_metadata: mteb's description of the task.
            hf_split: the split that is encoded.
            hf_subset: the subset that is encoded.
            arguments: all further arguments of ``encode``.

        Returns:
            A JSON object.

        Raises:
            TypeError: an argument or a setting has no stable form.
        """
        meta = getattr(self._model, "mteb_model_meta", None)
        prompt_type = arguments.get("prompt_type")
        identity: dict[str, Any] = {
            "model": self._name or self._of_weights(meta),
            "role": None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type)),
            "prompt": prompt(self._model, kind, task_metadata, prompt_type),
        }
        if self._name is None:
            identity["loader"] = _loader_settings(meta, kind)
        if kind != "other":
            identity["encoder"] = _encoder_settings(self._model.model)
        identity["experiment"] = describe(dict(getattr(meta, "experiment_kwargs", None) or {}))
        settings = {name: getattr(self._model, name, None) for name in _MEDIA_SETTINGS}
        identity["media"] = {name: describe(value) for name, value in settings.items() if value is not None}
        identity["arguments"] = {
            name: describe(value) for name, value in arguments.items() if name not in NEUTRAL_ARGUMENTS
        }
        for name, value in (("hf_subset", hf_subset), ("hf_split", hf_split)):
            if reads_argument(self._model, name):
                identity[name] = describe(value)
        return {name: part for name, part in identity.items() if part != {}}

    def _of_weights(self, meta: Any) -> dict[str, Any]:
        """Return name and revision where they settle the weights, else a digest of these, else the class."""
        name, revision = getattr(meta, "name", None), getattr(meta, "revision", None)
        named = name not in _PLACEHOLDER_NAMES and not _is_local(name)
        identified = named and _COMMIT.fullmatch(str(revision)) is not None
        if identified and _is_published(meta):
            return {"name": name, "revision": revision}
        part: dict[str, Any] = {"name": name, "revision": revision} if named else {}
        weights = self._digest()
        if weights is not None:
            return {**part, "weights": weights}
        maker = f"{type(self._model).__module__}.{type(self._model).__qualname__}"
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"nothing tells this {maker} from another with different weights: it has no torch weights, "
                f"and its revision {revision!r} is no commit; pass model_name='name@revision'",
                DejavecWarning,
                stacklevel=2,
            )
        return {**part, "class": maker}

    def _digest(self) -> str | None:
        """Return the digest of the weights, taken again only when they may have changed; None without any."""
        modules, tokenizers = _torch_parts(self._model)
        if not modules:
            return None
        version = weights_version(modules, tokenizers)
        if self._weights is None or self._weights[0] != version:
            self._weights = (version, weights_digest(modules, tokenizers))
        return self._weights[1]


def prompt(model: Any, kind: Kind, task_metadata: Any, prompt_type: Any) -> dict[str, Any]:
    """Return the prompt of a call: its text where that can be known, else everything it may be made from.

    Raises:
        TypeError: a prompt setting has no stable form.
    """
    role = getattr(prompt_type, "value", prompt_type)
    if kind == "sentence-transformers":
        wrapper = sys.modules["mteb.models.sentence_transformer_wrapper"]
        text = wrapper._resolve_prompt(model.model_prompts, task_metadata, prompt_type)
        return {"text": describe(_default_prompt(model.model, role) if text is None else text)}
    if kind == "instruct":
        text = model.get_task_instruction(task_metadata, prompt_type)
        if role == "document" and not model.apply_instruction_to_passages:
            text = None
        return {"text": describe(_default_prompt(model.model, None) if text is None else text)}
    settings = [
        {name: describe(getattr(layer, name, None)) for name in _PROMPT_SETTINGS} for layer in layers(model)
    ]
    return {
        "task": describe(task_metadata.name),
        "type": describe(task_metadata.type),
        "metadata": describe(task_metadata.prompt),
        "settings": sha256_of(settings),
    }


def reads_argument(model: Any, name: str) -> bool:
    """Tell whether ``model.encode`` may look at its argument ``name``: unless it names and never uses it.

    Example:
        >>> class Model:
        ...     def encode(self, inputs, *, hf_split, hf_subset):
        ...         return [hf_subset for _ in inputs]
        >>> reads_argument(Model(), "hf_subset"), reads_argument(Model(), "hf_split")
        (True, False)
    """
    function = inspect.unwrap(model.encode)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or name not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return True
    if {"locals", "vars", "eval", "exec"} & set(code.co_names):
        return True
    # Several names may share one instruction, which then has a tuple of them.
    loads = (step for step in dis.get_instructions(code) if "LOAD" in step.opname)
    return any(name in (step.argval if isinstance(step.argval, tuple) else (step.argval,)) for step in loads)


def _default_prompt(inner: Any, role: str | None) -> str | None:
    """Return the prompt that sentence-transformers takes if it is given none."""
    candidates = {"query": ("query",), "document": _DOCUMENT_PROMPTS}.get(role or "", ())
    name = next((name for name in candidates if name in inner.prompts), inner.default_prompt_name)
    text: str | None = None if name is None else inner.prompts.get(name)
    return text


def _encoder_settings(inner: Any) -> dict[str, Any]:
    """Describe what may be assigned to a sentence-transformer after it was loaded."""
    weight = next(inner.parameters(), None)
    return {
        "max_seq_length": describe(inner.max_seq_length),
        "truncate_dim": describe(inner.truncate_dim),
        "dtype": None if weight is None else str(weight.dtype),
    }


def _loader_settings(meta: Any, kind: Kind) -> Any:
    """Describe how the model was loaded; prompts only where their text is not known otherwise."""
    left_out = {"device"} if kind == "other" else {"device", "model_prompts", "prompts_dict"}
    settings = getattr(meta, "loader_kwargs", None) or {}
    return {name: describe(value) for name, value in settings.items() if name not in left_out}


def _is_local(name: str) -> bool:
    return name.startswith((".", "~", "/")) or "\\" in name or Path(name).exists()


def _is_published(meta: Any) -> bool:
    """Tell a registry's or hub's entry from a description made out of an object in memory.

    The latter has name and commit of the model that the object began as, whatever it was trained to since.
    """
    return getattr(meta, "release_date", None) is not None or getattr(meta, "open_weights", None) is not None


def _is_module(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _torch_parts(model: Any) -> tuple[list[Any], list[Any]]:
    """Return the torch modules and tokenizers that a model holds; no modules if the weights lie elsewhere."""
    modules: list[Any] = []
    tokenizers: list[Any] = []
    for layer in layers(model):
        held = [layer] if _is_module(layer) else [layer, *_held_modules(layer)]
        modules += [part for part in held if _is_module(part) and all(part is not other for other in modules)]
        for part in held:
            tokenizer = getattr(part, "tokenizer", None)
            if tokenizer is not None and all(tokenizer is not other for other in tokenizers):
                tokenizers.append(tokenizer)
    if any(getattr(module, "backend", "torch") != "torch" for module in modules):
        return [], []
    with_weights = [module for module in modules if next(module.parameters(), None) is not None]
    return (modules if with_weights else []), tokenizers


def _held_modules(layer: Any) -> list[Any]:
    own = getattr(layer, "__dict__", {})
    return [own[name] for name in sorted(own) if _is_module(own[name])]
