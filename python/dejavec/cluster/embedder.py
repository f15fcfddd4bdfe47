"""The worker of a job that fills a shared cache."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dejavec.cache import EmbeddingCache
from dejavec.cluster.named_model import load_named, named
from dejavec.cluster.worker_directory import WorkerDirectory
from dejavec.fill.settings import whole_number
from dejavec.remote.shared_cache import StoreBehind
from dejavec.support.closing import Closing
from dejavec.support.paths import local_directory

PUSH_BYTES = 256 << 20
PUSH_SECONDS = 300.0

Encode = Callable[[list[str]], Any]
"""Returns the vectors of texts: see :meth:`dejavec.EmbeddingCache.encode`."""


class CachedEmbedder(Closing):
    """Embeds texts that no worker has embedded yet, and pushes their vectors to a store.

    Each worker has a cache of its own on the disk of its machine. A text is looked for there, then in the
    store, which is listed for each batch with missing texts, and only then encoded. Vectors are pushed while
    the next ones are encoded. If a machine dies, others encode again what it had not pushed. If only the
    process dies, the next worker on this machine pushes what it left.

    For Ray Data, pass the class to ``map_batches``, with these arguments as ``fn_constructor_kwargs``. Other
    programs call :meth:`encode`, and :meth:`close` at the end, as a ``with`` block does. An object that is
    dropped pushes, too, but nobody should rely on it: killed processes drop nothing.

    Args:
        url: the address of the store: see :meth:`dejavec.EmbeddingCache.push`.
        path: a directory on the disk of each machine. Its workers share it.
        model: which model makes the vectors, as ``"name@revision"``.
        build: returns the function that encodes texts; it is called once, at the first missing text. None:
            ``model`` is a model of sentence-transformers, with a whole commit as its revision.
        prompt: what the model reads before each text, as part of the identity. A model that ``build`` makes
            has to read it by itself.
        column: the column of texts in a batch.
        to: the column of vectors that is added. None: none is, and the vectors are in the store alone.
        batch_size: how many texts the model gets at a time; None: what it is given, if it batches by itself.
        push_bytes: encoding waits while so many bytes are not pushed. A push begins at half of them.
        push_seconds: a push begins, too, when the oldest new vector is so old.
        **settings: further settings of :class:`dejavec.EmbeddingCache`. With ``confirm=4``, each worker asks
            its model for a few stored vectors, even if nothing is missing: 16 at first, 4 a batch later.

    Raises:
        ValueError: the address is none; or ``model`` has no commit, and there is no ``build``.
        MissingPackageError: obstore is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> def build():
        ...     print("builds the model")
        ...     return lambda texts: np.array([[len(text)] for text in texts], np.float32)
        >>> with tempfile.TemporaryDirectory() as path:
        ...     place = {"url": f"file://{path}/team", "path": f"{path}/local", "model": "toy@1"}
        ...     with CachedEmbedder(**place, build=build) as one:
        ...         _ = one({"text": ["once", "again"]})
        ...     with CachedEmbedder(**place, build=build) as other:
        ...         other({"text": ["again", "once"]})["embedding"]
        builds the model
        array([[5.],
               [4.]], dtype=float32)
    """

    def __init__(
        self,
        url: str,
        *,
        path: str | os.PathLike[str],
        model: str,
        build: Callable[[], Encode] | None = None,
        prompt: str | None = None,
        column: str = "text",
        to: str | None = "embedding",
        batch_size: int | None = None,
        push_bytes: int = PUSH_BYTES,
        push_seconds: float = PUSH_SECONDS,
        **settings: Any,
    ) -> None:
        if build is None:
            named(model)
        self._build = build or (lambda: load_named(model, prompt))
        self._column = column
        self._to = to
        self._batch_size = batch_size
        self._asks = bool(settings.get("confirm"))
        self._model: Encode | None = None
        self._building = threading.Lock()
        behind = StoreBehind(
            url,
            push_bytes=max(whole_number("push_bytes", push_bytes) // 2, 1),
            push_seconds=push_seconds,
            most_unpushed=push_bytes,
            look_seconds=0,
        )
        # What is lost with the machine need not survive its power, but it must not be lost silently.
        usual = {"durability": "close", "on_write_error": "raise", "output": "numpy"}
        directory = WorkerDirectory(local_directory(path))
        try:
            self._cache = EmbeddingCache(
                directory.path,
                model=model,
                prompt=prompt,
                remote=behind,
                on_mismatch="sibling",
                **{**usual, **settings},
            )
        except BaseException:
            directory.close()
            raise
        self._closing = weakref.finalize(self, _close, self._cache, directory)
        # At the end of an interpreter no thread can push any more.
        self._closing.atexit = False

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Embed a batch.

        Args:
            batch: columns by name, as Ray Data gives them with ``batch_format="numpy"``.

        Returns:
            The columns, and that of the vectors.

        Raises:
            TypeError: it is no mapping.
            StorageError: the vectors could not be written here.
            Exception: see :meth:`dejavec.EmbeddingCache.encode`.
        """
        if not isinstance(batch, Mapping):
            kind = type(batch).__name__
            raise TypeError(f'expected columns by name, found {kind}; use batch_format="numpy"')
        vectors = self.encode(batch[self._column])
        return dict(batch) if self._to is None else {**batch, self._to: vectors}

    def encode(self, texts: object) -> Any:
        """Return the vectors of texts, and store those that are new.

        Args:
            texts: n texts, in any form of :func:`dejavec.keys.items.text_keys`.

        Raises:
            StorageError: the vectors could not be written here.
            Exception: see :meth:`dejavec.EmbeddingCache.encode`.
        """
        model = self._built() if self._asks else self._encode_missing
        return self._cache.encode(texts, model, batch_size=self._batch_size)

    def close(self) -> None:
        """Push what is new, and close the cache.

        Raises:
            StorageError: the store could not be written. The next worker on this machine pushes the vectors.
        """
        self._closing()

    def _encode_missing(self, texts: list[str]) -> Any:
        return self._built()(texts)

    def _built(self) -> Encode:
        with self._building:
            if self._model is None:
                self._model = self._build()
            return self._model


def _close(cache: EmbeddingCache, directory: WorkerDirectory) -> None:
    with directory, cache:
        pass
