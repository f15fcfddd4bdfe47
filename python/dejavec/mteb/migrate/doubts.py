"""Check whether the vectors in a cache of mteb certainly belong to their keys.

mteb's wrapper prepares the texts of a call twice. So the model reads a title or an instruction twice, but the
key is the digest of a text that contains it once. mteb does not change other texts.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEDIA = "their keys are not of text alone; dejavec's own keys of images, audio and video are others"
SHARED = "two keys name one row, as when two processes write one cache"
MIXED_ROWS = (
    "mteb's FaissCache named another row for them than that of their vector, as it does after a duplicate"
)
UNCOUNTED = (
    "mteb's FaissCache has not as many rows as keys, as after a crash, so nothing tells whose they are"
)
UNKNOWN = "mteb knows no task of this name, so nothing tells whether titles or instructions were doubled"
NO_MTEB = "mteb is not installed, so nothing tells whether titles or instructions were doubled"
DOCUMENTS = "documents of a search: mteb joined titles to them twice, and nothing tells which had one"
QUERIES = "queries of a search: mteb added instructions to them twice, and nothing tells which had one"
MIXED = "queries and documents in one directory: nothing tells which prompt each of them had"
PREPARED = "mteb prepared texts of this role a second time, and nothing tells which of them that changed"

ROLES = ("query", "document")

_EXPERIMENTS = "experiments"


@dataclass(frozen=True)
class Place:
    """The parts of the path of a cache: ``<task>[/experiments/<name>][/<query or document>]``."""

    task: str
    experiment: str | None
    role: str | None

    def path(self, task: str, role: str | None) -> Path:
        """Return the path for another name of the task, and another role."""
        path = Path(task)
        if self.experiment is not None:
            path = path / _EXPERIMENTS / self.experiment
        return path if role is None else path / role


def place_of(parts: tuple[str, ...]) -> Place | None:
    """Parse the last parts of a path; None if there is no name of a task.

    Example:
        >>> place_of(("old", "STSBenchmark", "experiments", "layer_3", "query"))
        Place(task='STSBenchmark', experiment='layer_3', role='query')
    """
    role = parts[-1] if parts and parts[-1] in ROLES else None
    rest = parts if role is None else parts[:-1]
    experiment = rest[-1] if len(rest) > 2 and rest[-2] == _EXPERIMENTS else None
    if experiment is not None:
        rest = rest[:-2]
    return Place(rest[-1], experiment, role) if rest else None


def registered(name: str) -> Any | None:
    """Return mteb's task of exactly this name, without its data; None if there is none."""
    import mteb

    with suppress(KeyError), warnings.catch_warnings():
        # mteb warns of an old name of a task. Vectors are not looked up under old names.
        warnings.simplefilter("ignore")
        task = mteb.get_task(name)
        return task if task.metadata.name == name else None
    return None


def doubt(task: Any, role: str | None) -> str | None:
    """Return why the vectors of a task's cache may not belong to their keys; None if they certainly do.

    Args:
        task: a task of mteb.
        role: ``"query"``, ``"document"`` or None, from the path.
    """
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    if role is None:
        return MIXED if has_roles(task) else None
    if not isinstance(task, AbsTaskRetrieval):
        return PREPARED
    return QUERIES if role == "query" else DOCUMENTS


def doubt_of_path(directory: Path) -> str | None:
    """Return :func:`doubt` for a single cache, with the task and role from its path."""
    place = place_of(directory.resolve().parts)
    try:
        task = None if place is None else registered(place.task)
    except ModuleNotFoundError:
        return NO_MTEB
    if place is None or task is None:
        return UNKNOWN
    return doubt(task, place.role)


def has_roles(task: Any) -> bool:
    """Return whether the task separates queries and documents."""
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    roles = (getattr(task, f"input{number}_prompt_type", None) for number in (1, 2))
    return isinstance(task, AbsTaskRetrieval) or any(role is not None for role in roles)


def only_text(task: Any, role: str | None) -> bool:
    """Return whether the items of this role are plain texts, so that a single digest is a text's key."""
    return bool(task.metadata.get_modalities(prompt_type(role)) == ["text"])


def prompt_type(role: str | None) -> Any:
    """Return mteb's value for a role."""
    from mteb.types import PromptType

    return None if role is None else PromptType(role)
