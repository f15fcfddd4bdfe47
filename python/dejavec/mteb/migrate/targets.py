"""The calls of a wrapped model whose vectors an old tree may hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from dejavec.errors import IdentityMismatchError, VectorsError
from dejavec.mteb.migrate.doubts import Place, prompt_type, registered
from dejavec.mteb.model.identity import encoder_kind, reads_argument
from dejavec.mteb.model.methods import encoder_of
from dejavec.serving.forms import is_dense
from dejavec.serving.uncacheable import UncacheableError
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.safe_name import safe_name
from dejavec.vectors.arrays import to_dense_rows
from dejavec.vectors.output import Output

if TYPE_CHECKING:
    from dejavec.mteb.engine import Engine

_KEPT_BY_FLOAT32 = ("float32", "float16", "bfloat16")


class EngineCalls:
    """The calls of a model whose vectors an old tree may hold.

    Args:
        engine: the engine of our wrapper of the model.
        tasks: tasks that mteb's registry lacks, by name.
        arguments: arguments of ``encode`` besides mteb's own.
    """

    def __init__(self, engine: Engine, tasks: Mapping[str, Any], arguments: dict[str, Any]) -> None:
        if arguments.get("precision") is not None:
            raise VectorsError(
                "arguments",
                expected="vectors as the model made them",
                found=f"precision={arguments['precision']!r}",
                remedy="leave precision out: quantised vectors are not imported",
            )
        for name in ("hf_subset", "hf_split"):
            if reads_argument(engine.source.model, name):
                raise IdentityMismatchError(
                    "the model",
                    expected=f"an encode that does not look at {name}",
                    found="one that does",
                    remedy="encode again: mteb's directories do not say which one it was",
                )
        if engine.call_dependent:
            raise IdentityMismatchError(
                "the model",
                expected="vectors that do not depend on the rest of their call",
                found="some that do",
                remedy="encode again: such vectors are not cached",
            )
        self._engine = engine
        self._kind = encoder_kind(engine.source.model)
        self._tasks = tasks
        self._arguments = arguments
        self._vectors: tuple[int, Output] | None = None

    def task(self, name: str) -> Any | None:
        """Return the task of this name; None if it is unknown."""
        return self._tasks.get(name) or registered(name)

    def cache(
        self, place: Place, task: Any, role: str | None, stack: ExitStack
    ) -> tuple[KeyedCache, Any] | None:
        """Return the cache for the calls of a task and role, and the prompt in its identity.

        Args:
            place: the parts of the path of the old cache.
            task: the task.
            role: the role.
            stack: keeps the cache open.

        Returns:
            None if the calls have other experiment settings than the path.
        """
        call = self._call(task, role)
        try:
            found = self._engine.place(self._kind, self._engine.source.look(), call)
        except UncacheableError as error:
            raise IdentityMismatchError(
                "the model", expected="calls that can be cached", found=str(error), remedy="encode again"
            ) from None
        if found.path != self._engine.settings.cache_path / place.path(safe_name(place.task), role):
            return None
        cache = stack.enter_context(self._engine.using(found))
        return cache, json.loads(found.identity)["prompt"]

    def vectors(self, task: Any, role: str | None) -> tuple[int, Output]:
        """Return dimension and array kind of the model's vectors. It encodes one text for that.

        Raises:
            VectorsError: mteb's cache cannot hold such vectors exactly.
        """
        if self._vectors is None:
            from datasets import Dataset
            from torch.utils.data import DataLoader

            loader = DataLoader(Dataset.from_dict({"text": ["dejavec"]}), batch_size=1)
            vectors = encoder_of(self._engine.source.model)(loader, **self._call(task, role))
            if not is_dense(vectors):
                raise VectorsError(
                    "the model",
                    expected="a dense 2-D array",
                    found=type(vectors).__name__,
                    remedy="its vectors are not cached",
                )
            rows, output = to_dense_rows(vectors, 1, "the model")
            if output.dtype not in _KEPT_BY_FLOAT32:
                raise VectorsError(
                    "the model",
                    expected="vectors that float32 holds",
                    found=output.dtype,
                    remedy="mteb's cache, which is float32, does not have them as they were",
                )
            self._vectors = rows.shape[1], output
        return self._vectors

    def _call(self, task: Any, role: str | None) -> dict[str, Any]:
        own = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
        return {**own, "prompt_type": prompt_type(role), **self._arguments}
