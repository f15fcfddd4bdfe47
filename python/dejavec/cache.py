"""The embedding cache: one directory of vectors, by text."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dejavec import _core
from dejavec.fill.chunks import Blocks, encoded, refuse_quantised
from dejavec.fill.coroutines import awaited
from dejavec.fill.fill import Plan, fill, plan
from dejavec.fill.map_function import MapFunction
from dejavec.fill.settings import (
    FillSettings,
    Miss,
    OnError,
    OnProblem,
    check_choice,
    check_flag,
    whole_number,
)
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.identity.function_check import FunctionCheck
from dejavec.keys.items import Keys, frozen, take, text_keys
from dejavec.search.approximate import BuiltIndex, build_index
from dejavec.search.exact import search
from dejavec.search.metric import Metric
from dejavec.search.result import SearchResult
from dejavec.storage.handle import Durability, Mode, OnMismatch
from dejavec.storage.identity import BARE, describe
from dejavec.storage.kept_texts import column_of
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.storage.summary import line_of, table_of
from dejavec.support.canonical import canonical_json
from dejavec.support.closing import Closing
from dejavec.support.in_thread import Loop, call_in_thread
from dejavec.support.paths import local_directory
from dejavec.support.progress import progress as show_progress
from dejavec.transfer.copying import CopyDtype, copy_to
from dejavec.transfer.merge import MergeOutcome, OnConflict, merge
from dejavec.vectors.arrays import from_rows
from dejavec.vectors.output import CSR_ARRAY, Container, Kind, Output
from dejavec.vectors.ragged import Ragged
from dejavec.vectors.sparse import to_scipy
from dejavec.views.dataset import VectorDataset
from dejavec.views.tables import to_arrow, to_pandas

if TYPE_CHECKING:
    from dejavec.remote.pull import PullOutcome, Vectors
    from dejavec.remote.push import Pushed
    from dejavec.remote.shared_cache import StoreBehind

_PLACE = ("self", "path", "on_mismatch")
"""Arguments of ``EmbeddingCache`` about its directory. Pickling replaces them by the directory in use."""


class CacheSettings(TypedDict, total=False):
    """The settings of :class:`dejavec.EmbeddingCache`."""

    model: str | None
    identity: Mapping[str, Any] | None
    prompt: str | None
    role: str | None
    confirm: int | None
    confirm_tolerance: float | None
    on_unconfirmed: OnUnconfirmed
    container: Container | None
    mode: Mode
    miss: Miss
    refresh: bool
    verify: bool
    durability: Durability
    chunk_rows: int
    chunk_seconds: float | None
    dtype: Literal["float32"] | None
    store_dtype: Literal["float16"] | None
    output: Kind | None
    on_write_error: OnProblem
    on_nonfinite: OnProblem
    on_mismatch: OnMismatch
    lock_timeout: float
    shared: bool
    allow_network: bool
    progress: bool | None
    keep_texts: bool
    remote: str | StoreBehind | None


class EmbeddingCache(Closing):
    """A directory of vectors by text: the key of a vector is the digest of its text.

    The directory is created when the first vectors are stored, which decide its dimension and dtype. Many
    processes and threads may use one directory at a time.

    Args:
        path: the directory.
        model: which model makes the vectors, as ``"name@revision"``: the user answers for it.
        identity: other settings that change a vector, as a JSON object.
        prompt: the text that the model reads before each text. Another prompt makes another identity.
        role: the role of the texts, such as ``"query"`` or ``"document"``, if the model needs it.
        confirm: how many cached texts each function is asked for, once, before vectors are served; four times
            as many if the function is not known to have made them. None is 4, or 0 with ``model``: nothing is
            asked.
        confirm_tolerance: how far a number may then be off, as a part of the largest number in its cached
            vector; None is 1e-4, or more for half precision and other versions of libraries.
        on_unconfirmed: whether to warn or raise if a function that is known to have made the vectors fails
            when it is asked, or answers differently each time.
        container: the format of the rows: ``"npy"`` is ``vectors.npy``; ``"faiss-l2"`` and ``"faiss-ip"`` are
            ``vectors.faiss``, an index that FAISS reads. The latter stores float32, and dtypes that float32
            holds exactly. ``"ragged"`` holds multi-vector items, and ``"sparse"`` sparse vectors. None is the
            container of the directory; in a new one, the first vectors choose ``"npy"``, ``"ragged"`` or
            ``"sparse"``.
        mode: ``"a"`` reads and appends; ``"r"`` only reads, and accepts any model's cache if none is named.
        miss: whether ``encode`` has texts encoded that are not cached, or raises before any is encoded.
        refresh: whether ``encode`` encodes every text again and replaces the stored vectors.
        verify: whether to verify each row's checksum when it is read.
        durability: ``"commit"`` syncs to disk after each chunk, ``"close"`` only in ``sync`` and ``close``.
        chunk_rows: the most texts in a chunk.
        chunk_seconds: how long a chunk should take before it is committed; None: no limit.
        dtype: ``"float32"`` rounds all vectors, on the first run too; None: no rounding.
        store_dtype: ``"float16"`` stores half of the bytes: numbers are rounded, on the first run too, and
            returned in the dtype of the model. It is a part of the identity. None: no rounding.
        output: the library of returned arrays, ``"numpy"``, ``"torch"`` or ``"list"``; None is the one that
            was stored first. Lists of Python floats are stored as float64.
        on_write_error: whether ``encode`` warns and completes if vectors cannot be written, or raises.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_mismatch: whether to raise if the directory has another model's vectors, or use a sibling: a
            directory beside it, named after the identity.
        lock_timeout: seconds to wait for another process that is writing.
        shared: whether the group may read and write a new directory and its files, not only the owner. An
            existing directory of mode 2770 is always shared.
        allow_network: whether to write on a network file system (NFS, SMB, Lustre …). Its locks may not
            exclude writers on other machines. Reading is always allowed.
        progress: whether ``encode`` shows a bar of the texts to encode; None: on a terminal.
        keep_texts: whether ``encode`` and ``put`` keep the texts of the rows that they append: see
            :meth:`texts`.
        remote: the address of a store (see :meth:`push`): vectors that are missing here are looked for there,
            before any is encoded. New ones are pushed in the background, after 128 MB or five minutes, and on
            close. It needs a named model. None: the cache is local.

    Raises:
        IdentityMismatchError: the directory holds another model's vectors, or has another container.
        ForeignDirectoryError: the directory holds something else.
        CacheNotFoundError: ``mode="r"``, and there is no cache.

    Example:
        >>> import tempfile, numpy as np
        >>> from dejavec import EmbeddingCache
        >>> def embed(texts: list[str]) -> np.ndarray:
        ...     return np.array([[len(text), text.count("e")] for text in texts], np.float32)
        >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, model="toy@1") as cache:
        ...     vectors = cache.encode(["once", "never again", "once"], embed)
        ...     vectors.shape, len(cache), "once" in cache
        ((3, 2), 2, True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | None = None,
        identity: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        role: str | None = None,
        confirm: int | None = None,
        confirm_tolerance: float | None = None,
        on_unconfirmed: OnUnconfirmed = "warn",
        container: Container | None = None,
        mode: Mode = "a",
        miss: Miss = "encode",
        refresh: bool = False,
        verify: bool = True,
        durability: Durability = "commit",
        chunk_rows: int = 10_000,
        chunk_seconds: float | None = 10.0,
        dtype: Literal["float32"] | None = None,
        store_dtype: Literal["float16"] | None = None,
        output: Kind | None = None,
        on_write_error: OnProblem = "warn",
        on_nonfinite: OnProblem = "warn",
        on_mismatch: OnMismatch = "raise",
        lock_timeout: float = 60.0,
        shared: bool = False,
        allow_network: bool = False,
        progress: bool | None = False,
        keep_texts: bool = False,
        remote: str | StoreBehind | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in _PLACE}
        described = describe(model, identity, prompt=prompt, role=role, store_dtype=store_dtype)
        check_choice("on_unconfirmed", on_unconfirmed, OnUnconfirmed)
        check_choice("output", output or "numpy", Kind)
        check_flag("keep_texts", keep_texts)
        self._keeps_texts = keep_texts
        if identity is not None:
            given["identity"] = json.loads(canonical_json(identity))
        self._given = given
        self._mode: Mode = mode
        self._kind: Kind | None = output
        self._settings = FillSettings(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            miss=miss,
            refresh=refresh,
            progress=progress,
            dtype=dtype,
            store_dtype=store_dtype,
            on_nonfinite=on_nonfinite,
            on_write_error=on_write_error,
        )
        items = KNOWN_ITEMS if confirm is None and "model" not in described else confirm or 0
        self._confirming = Confirming(items, confirm_tolerance, on_unconfirmed)
        self._check: FunctionCheck | None = None
        opened: Callable[..., KeyedCache] = KeyedCache
        if remote is not None:
            from dejavec.remote.shared_cache import SharedCache

            opened = partial(SharedCache, remote=remote)
        self._store = opened(
            path,
            identity=None if described == BARE else described,
            containers=() if container is None else (container,),
            mode=mode,
            verify=verify,
            durability=durability,
            on_mismatch=on_mismatch,
            lock_timeout=lock_timeout,
            shared=shared,
            allow_network=allow_network,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return path and settings. The unpickled object opens the same cache."""
        place = {"path": str(self.path), "on_mismatch": self._store.on_mismatch}
        return {**place, **self._given, "closed": self.closed}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        settings = dict(state)
        path, closed = settings.pop("path"), settings.pop("closed")
        EmbeddingCache.__init__(self, path, **settings)
        if closed:
            self.close()

    def __repr__(self) -> str:
        return line_of(type(self).__name__, self._store, self._mode)

    def _repr_html_(self) -> str:
        """Return a table of the same facts, for notebooks."""
        if self.closed:
            return f"<code>{html.escape(repr(self))}</code>"
        return table_of(type(self).__name__, self._store)

    def __bool__(self) -> bool:
        """Return True even for an empty cache: ``if cache:`` does not depend on the length."""
        return True

    def __len__(self) -> int:
        """Return how many different texts are stored, including those of other processes."""
        return len(self._store)

    def __contains__(self, text: object) -> bool:
        return bool(self._store.get(text_keys([text]))[0][0])

    @property
    def path(self) -> Path:
        """The directory. With ``on_mismatch="sibling"`` it may be a sibling of the requested one."""
        return self._store.path

    @property
    def model(self) -> str | None:
        """The model as ``"name@revision"``; None if none is named."""
        return self._store.model

    @property
    def identity(self) -> dict[str, Any]:
        """The identity, a JSON object; empty if no model or setting is named."""
        return self._store.identity

    @property
    def dim(self) -> int | None:
        """Numbers in a vector; None before the first vector."""
        return self._store.dim

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The stored dtype; None before the first vector."""
        return self._store.dtype

    @property
    def container(self) -> Container:
        """The container of the rows, even before there are any: see the constructor."""
        return self._store.container

    @property
    def closed(self) -> bool:
        """Whether the cache is closed."""
        return self._store.closed

    @property
    def vectors(self) -> Any:
        """All committed rows, replaced ones too: read-only, not copied, in the stored dtype.

        Dense rows are an array (rows, dim). Multi-vector rows are a sequence of (tokens, dim) arrays
        (:class:`dejavec.vectors.ragged.Ragged`, with ``data`` and ``indptr``). Sparse rows are a
        ``scipy.sparse.csr_array`` (rows, columns).

        Raises:
            MissingPackageError: the rows are sparse, and SciPy is not installed.
        """
        rows = self._store.vectors
        if isinstance(rows, Ragged) and rows.indices is not None:
            return to_scipy(rows, Output("scipy", rows.dtype.name, CSR_ARRAY, "int64"))
        return rows

    def keys(self) -> Keys:
        """Return the key of each row of :attr:`vectors`.

        Returns:
            uint8 (rows, 32): the SHA-256 of the text's UTF-8 bytes (:func:`dejavec.keys.items.text_keys`).
            The last of equal keys counts. A dead row has zeros.
        """
        return self._store.keys()

    def encode(
        self, texts: object, encode_fn: Callable[[list[str]], Any], *, batch_size: int | None = None
    ) -> Any:
        """Return the vectors of texts; ``encode_fn`` makes those that are not cached.

        Vectors are committed every ``chunk_seconds``, and at once if ``encode_fn`` fails. The first chunk has
        32 texts; the size of the next ones follows from the measured time. If several threads of a process
        miss the same text, it is encoded once.

        A model that pads its batches, such as a ``SentenceTransformer``, returns other last bits in another
        batch. So these bits may differ from those of one call for all texts. ``chunk_seconds=None`` makes one
        call for each ``chunk_rows``. The wrapper for mteb knows the batches, and keeps every bit.

        Args:
            texts: n texts, in any form of :func:`dejavec.keys.items.text_keys`.
            encode_fn: returns the vectors of k different texts, at most ``chunk_rows`` at a time: (k, dim); a
                list of k arrays (tokens, dim), or one padded array (k, longest, dim); or a sparse matrix. It
                may also yield blocks of them, in order, each committed at once, or single vectors (dim,),
                committed every ``chunk_seconds``. The vector of a text must not depend on the other texts, as
                it does with ``precision="int8"`` of sentence-transformers.
            batch_size: how many texts ``encode_fn`` gets at a time, if it does not batch by itself.

        Returns:
            The n vectors in the order of the texts, with the dtype that ``encode_fn`` returns. They are an
            array, a tensor or a list of lists, as ``output`` says, or as was stored first: multi-vector items
            as a list or one padded array, sparse vectors as a sparse matrix. Lists that the stored dtype
            would round are returned, not stored, with a warning.

        Raises:
            ItemError: a text is not a string.
            VectorsError: the vectors of ``encode_fn`` do not fit; none of them was written.
            MissingVectorsError: see ``miss``.
            CorruptCacheError: a row is damaged and cannot be replaced.
            IdentityMismatchError: ``encode_fn`` did not make the cached vectors: see ``confirm``.
            UnconfirmedError: see ``on_unconfirmed``.
            Exception: the exception of ``encode_fn``, unchanged; its earlier vectors are kept.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> def embed(texts):
            ...     print(len(texts), "texts")
            ...     return np.array([[len(text)] for text in texts], np.float32)
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, model="toy@1") as cache:
            ...     cache.encode(["a", "b", "c"], embed, batch_size=2).shape
            2 texts
            1 texts
            (3, 1)
        """
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size)
        refuse_quantised(encode_fn)
        return self._encode(
            texts, encode_fn, lambda some: encoded(encode_fn, some, batch_size), self._settings
        )

    async def aencode(
        self,
        texts: object,
        async_fn: Callable[[list[str]], Awaitable[Any]],
        *,
        batch_size: int = 128,
        concurrency: int = 5,
        on_error: OnError = "raise",
    ) -> Any:
        """Return the vectors of texts; a coroutine function makes those that are not cached.

        Several batches are awaited at a time. Each is committed when it returns, so cancellation and failures
        keep the others. If several tasks miss the same text, it is requested once. Disk and hashing never
        block the event loop: a thread does this work.

        Args:
            texts: n texts, in any form of :func:`dejavec.keys.items.text_keys`.
            async_fn: returns the vectors of k different texts, as ``encode_fn`` of :meth:`encode` does. It
                runs in the event loop of the caller, and retries if that is wanted.
            batch_size: the most texts that ``async_fn`` gets at a time.
            concurrency: how many calls of ``async_fn`` are awaited at a time.
            on_error: ``"raise"`` starts no more batches after one failed, and raises its exception when the
                others have returned. ``"skip"`` goes on: the vectors of a failed batch are NaN, not stored,
                and a warning names them. The exception is raised if the vectors are not dense floats, or
                no batch succeeded.

        Returns:
            The n vectors in the order of the texts: see :meth:`encode`.

        Raises:
            asyncio.CancelledError: the task was cancelled; the batches that returned before are stored.
            Exception: the exception of ``async_fn``, or one that :meth:`encode` raises.

        Example:
            >>> import asyncio, tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> async def embed(texts):
            ...     await asyncio.sleep(0)
            ...     return np.array([[len(text)] for text in texts], np.float32)
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, model="toy@1") as cache:
            ...     asyncio.run(cache.aencode(["a", "bcd"], embed, batch_size=1)).ravel()
            array([1., 3.], dtype=float32)
        """
        batch_size = whole_number("batch_size", batch_size)
        concurrency = whole_number("concurrency", concurrency)
        check_choice("on_error", on_error, OnError)
        # Each batch is committed as it comes, so chunks need not be small.
        settings = replace(self._settings, chunk_seconds=None)

        def work(loop: Loop) -> Any:
            def encode(some: list[str]) -> Blocks:
                return awaited(
                    async_fn,
                    some,
                    loop,
                    batch_size=batch_size,
                    concurrency=concurrency,
                    on_error=on_error,
                )

            return self._encode(texts, async_fn, encode, settings)

        return await call_in_thread(work)

    def _encode(
        self,
        texts: object,
        encode_fn: Callable[[list[str]], Any],
        encoded: Callable[[list[str]], Any],
        settings: FillSettings,
    ) -> Any:
        """Return the vectors of texts: those that are cached, and the others as ``encoded`` returns them."""
        texts = frozen(texts)
        keys = text_keys(texts)
        if not settings.refresh:
            # Before the function is asked whether the vectors are its own.
            self._store.take(keys)

        def encode(positions: Positions) -> Any:
            return encoded(take(texts, positions))

        serving = self._serving(encode_fn, keys, lambda positions: take(texts, positions), encode)
        with serving as (store, watched):
            filled = fill(
                store,
                keys,
                watched,
                settings,
                name=lambda position: f"item {position} ({take(texts, np.array([position]))[0][:40]!r})",
                maker="encode_fn",
                warn_unwritten=self._store.warn_once,
                texts=(lambda positions: take(texts, positions)) if self._keeps_texts else None,
            )
        return from_rows(filled.vectors, self._shown(filled.output))

    def map_fn(
        self,
        encode_fn: Callable[[list[str]], Any],
        *,
        column: str = "text",
        to: str = "embedding",
        batch_size: int | None = None,
    ) -> MapFunction:
        """Return a function for ``map`` of a data set, which adds a column of vectors.

        It takes a row, or a batch with ``batched=True``, which is much faster. It pickles as path, settings
        and ``encode_fn``, so ``map`` may run many processes, and ``datasets`` recognises it in the next run.

        Args:
            encode_fn: as in :meth:`encode`.
            column: the column of texts.
            to: the column of vectors.
            batch_size: as in :meth:`encode`.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> def embed(texts):
            ...     return np.array([[len(text)] for text in texts], np.float32)
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, model="toy@1") as cache:
            ...     cache.map_fn(embed)({"text": ["once", "again"]})
            {'embedding': array([[4.],
                   [5.]], dtype=float32)}
        """
        return MapFunction(self, encode_fn, column, to, batch_size)

    def get(self, texts: object, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Any]:
        """Return the stored vectors of texts, without a model. New rows of other processes count.

        Args:
            texts: n texts.
            out: an array for the vectors: C-contiguous, (n, dim), of the stored dtype.

        Returns:
            Which texts are stored (n,), and the n vectors; those of the other texts are zeros, or without
            tokens. The vectors are ``out``, or of the kind that was stored first. A row with a checksum
            mismatch counts as not stored.

        Raises:
            ItemError: a text is not a string.
            VectorsError: ``out`` does not fit.
            CacheNotFoundError: the directory is gone, and ``mode="r"``. A call for one text does not notice.
            CorruptCacheError: committed rows are missing in the files.
        """
        return self._vectors_of(text_keys(texts), out)

    async def aget(self, texts: object) -> tuple[NDArray[np.bool_], Any]:
        """Do the same as :meth:`get`, in a thread."""
        return await call_in_thread(lambda _: self.get(texts))

    def put(self, texts: object, vectors: object) -> int:
        """Store the vectors of texts. A stored vector that differs is replaced.

        Args:
            texts: n texts. If texts are equal, the last one counts.
            vectors: (n, dim): an array or tensor, lists, or a column of pandas, polars or Arrow; or
                multi-vector items or sparse vectors, as ``encode_fn`` returns them.

        Returns:
            How many rows were appended. Vectors that are already stored are not appended.

        Raises:
            ItemError: a text is not a string.
            VectorsError: the vectors do not fit; nothing was written.
            NonFiniteVectorsError: see ``on_nonfinite``.
            StorageError: the vectors could not be written.
        """
        settings = self._settings
        if self._keeps_texts:
            texts = frozen(texts)
        keys = text_keys(texts)
        return self._store.put(
            keys,
            vectors,
            dtype=settings.dtype,
            store_dtype=settings.store_dtype,
            on_nonfinite=settings.on_nonfinite,
            texts=take(texts, np.arange(len(keys))) if self._keeps_texts else None,
        )

    async def aput(self, texts: object, vectors: object) -> int:
        """Do the same as :meth:`put`, in a thread."""
        return await call_in_thread(lambda _: self.put(texts, vectors))

    def delete(self, texts: object) -> int:
        """Delete the vectors of texts, and the texts that are kept beside them.

        They are missing from then on, for every process, and after a power loss too: the deletion is synced
        before the call returns, whatever ``durability`` says. The bytes of the vectors and of kept texts stay
        in the files until :meth:`compact`. A deleted text that is encoded again gets a new row.

        Args:
            texts: n texts. Those that are not cached are ignored.

        Returns:
            How many different texts were stored.

        Raises:
            ItemError: a text is not a string.
            ReadOnlyCacheError: ``mode="r"``.
            StorageError: the deletion could not be written. Some of the texts may be deleted.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     cache.delete(["north", "south"]), "north" in cache, len(cache)
            (1, False, 1)
        """
        return self._store.delete(text_keys(texts))

    def compact(self) -> int:
        """Remove the bytes of deleted and replaced vectors, and of their texts, from every file.

        The vectors that count are copied into new files, in the same order, and the old files are removed. A
        crash leaves the old files or the new ones, whole. Other processes go on: readers keep the rows that
        they have, and find the new files at their next call; writers wait. Row numbers change. Saved search
        indexes are removed. The files have other names afterwards: ``vectors.1.npy`` after the first
        compaction, as ``"generation": 1`` in ``meta.json`` says. Dejavec 0.1.0 cannot open the cache then.

        If there is nothing to remove, nothing is written. Otherwise there must be room on the disk for the
        new files beside the old ones.

        Returns:
            By how many bytes all files became smaller.

        Raises:
            ReadOnlyCacheError: ``mode="r"``.
            CorruptCacheError: a row that counts is damaged. :meth:`repair` makes it a miss.
            LockTimeoutError: another process was writing for longer than ``lock_timeout``.
            StorageError: the files could not be written, or old ones not removed. Compact again.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     _ = cache.delete(["north"])
            ...     cache.compact() > 0, cache.vectors
            (True, array([[1., 0.]], dtype=float32))
        """
        return self._store.compact()

    def prune(
        self,
        *,
        max_bytes: int | None = None,
        drop_older_than: int | None = None,
        keep: object = (),
    ) -> int:
        """Drop the oldest vectors, and compact.

        The age of a vector is how many vectors that count were stored after it. A vector that was replaced is
        as new as its replacement. Reading a vector does not make it newer.

        Args:
            max_bytes: how large all files of the cache may be afterwards.
            drop_older_than: how many of the newest vectors stay.
            keep: texts whose vectors are never dropped, even if the cache is then larger than ``max_bytes``.

        Returns:
            How many texts were dropped.

        Raises:
            ItemError: a text to keep is not a string.
            ValueError: no limit is given, or a negative one.
            CorruptCacheError, LockTimeoutError, ReadOnlyCacheError, StorageError: see :meth:`compact`.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["a", "b", "c", "d"], np.eye(4, dtype=np.float32))
            ...     dropped = cache.prune(drop_older_than=2, keep=["a"])
            ...     dropped, [text in cache for text in "abcd"]
            (1, [True, False, True, True])
        """
        limits = {"max_bytes": max_bytes, "drop_older_than": drop_older_than}
        given = {name: value for name, value in limits.items() if value is not None}
        if not given:
            raise ValueError("expected max_bytes or drop_older_than, found neither; compact() drops nothing")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"expected {name} to be a whole number of at least 0, found {value!r}")
        return self._store.prune(max_bytes=max_bytes, max_rows=drop_older_than, keep=text_keys(keep))

    def texts(self, rows: ArrayLike | None = None) -> Any:
        """Return the texts that are kept beside rows, with ``keep_texts=True`` or by :meth:`put_texts`.

        Each text is compared with its key, so a damaged one is None. The empty text needs no file: a row with
        its key always has it.

        Args:
            rows: row numbers of :attr:`vectors` (n,), as :meth:`search` returns them; None: all rows.

        Returns:
            A ``pyarrow.LargeStringArray`` (n,) if pyarrow is installed, otherwise a list of ``str``. Null or
            None stands for a row without a text, or no row. Arrow cannot hold lone surrogates, so such a text
            is null there.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path, keep_texts=True) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     cache.texts([1]).to_pylist(), cache.texts().to_pylist()
            (['north'], ['east', 'north'])
        """
        numbers = None if rows is None else np.ascontiguousarray(rows, np.int64)
        return column_of(*self._store.texts(numbers))

    def put_texts(self, texts: object) -> int:
        """Keep texts whose vectors are stored, and whose rows have no text yet.

        They are durable when the call returns. It does not depend on ``keep_texts``.

        Args:
            texts: n texts. Those that are not cached are ignored.

        Returns:
            How many texts were added.

        Raises:
            ItemError: a text is not a string.
            ReadOnlyCacheError: ``mode="r"``.
            StorageError: the texts could not be written.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     cache.put_texts(["north", "south"]), cache.texts().to_pylist()
            (1, [None, 'north'])
        """
        texts = frozen(texts)
        keys = text_keys(texts)
        return self._store.put_texts(keys, take(texts, np.arange(len(keys))))

    def merge(
        self,
        *others: EmbeddingCache,
        on_conflict: OnConflict = "first",
        progress: bool | None = False,
    ) -> MergeOutcome:
        """Append the vectors of other caches of the same identity.

        The rows are read and appended in pieces, through the checks of every read and append. The other
        caches do not change. Texts come along if this cache keeps texts: with ``keep_texts=True``, or since
        it has some. Damaged rows of the others are left out.

        Args:
            others: the other caches, of the same kind of vectors, dimension and dtype.
            on_conflict: which vector counts if two caches have different ones for a text: ``"first"`` keeps
                the one that is stored here, ``"last"`` takes the one of the last cache.
            progress: whether to show a progress bar; None: on a terminal.

        Returns:
            How many vectors were added, equal, replaced and damaged; and the conflicts, with their texts
            where the other cache keeps them.

        Raises:
            IdentityMismatchError: another cache has another identity; nothing was written.
            VectorsError: another cache has vectors of another form; nothing was written.
            ReadOnlyCacheError: ``mode="r"``.
            StorageError: the vectors could not be written.

        Example:
            >>> import tempfile, numpy as np
            >>> from pathlib import Path
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path:
            ...     ours, theirs = (EmbeddingCache(Path(path) / name, model="toy@1") for name in "ab")
            ...     _ = ours.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     _ = theirs.put(["north", "west"], -np.eye(2, dtype=np.float32))
            ...     outcome = ours.merge(theirs)
            ...     outcome.added, len(outcome.conflicts), ours.get(["north"])[1]
            (1, 1, array([[0., 1.]], dtype=float32))
        """
        with show_progress(progress, sum(map(len, others)), "row") as advance:
            return merge(
                self._store,
                [other._store for other in others],
                on_conflict=on_conflict,
                keep_texts=self._keeps_texts or self._store.has_texts(),
                advance=advance,
            )

    def copy_to(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: CopyDtype | None = None,
        container: Container | None = None,
        texts: bool = True,
        progress: bool | None = False,
    ) -> int:
        """Copy the newest vector of each text into a new cache, which is there completely or not at all.

        Nothing is lost unless it is named: ``dtype`` rounds, and ``texts=False`` leaves texts behind. The
        copy has the identity of this cache. Replaced rows and caches below the directory are not copied.

        Args:
            path: the directory of the copy, which must not exist or be empty.
            dtype: ``"float16"`` stores half of the bytes, and adds ``store_dtype="float16"`` to the identity:
                open the copy with it. ``"float32"`` makes float32 of all vectors, as the constructor's
                ``dtype`` does. None: no rounding.
            container: the container of the copy, for the same kind of vectors; None: that of this cache.
            texts: whether the texts that are kept come along.
            progress: whether to show a progress bar; None: on a terminal.

        Returns:
            How many vectors the copy has.

        Raises:
            ForeignDirectoryError: there are files in the directory.
            VectorsError: the container or the dtype does not hold these vectors; or there are none.
            CorruptCacheError: a row is damaged; nothing is left of the copy.
            StorageError: the copy could not be written.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path:
            ...     with EmbeddingCache(f"{path}/whole", model="toy@1") as cache:
            ...         _ = cache.put(["a"], np.array([[0.1]], np.float32))
            ...         cache.copy_to(f"{path}/half", dtype="float16")
            ...     with EmbeddingCache(f"{path}/half", model="toy@1", store_dtype="float16") as half:
            ...         half.get(["a"])[1], half.dtype
            1
            (array([[0.09997559]], dtype=float32), dtype('float16'))
        """
        with show_progress(progress, len(self), "row") as advance:
            return copy_to(
                self._store,
                local_directory(path),
                dtype=dtype,
                container=container,
                texts=texts,
                advance=advance,
            )

    def push(self, url: str, *, texts: bool = False, progress: bool | None = None) -> Pushed:
        """Share the vectors of this cache in an object store, for others to :meth:`pull`.

        What the store has already is not written again. An interrupted push leaves whole segments, and the
        next one goes on. Many processes may push to one address at a time. Vectors that were deleted here
        since the last push or pull are deleted there, too.

        Vectors can be inverted to text, and keys be probed: whoever can read the store can do both.
        Credentials come from the environment of each service; an address with some is refused.

        Args:
            url: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://account/container/prefix``,
                ``hf://buckets/namespace/bucket/prefix``, or ``file:///directory``.
            texts: whether the texts that are kept beside these vectors are shared, too.
            progress: whether to show a progress bar; None: on a terminal.

        Returns:
            How many rows were written, and what was skipped.

        Raises:
            VectorsError: there are no vectors, or no model is named.
            StorageError: the store could not be read or written.
            MissingPackageError: obstore is not installed.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path:
            ...     with EmbeddingCache(f"{path}/mine", model="toy@1") as mine:
            ...         _ = mine.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...         mine.push(f"file://{path}/team").rows
            ...     with EmbeddingCache(f"{path}/yours", model="toy@1") as yours:
            ...         yours.pull(f"file://{path}/team").rows, "north" in yours
            2
            (2, True)
        """
        from dejavec.remote.push import push

        check_flag("texts", texts)
        with ExitStack() as stack:

            def total(rows: int) -> Callable[[int], object]:
                return stack.enter_context(show_progress(progress, rows, "row"))

            return push(self._store, url, texts=texts, total=total)

    def pull(
        self,
        url: str,
        *,
        vectors: Vectors = "all",
        texts: bool = False,
        progress: bool | None = None,
    ) -> PullOutcome:
        """Take the vectors that others have shared for this identity: see :meth:`push`.

        Vectors that are here already stay. Damaged, foreign and half-uploaded objects are skipped and named.
        Vectors that others deleted are deleted here, too.

        Args:
            url: the address: see :meth:`push`.
            vectors: ``"on-demand"`` takes the keys alone, which say what the store has.
            texts: whether shared texts are kept beside the vectors.
            progress: whether to show a progress bar; None: on a terminal.

        Returns:
            How many rows were appended, and what was skipped.

        Raises:
            CacheNotFoundError: nothing is shared for this identity.
            IdentityMismatchError: this cache is empty, and vectors of several forms are shared.
            StorageError: the store could not be read, or the cache not be written.
            MissingPackageError: obstore is not installed.
        """
        from dejavec.remote.pull import pull

        check_flag("texts", texts)
        with ExitStack() as stack:

            def total(rows: int) -> Callable[[int], object]:
                return stack.enter_context(show_progress(progress, rows, "row"))

            return pull(url, self._store, vectors=vectors, texts=texts, total=total)

    def plan(self, texts: object) -> Plan:
        """Return what ``encode`` would find: hits, misses, duplicates, and the bytes that it would add.

        Vectors in a store behind the cache are hits. They are not taken from there.
        """
        keys = text_keys(texts)
        return plan(self._store, keys, self._settings, self._store.elsewhere(keys))

    def search(
        self,
        queries: object,
        k: int,
        *,
        metric: Metric | None = None,
        among: object = None,
        texts: object = None,
    ) -> SearchResult:
        """Find the nearest stored vectors of each query, by comparison with all stored vectors.

        The newest vector of each text counts, as this object knows it (see :meth:`refresh`). The vectors are
        read from the mapped file, in blocks that are compared as float32. Their checksums are not verified.

        Multi-vector rows are compared by MaxSim: the sum over the query's tokens of the largest product with
        a token of the row. Rows without tokens or numbers are not found.

        Args:
            queries: (n, dim), in any form that :meth:`put` takes; multi-vector items or sparse vectors for
                such a cache.
            k: how many vectors to find for each query.
            metric: ``"cosine"``, inner product (``"ip"``), squared Euclidean distance (``"l2"``), or number
                of different bits (``"hamming"``) of packed bits, uint8 or int8. None: the metric of the file,
                ``"l2"`` for ``vectors.npy``. Multi-vector and sparse rows have ``"ip"``, which is their
                default, and ``"cosine"``.
            among: the texts to search, or row numbers, or a flag for each row; None: all. Texts that are not
                stored are ignored.
            texts: a corpus, to get its texts and positions; True, to get the texts that the cache keeps
                (:meth:`texts`). A row is identified by its key, so the corpus may have any order, and texts
                that are not stored.

        Returns:
            Distances, row numbers, texts and positions, the nearest first.

        Raises:
            VectorsError: the queries, the metric or row numbers do not fit; or no texts are kept.
            ItemError: a text is not a string.
            MissingPackageError: faiss is not installed; or SciPy, for sparse rows.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     corpus = ["north", "east", "west"]
            ...     found = cache.search([[0.9, 0.1]], 1, metric="ip", texts=corpus)
            ...     found.texts, found.positions, found.distances
            ([['east']], array([[1]]), array([[0.9]], dtype=float32))
        """
        return search(self._store, queries, k, metric=metric, among=among, texts=texts)

    def build_index(
        self,
        factory: str,
        *,
        metric: Metric | None = None,
        train_rows: int | None = None,
        progress: bool | None = None,
    ) -> BuiltIndex:
        """Build an index for approximate search, or load a saved one that was built from the same rows.

        The index is trained on random rows and filled in blocks. So memory holds the training rows, one block
        and the index. With product-quantised lists (``IVF4096,PQ48``), FAISS's table of precomputed distances
        is dropped: it may be larger than the index, and saves a search little time. The index is saved in the
        cache's directory. If rows were only added since then, it is extended. If rows were replaced, it is
        built again. Damaged rows are left out.

        Args:
            factory: any string that ``faiss.index_factory`` takes, such as ``"IVF4096,PQ48"``; for
                ``metric="hamming"`` one that ``faiss.index_binary_factory`` takes, such as ``"BIVF1024"``.
            metric: as in :meth:`search`. For ``"cosine"`` the vectors of the index have length one.
            train_rows: how many rows to train on at most. None: 30 for each list of an inverted file, at
                least 65,536. The codes of an inverted file are trained on at most 32,768 of these rows.
            progress: whether to show a progress bar; None: on a terminal.

        Returns:
            An object whose ``search(queries, k, among=…, texts=…)`` returns what :meth:`search` does, with
            the index of FAISS as ``index``. ``faiss.extract_index_ivf(built.index).nprobe`` sets how many
            lists a search visits.

        Raises:
            VectorsError: there are no vectors, or none that are dense.
            MissingPackageError: faiss is not installed.
            ValueError: FAISS does not know the factory string.
            RuntimeError: FAISS needs more rows to train on, or cannot fill such an index.
        """
        return build_index(self._store, factory, metric, train_rows, progress)

    def as_dataset(self, texts: object) -> VectorDataset:
        """Return a data set of the vectors of texts, for a ``DataLoader`` of PyTorch with workers.

        Nothing is loaded: each batch is read from the mapped files. The data set pickles as path, settings
        and keys. Its items have the array kind of :meth:`get`; a list of multi-vector items needs a
        ``collate_fn``.

        Args:
            texts: n texts, all of them cached.

        Returns:
            A map-style data set of n vectors.

        Raises:
            ItemError: a text is not a string.
            MissingVectorsError: a text is not cached.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     dataset = cache.as_dataset(["north", "east", "north"])
            ...     len(dataset), dataset[0]
            (3, array([0., 1.], dtype=float32))
        """
        keys = text_keys(texts)
        return VectorDataset(self._vectors_of, keys, self._store.lookup(keys) >= 0)

    def to_arrow(self, texts: object = None) -> Any:
        """Return texts and vectors as a table of Arrow.

        The column ``vector`` has lists of a fixed size over the memory of the vectors, null for a text that
        is not cached. If the rows of the texts are contiguous, as those of a list in the order of storage
        are, that memory is the mapped file, and nothing is copied. Otherwise the vectors are copied once.
        Multi-vector items are lists of such lists. Sparse vectors are two columns, ``indices`` and
        ``values``.

        Args:
            texts: n texts. None: the newest row of each text in the cache, with the texts that are kept.

        Returns:
            A ``pyarrow.Table`` with the column ``text`` and the vectors, in the order of the texts.

        Raises:
            ItemError: a text is not a string, or not Unicode.
            MissingPackageError: pyarrow is not installed.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     cache.to_arrow(["north", "west"]).to_pylist()
            [{'text': 'north', 'vector': [0.0, 1.0]}, {'text': 'west', 'vector': None}]
        """
        return to_arrow(self._store, texts)

    def to_pandas(self, texts: object = None) -> Any:
        """Return texts and vectors as a ``pandas.DataFrame``: the table of :meth:`to_arrow`.

        A vector is an array (dim,), a view of the table's memory; None for a text that is not cached.

        Args:
            texts: as in :meth:`to_arrow`.

        Raises:
            ItemError: a text is not a string, or not Unicode.
            MissingPackageError: pyarrow or pandas is not installed.
        """
        return to_pandas(self._store, texts)

    def refresh(self) -> int:
        """Read the commits of other processes; return the number of rows.

        ``encode``, ``get``, ``in`` and ``len`` do this by themselves. ``vectors``, ``keys``, ``search`` and
        ``stats`` use the rows that this object knows.

        Raises:
            CacheNotFoundError: the directory is gone, and ``mode="r"``.
            StorageError: the files cannot be read.
            CorruptCacheError: committed rows are missing in the files.
        """
        return self._store.refresh()

    def sync(self) -> None:
        """Make all stored rows durable, so that they survive a power loss.

        Raises:
            StorageError: a sync failed; or the directory was replaced, and unsynced rows were lost with the
                old files.
        """
        self._store.sync()

    def close(self) -> None:
        """Sync, and close all files. Later calls raise ``ClosedCacheError``. Closing twice is allowed.

        Raises:
            StorageError: see :meth:`sync`.
        """
        self._store.close()

    def stats(self) -> dict[str, int]:
        """Return counts and sizes.

        Returns:
            ``rows``: committed rows, including replaced ones. ``keys``: different keys. ``synced``: rows
            known to be durable. ``epoch``: the number of the last commit. ``row_bytes``: bytes of a row, or
            the mean. ``elements``: tokens or numbers of all rows, where they have any number.
            ``bytes_on_disk``: bytes of all files. ``snapshot_rows`` and ``delta_rows``: rows in the index
            file and in the index in memory. ``texts``: rows whose text is in the file. ``reclaimable_rows``
            and ``reclaimable_bytes``: what :meth:`compact` would free of rows, keys and texts.
            ``generation``: how often the cache was compacted.
        """
        return self._store.stats()

    def verify(self) -> dict[str, Any]:
        """Check every row and file.

        Returns:
            The numbers of committed ``rows``, of different ``keys``, of ``dead`` rows (their records were
            zeroed) and of ``replaced`` rows; the ``damaged`` row numbers (a list); the ``problems`` (a
            list with one sentence for each damaged file); the number of rows with ``texts``; and
            ``damaged_texts``, the numbers of rows with a sound vector and a damaged text (a list).

        Raises:
            StorageError: the files cannot be read.
        """
        return self._store.verify()

    @staticmethod
    def repair(
        path: str | os.PathLike[str],
        *,
        force: bool = False,
        lock_timeout: float = 60.0,
        allow_network: bool = False,
    ) -> dict[str, Any]:
        """Repair a damaged cache, even if it cannot be opened.

        Damaged rows become misses. A damaged commit record, header or index is rebuilt.

        Args:
            path: the directory.
            force: whether to repair a cache with more damaged than sound rows.
            lock_timeout: seconds to wait for another process that is writing.
            allow_network: whether to write on a network file system.

        Returns:
            The result of :meth:`verify` before the repair.

        Raises:
            CacheNotFoundError: there is no cache.
            CorruptCacheError: more rows are damaged than sound and ``force`` is false, or ``meta.json`` is
                damaged.
            LockTimeoutError: another process was writing for longer than ``lock_timeout``.
            NetworkFileSystemError: the directory is on a network file system, and that is not allowed.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> directory = tempfile.TemporaryDirectory()
            >>> with EmbeddingCache(directory.name) as cache:
            ...     _ = cache.put(["a", "b"], np.eye(2, dtype=np.float32))
            >>> EmbeddingCache.repair(directory.name)["damaged"]
            []
            >>> directory.cleanup()
        """
        return _core.repair(
            str(local_directory(path)), lock_timeout=lock_timeout, force=force, allow_network=allow_network
        )

    def _vectors_of(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Any]:
        """Do what :meth:`get` does, for keys."""
        found, vectors = self._store.get(keys, out)
        output = self._store.output
        if out is not None or output is None:
            return found, vectors
        return found, from_rows(vectors, self._shown(output))

    def _shown(self, output: Output) -> Output:
        """Return the array kind of results: the one from ``output=``, or the stored one."""
        return output if self._kind is None else output.shown_as(self._kind)

    def _serving(
        self,
        function: Callable[[list[str]], Any],
        keys: Keys,
        texts: Callable[[Positions], list[str]],
        encode: Callable[[Positions], Any],
    ) -> AbstractContextManager[tuple[VectorStore, Callable[[Positions], Any]]]:
        """Return a context with the store and ``encode``. It checks the function on entry."""
        if not self._confirming.items or self._settings.refresh or not callable(function):
            return nullcontext((self._store, encode))
        if self._check is None:
            self._check = FunctionCheck(self._store, self._confirming, self._settings.chunk_rows)
        return self._check.serving(function, keys, texts, encode)
