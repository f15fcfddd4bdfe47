"""The JSON record of a built model, and its use in place of the model later."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from dejavec.identity.fingerprint import describe
from dejavec.identity.observed import Description, Look
from dejavec.mteb.model.identity import BuiltModel, Profile
from dejavec.mteb.model.similarity import similarity_of
from dejavec.support.canonical import canonical_json

_INSTRUCT_SETTINGS = (
    "instruction_template",
    "prompts_dict",
    "prompt_priority",
    "apply_instruction_to_passages",
)
_INSTRUCT_METHODS = ("get_task_instruction", "get_instruction", "format_instruction")
_SIMILARITIES = ("similarity", "similarity_pairwise")


def record_of(built: BuiltModel, look: Look) -> dict[str, Any]:
    """Return the record of a model.

    Args:
        built: the model.
        look: the look at it before its first ``encode``.

    Raises:
        TypeError: a setting has no JSON form, or a function of the model makes its prompts.
    """
    profile, meta = built.profile(), built.mteb_model_meta
    similarities = {name: similarity_of(built.model, name) for name in _SIMILARITIES}
    record = {
        "name": getattr(meta, "name", None),
        "revision": getattr(meta, "revision", None),
        "kind": profile.kind,
        "prompts": _prompts_of(profile),
        "prompt_settings": profile.prompt_settings,
        "encoder": profile.encoder,
        "media": profile.media,
        "reads": list(profile.reads),
        "call_dependent": profile.call_dependent,
        "state": look.state,
        "description": look.description.to_json(),
        "visible": look.visible,
        **{name: None if found is None else list(found) for name, found in similarities.items()},
    }
    canonical_json(record)
    return record


def profile_from(record: Mapping[str, Any], arguments: Mapping[str, Any]) -> Profile:
    """Return the profile in a record.

    Raises:
        TypeError: a function makes the prompts, and it is missing or changed.
    """
    return Profile(
        kind=record["kind"],
        prompter=_prompter(record, arguments),
        prompt_settings=record["prompt_settings"],
        encoder=record["encoder"],
        media=record["media"],
        reads=tuple(record["reads"]),
        call_dependent=record["call_dependent"],
    )


def look_from(record: Mapping[str, Any]) -> Look:
    """Return the recorded look at the model.

    Raises:
        LookupError, TypeError, ValueError: the record has another form.
    """
    return Look(record["state"], Description.from_json(record["description"]), bool(record["visible"]))


def _prompts_of(profile: Profile) -> dict[str, Any]:
    """Return the prompt settings of a sentence-transformers model.

    Raises:
        TypeError: the model has a method of its own that makes prompts.
    """
    model = profile.prompter
    if profile.kind == "other":
        return {}
    prompts = {"prompts": model.model.prompts, "default_prompt_name": model.model.default_prompt_name}
    if profile.kind == "sentence-transformers":
        return {**prompts, "model_prompts": model.model_prompts}
    from mteb.models.abs_encoder import AbsEncoder

    for name in _INSTRUCT_METHODS:
        if name in vars(model) or getattr(type(model), name) is not getattr(AbsEncoder, name):
            raise TypeError(f"{type(model).__name__} makes prompts in a {name} of its own")
    settings = {name: getattr(model, name) for name in _INSTRUCT_SETTINGS}
    template = settings["instruction_template"]
    return {
        **prompts,
        **settings,
        "prompt_priority": [str(getattr(source, "value", source)) for source in settings["prompt_priority"]],
        "instruction_template": describe(template) if callable(template) else template,
    }


def _prompter(record: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Return an object with the recorded prompt settings, in place of the model.

    Raises:
        TypeError: see :func:`profile_from`.
    """
    settings = dict(record["prompts"])
    if record["kind"] == "other":
        return None
    inner = types.SimpleNamespace(
        prompts=settings.pop("prompts"), default_prompt_name=settings.pop("default_prompt_name")
    )
    if record["kind"] == "sentence-transformers":
        return types.SimpleNamespace(model=inner, **settings)
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    template = settings["instruction_template"]
    if isinstance(template, dict):
        settings["instruction_template"] = arguments.get("instruction_template")
        if describe(settings["instruction_template"]) != template:
            raise TypeError("the function that makes prompts is not at hand")
    # The class's methods make the prompts. Its constructor is not called, since it would load the weights.
    prompter = object.__new__(InstructSentenceTransformerModel)
    vars(prompter).update(settings, model=inner)
    return prompter
