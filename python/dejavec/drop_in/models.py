"""Models that mteb builds, with a cache around each."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from dejavec.drop_in.install import when_mteb_is_imported


def cache_models(directory: Path) -> None:
    """Have each model that mteb builds from now on cached, below a directory.

    ``mteb.get_model``, ``ModelMeta.load_model`` and so mteb's own command line return dejavec's wrapper. The
    model is built at the first miss, unless it is asked for with arguments that only a built model knows.

    Args:
        directory: the ``cache_path`` of the wrappers.
    """
    when_mteb_is_imported(functools.partial(_replace, directory))


def _replace(directory: Path) -> None:
    from mteb.models import ModelMeta

    load = ModelMeta.load_model
    if hasattr(load, "dejavec_directory"):
        return

    @functools.wraps(load)
    def load_model(meta: Any, device: str | None = None, **settings: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] == "dejavec":
            return load(meta, device, **settings)  # A wrapper builds its model.
        return _cached(load, meta, device, settings, directory)

    load_model.dejavec_directory = directory  # type: ignore[attr-defined]
    ModelMeta.load_model = load_model


def _cached(load: Any, meta: Any, device: str | None, settings: dict[str, Any], directory: Path) -> Any:
    import dejavec

    if not {name: value for name, value in settings.items() if value is not None}:
        arguments = {} if device is None else {"loader_kwargs": {**meta.loader_kwargs, "device": device}}
        try:
            return dejavec.CachedEmbeddingWrapper(meta.model_copy(update=arguments), directory)
        except ValueError:
            pass  # It makes no encoder that is known before it is built.
    model = load(meta, device, **settings)
    try:
        return dejavec.CachedEmbeddingWrapper(model, directory)
    except ValueError:
        return model  # mteb says what is wrong with it.
