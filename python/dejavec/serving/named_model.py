"""A model of sentence-transformers by its name, as the command line and the workers of a cluster load it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dejavec.errors import DejavecError
from dejavec.identity.observed import observe
from dejavec.support.packages import package

_CLASSES = {
    "SparseEncoder": "SparseEncoder",
    "MultiVectorEncoder": "MultiVectorEncoder",
    "ColBERT": "MultiVectorEncoder",
}
"""Classes of sentence-transformers by the type in the configuration; others are a SentenceTransformer."""


@dataclass(frozen=True)
class ModelName:
    """A model as the caller names it.

    Attributes:
        name: a name on the hub, or a directory.
        revision: the revision; None if none is given.
    """

    name: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split ``name@revision``. A directory has no revision.

        Example:
            >>> ModelName.parse("org/small@v2"), ModelName.parse("org/small").revision
            (ModelName(name='org/small', revision='v2'), None)
        """
        name, separator, revision = text.rpartition("@")
        if not separator or not name or not revision or Path(text).exists():
            return cls(text, None)
        return cls(name, revision)

    def text(self, revision: str | None) -> str:
        """Return the model of an identity, with the revision that was loaded."""
        return self.name if revision is None else f"{self.name}@{revision}"


Encoder = Callable[[list[str]], Any]
"""Returns the vectors of texts as a model returns them. The cache examines the model in it."""


def load(
    named: ModelName, prompt: str | None, *, as_query: bool = False, where: str = "--model"
) -> tuple[Encoder, str | None]:
    """Load a model.

    Args:
        named: which model.
        prompt: what it reads before each text; None: what it is configured for.
        as_query: whether the texts are queries, if the model tells them from documents.
        where: how an error names the argument.

    Returns:
        The encoder; and its revision: the commit on the hub, the given one, or a digest of all tensors.

    Raises:
        MissingPackageError: sentence-transformers is not installed.
        DejavecError: it cannot load the model.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    library = package("sentence_transformers", where, project="'dejavec[sentence-transformers]'")
    try:
        made = getattr(library, _class_name(named))
        model = made(named.name, revision=named.revision)
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DejavecError(
            where,
            expected="a model that sentence-transformers loads",
            found=f"{named.name}: {type(error).__name__}: {reason}",
            remedy="check the name, or the directory",
        ) from error
    settings = {} if prompt is None else {"prompt": prompt}
    encode = model.encode_query if as_query and hasattr(model, "encode_query") else model.encode
    encoder = partial(encode, show_progress_bar=False, **settings)
    return encoder, _commit(model) or named.revision or _weights(model)


def _class_name(named: ModelName) -> str:
    from sentence_transformers.util import load_file_path

    path = load_file_path(named.name, "config_sentence_transformers.json", revision=named.revision)
    kind = json.loads(Path(path).read_text(encoding="utf-8")).get("model_type") if path else None
    if kind == "CrossEncoder":
        raise ValueError("it scores pairs and makes no vectors")
    return _CLASSES.get(str(kind), "SentenceTransformer")


def _weights(model: Any) -> str | None:
    state = observe(model).look(model).state
    return None if state is None else f"weights-{state[:12]}"


def _commit(model: Any) -> str | None:
    """Return the commit on the hub that a model was loaded from."""
    for module in model.modules():
        commit = getattr(getattr(module, "config", None), "_commit_hash", None)
        if isinstance(commit, str):
            return commit
    return None
