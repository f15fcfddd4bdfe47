"""The reason why a call is not cached."""

from __future__ import annotations

from typing import Any


class UncacheableError(Exception):
    """The call cannot be cached, so a wrapper passes it to the model. Never leaves the wrapper.

    Attributes:
        vectors: the model's result for the whole call, if it ran already.
    """

    concerns_own_call = True
    """Callers that wait for the same items do not get this error, since their calls may differ."""

    def __init__(self, reason: str, detail: str = "", vectors: Any = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.vectors = vectors
