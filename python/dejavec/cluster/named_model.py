"""The model of a worker, by its name: the revision is in the identity before the model is loaded."""

from __future__ import annotations

from dejavec.errors import IdentityMismatchError
from dejavec.serving.named_model import Encoder, ModelName, load


def named(model: str) -> ModelName:
    """Return the parts of ``"name@revision"``.

    Raises:
        ValueError: there is no revision; a directory has none.
    """
    found = ModelName.parse(model)
    if found.revision is None:
        raise ValueError(
            f'expected model="name@commit" of sentence-transformers, found {model!r} without a commit; pass '
            "one, or build= with a function that builds the model"
        )
    return found


def load_named(model: str, prompt: str | None) -> Encoder:
    """Load a model of sentence-transformers.

    Raises:
        IdentityMismatchError: the revision names another commit, such as a branch does, which moves.
        MissingPackageError: sentence-transformers is not installed.
        DejavecError: it cannot load the model.
    """
    wanted = named(model)
    encoder, commit = load(wanted, prompt, where="model")
    if commit != wanted.revision:
        raise IdentityMismatchError(
            f"model {wanted.name}",
            expected="a commit as the revision",
            found=f"{wanted.revision}, which is {commit} now",
            remedy=f'pass model="{wanted.name}@{commit}"',
        )
    return encoder
