"""A framework's object with the caches of its vectors: what every adapter is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dejavec.adapters.caches import Caches
from dejavec.adapters.inner_config import NO_VECTOR, config_of
from dejavec.identity.wrapped import ModelWrapper
from dejavec.support.in_thread import call_in_thread, wait_for


class InnerCall(ModelWrapper):
    """A call of a framework's object for some texts. A look at it examines that object.

    Attributes:
        model: the object.
        is_built: True.
    """

    is_built = True
    left_out = NO_VECTOR

    def __init__(self, model: object, call: Callable[[list[str]], Any]) -> None:
        self.model = model
        self._call = call

    def __call__(self, texts: list[str]) -> Any:
        """Return the vectors of texts, in the object's own form."""
        return self._call(texts)

    def __wrapped_model__(self) -> InnerCall:
        """Return itself, as the source of the model."""
        return self


class CachedModel:
    """A framework's object, and a cache for each role of its texts.

    Args:
        model: the object.
        caches: the caches.
        describe: returns the configuration of the object, as a JSON object.

    Attributes:
        model: the object.
        caches: the caches.
    """

    def __init__(
        self,
        model: Any,
        caches: Caches,
        describe: Callable[[Any], dict[str, Any]] = config_of,
    ) -> None:
        self.model = model
        self.caches = caches
        self._describe = describe
        self._config = describe(model)

    def assign(self, name: str, value: object) -> None:
        """Assign an attribute of the object. Another setting is another identity."""
        setattr(self.model, name, value)
        self._config = self._describe(self.model)

    def encode(
        self,
        role: str,
        texts: list[str],
        call: Callable[[list[str]], Any],
        *,
        batch_size: int | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the vectors of texts: see :meth:`dejavec.EmbeddingCache.encode`.

        Args:
            role: the role of the texts.
            texts: n texts.
            call: calls the object for k different texts.
            batch_size: how many texts the object gets at a time; None: what a chunk has.
            further: what else of the call changes a vector.
        """
        cache = self.caches.of(role, {"role": role, "config": self._config, **(further or {})})
        return cache.encode(texts, InnerCall(self.model, call), batch_size=batch_size)

    async def aencode(
        self,
        role: str,
        texts: list[str],
        call: Callable[[list[str]], Awaitable[Any]],
        *,
        batch_size: int | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what :meth:`encode` does. A thread does the blocking work; the loop runs ``call``."""

        def work(calling: Any) -> Any:
            def waited(some: list[str]) -> Any:
                return wait_for(calling, call(some))

            return self.encode(role, texts, waited, batch_size=batch_size, further=further)

        return await call_in_thread(work)
