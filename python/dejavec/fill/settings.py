"""The settings of one call: how it encodes and stores. They cannot change during the call."""

from __future__ import annotations

import numbers
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

Miss = Literal["encode", "raise"]
OnProblem = Literal["warn", "raise"]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """The settings of one call of :func:`dejavec.fill.fill`.

    Attributes:
        chunk_rows: the most items in a chunk.
        chunk_seconds: how long a chunk should take before it is committed; None: no limit.
        batch_rows: how many items the model computes together; chunks are multiples of it. None: unknown.
        miss: ``"encode"``; or ``"raise"`` if items are not cached, so that no model runs.
        refresh: whether every item is encoded again.
        progress: whether to show a bar; None: on a terminal.
        dtype: ``"float32"`` rounds all vectors to it; None: no rounding.
        store_dtype: ``"float16"`` rounds the stored numbers to it; the vectors keep their dtype.
        on_nonfinite: whether vectors with NaN or infinity warn or raise.
        on_write_error: whether vectors that cannot be written warn or raise.

    Raises:
        ValueError: a setting has a value that is not allowed.

    Example:
        >>> FillSettings(chunk_rows=0)
        Traceback (most recent call last):
        ValueError: expected chunk_rows of at least 1, found 0
    """

    chunk_rows: int = 10_000
    chunk_seconds: float | None = 10.0
    batch_rows: int | None = None
    miss: Miss = "encode"
    refresh: bool = False
    progress: bool | None = False
    dtype: Literal["float32"] | None = None
    store_dtype: Literal["float16"] | None = None
    on_nonfinite: OnProblem = "warn"
    on_write_error: OnProblem = "warn"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_choice("miss", self.miss, Miss)
        check_flag("refresh", self.refresh)
        if self.dtype not in ("float32", None):
            raise ValueError(f"expected dtype to be 'float32' or None, found {self.dtype!r}")
        if self.store_dtype not in ("float16", None):
            raise ValueError(f"expected store_dtype to be 'float16' or None, found {self.store_dtype!r}")
        check_choice("on_nonfinite", self.on_nonfinite, OnProblem)
        check_choice("on_write_error", self.on_write_error, OnProblem)
        object.__setattr__(self, "chunk_rows", whole_number("chunk_rows", self.chunk_rows))
        seconds = self.chunk_seconds
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, numbers.Real)):
            raise TypeError(f"expected chunk_seconds to be a number or None, found {type(seconds).__name__}")
        if seconds is not None and not seconds > 0:
            raise ValueError(f"expected chunk_seconds above 0 or None, found {seconds}")
        if self.progress not in (True, False, None):
            raise TypeError(f"expected progress to be True, False or None, found {self.progress!r}")


def whole_number(name: str, value: object, least: int = 1) -> int:
    """Return an argument as an int. NumPy's integers are allowed.

    Raises:
        TypeError: it is no integer.
        ValueError: it is too small.

    Example:
        >>> whole_number("k", 2.5)
        Traceback (most recent call last):
        TypeError: expected k to be an integer, found float
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"expected {name} to be an integer, found {type(value).__name__}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"expected {name} of at least {least}, found {number}")
    return number


def check_flag(name: str, value: object) -> None:
    """Check that an argument is True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"expected {name} to be True or False, found {type(value).__name__}")


def check_choice(name: str, value: object, allowed: Any) -> None:
    """Check that an argument is one of the values of a ``Literal``.

    Raises:
        ValueError: it is not.
    """
    if value not in get_args(allowed):
        raise ValueError(f"expected {name} to be one of {get_args(allowed)}, found {value!r}")
