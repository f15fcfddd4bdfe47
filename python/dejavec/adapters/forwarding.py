"""Forward everything that an adapter does not cache to the framework's object."""

from __future__ import annotations

from typing import Any

from dejavec.adapters.cached_model import CachedModel


class Forwarding:
    """Forwards public attributes to the object of a :class:`CachedModel`, assignments too.

    Args:
        cached: the object and its caches.
    """

    _cached: CachedModel

    def __init__(self, cached: CachedModel) -> None:
        vars(self)["_cached"] = cached

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "_cached" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._cached.model, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._cached.assign(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def close(self) -> None:
        """Sync and close the caches. The next use opens them again."""
        self._cached.caches.close()
