"""The settings of one wrapper for mteb. They are checked once, and do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dejavec.backends import CacheBackendProtocol, FaissCache, NumpyCache
from dejavec.fill.settings import FillSettings, OnProblem, check_choice, check_flag
from dejavec.identity.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.mteb.foreign_backend import is_backend
from dejavec.mteb.places import Scope
from dejavec.remote.urls import split
from dejavec.storage.handle import OnMismatch
from dejavec.support.paths import local_directory


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The settings of :class:`dejavec.CachedEmbeddingWrapper`, which documents each of them.

    Raises:
        ValueError: a setting has a value that is not allowed.
        TypeError: a setting has the wrong type.
    """

    cache_path: Path
    cache_backend: type[CacheBackendProtocol] | type[NumpyCache] = NumpyCache
    model_name: str | None = None
    chunk_rows: int = 10_000
    chunk_seconds: float | None = 10.0
    extra_fields: Sequence[str] = ()
    call_dependent: bool = False
    scope: Scope = "task"
    confirm: int | None = None
    confirm_tolerance: float | None = None
    on_unconfirmed: OnUnconfirmed = "warn"
    spot_check: int = 0
    spot_check_tolerance: float = 1e-5
    on_mismatch: OnMismatch = "sibling"
    on_nonfinite: OnProblem = "warn"
    on_write_error: OnProblem = "warn"
    shared: bool = False
    allow_network: bool = False
    keep_texts: bool = False
    store_dtype: Literal["float16"] | None = None
    remote: str | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "cache_path", local_directory(self.cache_path, "cache_path"))
        object.__setattr__(self, "extra_fields", tuple(self.extra_fields))
        if not is_backend(self.cache_backend):
            raise ValueError(
                f"expected cache_backend to be a CacheBackendProtocol, found {self.cache_backend!r}"
            )
        if self.spot_check < 0 or not self.spot_check_tolerance >= 0:
            raise ValueError(
                "expected spot_check and spot_check_tolerance of at least 0, found "
                f"{self.spot_check} and {self.spot_check_tolerance}"
            )
        if self.store_dtype is not None and not issubclass(self.cache_backend, NumpyCache):
            raise ValueError(
                f"expected NumpyCache with store_dtype={self.store_dtype!r}, found "
                f"{self.cache_backend.__name__}, which stores float32"
            )
        if self.remote is not None:
            split(self.remote)
            if not issubclass(self.cache_backend, NumpyCache | FaissCache):
                raise ValueError(
                    f"expected NumpyCache or FaissCache with remote=, found {self.cache_backend.__name__}"
                )
        check_flag("keep_texts", self.keep_texts)
        for name, allowed in (
            ("on_mismatch", OnMismatch),
            ("on_unconfirmed", OnUnconfirmed),
            ("scope", Scope),
        ):
            check_choice(name, getattr(self, name), allowed)
        _ = self.filling, self.confirming

    @property
    def filling(self) -> FillSettings:
        """The settings of each call, except its progress bar."""
        return FillSettings(
            chunk_rows=self.chunk_rows,
            chunk_seconds=self.chunk_seconds,
            on_nonfinite=self.on_nonfinite,
            on_write_error=self.on_write_error,
            store_dtype=self.store_dtype,
        )

    @property
    def spot_checked_within(self) -> float:
        """How far a number may be off in the spot check. float16 rounds a number by up to 2**-11."""
        return max(self.spot_check_tolerance, 0 if self.store_dtype is None else 2.0**-10)

    @property
    def confirming(self) -> Confirming | None:
        """How the model is asked; None: the user answers for it, so nothing is asked or recorded."""
        items = KNOWN_ITEMS if self.confirm is None else self.confirm
        confirming = Confirming(items, self.confirm_tolerance, self.on_unconfirmed)
        return None if self.confirm is None and self.model_name is not None else confirming

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that make equal settings, with the path as text."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**given, "cache_path": str(self.cache_path)}
