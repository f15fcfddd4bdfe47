"""What a built model has told of itself, as JSON, and what stands in for the model later."""

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
    """Return all that stands in for a model.

    Args:
        built: the model.
        look: what was seen of it before its first ``encode``.

    Raises:
        TypeError: nothing can: a setting is no JSON, or only the model itself can tell its prompts.
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
        TypeError: the prompts are made by a function that is not at hand.
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
    """Return what was seen of the model when it was built.

    Raises:
        LookupError, TypeError, ValueError: the record is of another form.
    """
    return Look(record["state"], Description.from_json(record["description"]), bool(record["visible"]))


def _prompts_of(profile: Profile) -> dict[str, Any]:
    """Return the settings from which the prompts of a model of sentence-transformers are made.

    Raises:
        TypeError: they are more than settings.
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
    """Return what has a model's prompt settings in its place.

    Raises:
        TypeError: see :func:`_profile_from`.
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
    # Its methods make the prompts of these settings; the constructor would load the weights.
    prompter = object.__new__(InstructSentenceTransformerModel)
    vars(prompter).update(settings, model=inner)
    return prompter
