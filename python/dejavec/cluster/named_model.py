"""The model of a worker, by its name: the commit is in the identity before the model is loaded."""

from __future__ import annotations

import re

from dejavec.serving.named_model import Encoder, ModelName, load

_COMMIT = re.compile(r"[0-9a-f]{40}")


def named(model: str) -> ModelName:
    """Return the parts of ``"name@commit"``.

    Raises:
        ValueError: there is no commit: a branch or tag may move, and a directory has none.
    """
    found = ModelName.parse(model)
    if found.revision is None or not _COMMIT.fullmatch(found.revision):
        raise ValueError(
            f'expected model="name@commit" with 40 hex digits, found {model!r}; or pass build= with '
            "a function that builds the model"
        )
    return found


def load_named(model: str, prompt: str | None) -> Encoder:
    """Load a model of sentence-transformers.

    Raises:
        ValueError: there is no commit.
        MissingPackageError: sentence-transformers is not installed.
        DejavecError: it cannot load the model.
    """
    return load(named(model), prompt, where="model")[0]
