"""Directory names for settings of experiments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dejavec.identity.fingerprint import sha256_of
from dejavec.support.safe_name import LONGEST


def experiment_name(settings: Mapping[str, Any]) -> str | None:
    """Return mteb's directory name for experiment settings, None if there are none.

    Raises:
        TypeError: a setting has no stable form.
    """
    from mteb.models.model_meta import _serialize_experiment_kwargs_to_name

    try:
        name: str | None = _serialize_experiment_kwargs_to_name(settings)
    except ValueError:
        name = None
    if not settings or (name is not None and len(os.fsencode(name)) <= LONGEST):
        return name
    return f"exp_{sha256_of(dict(settings))[:16]}"
