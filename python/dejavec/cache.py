"""The embedding cache: one directory of vectors, and what to do when one is missing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.built_index import build_index
from dejavec.closing import Closing
from dejavec.errors import DejavecWarning, NonFiniteVectorsError
from dejavec.fill import Plan, fill, plan
from dejavec.handle import Durability, Handle, Mode, OnMismatch
from dejavec.identity import describe
from dejavec.keys import Keys, first_of_each, frozen, take, text_keys
from dejavec.search import Metric, search
from dejavec.values import (
    Container,
    Output,
    Rows,
    check_kind,
    from_rows,
    nonfinite,
    refusal,
    stored_dtype,
    to_rows,
)

Miss = Literal["encode", "raise"]
OnProblem = Literal["warn", "raise"]

_MAPPED_BYTES = 1 << 20
_STATS = ("rows", "keys", "synced", "epoch", "row_bytes", "bytes_on_disk", "snapshot_rows", "delta_rows")


class EmbeddingCache(Closing):
    """A directory of vectors, each under the digest of the text it was made from.

    The directory is created when the first vectors arrive; their dimension and dtype become the cache's. Many
    processes and threads may use one directory at a time.

    Args:
        path: the directory.
        model: which model makes the vectors, as ``"name@revision"``.
        identity: more of what changes a vector (prompt, settings), as a JSON object.
        container: the file of the rows: ``"npy"`` is ``vectors.npy``; ``"faiss-l2"`` and ``"faiss-ip"`` are
            ``vectors.faiss``, an index that FAISS reads, of float32 and what float32 holds exactly. None is
            what the directory has, ``"npy"`` if it has none.
        mode: ``"a"`` reads and appends; ``"r"`` only reads, and takes any model's cache if none is named.
        miss: what ``encode`` does with texts that are not held: have them encoded, or raise before any is.
        refresh: whether ``encode`` encodes every text again and replaces the held vectors.
        verify: whether each row's checksum is verified when it is read.
        durability: ``"commit"`` syncs to disk after each chunk, ``"close"`` only in ``sync`` and ``close``.
        chunk_rows: how many texts are encoded and committed at a time.
        on_write_error: whether ``encode`` completes with a warning if vectors cannot be written, or raises.
        on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
        on_mismatch: whether a directory of another model's vectors raises, or the cache goes to a directory
            beside it, named after the identity.
        lock_timeout: seconds to wait for another process that is writing.
        shared: whether a new directory and its files are for its group to read and write, not for the owner
            alone. A directory of mode 2770 that is there before is shared in any case.
        allow_network: whether to write on a network file system (NFS, SMB, Lustre …), whose locks may not
            keep writers on two machines apart. Reading is always allowed.
        progress: whether ``encode`` shows a bar of the texts to encode; None: on a terminal.

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
        container: Container | None = None,
        mode: Mode = "a",
        miss: Miss = "encode",
        refresh: bool = False,
        verify: bool = True,
        durability: Durability = "commit",
        chunk_rows: int = 10_000,
        on_write_error: OnProblem = "warn",
        on_nonfinite: OnProblem = "warn",
        on_mismatch: OnMismatch = "raise",
        lock_timeout: float = 60.0,
        shared: bool = False,
        allow_network: bool = False,
        progress: bool | None = False,
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, Mode),
            ("miss", miss, Miss),
            ("durability", durability, Durability),
            ("on_write_error", on_write_error, OnProblem),
            ("on_nonfinite", on_nonfinite, OnProblem),
            ("on_mismatch", on_mismatch, OnMismatch),
            ("container", container or "npy", Container),
        ):
            if value not in get_args(allowed):
                raise ValueError(f"expected {name} to be one of {get_args(allowed)}, found {value!r}")
        if chunk_rows < 1:
            raise ValueError(f"expected chunk_rows of at least 1, found {chunk_rows}")
        self.mode: Mode = mode
        self.miss: Miss = miss
        self.renew = refresh
        self.chunk_rows = chunk_rows
        self.on_write_error: OnProblem = on_write_error
        self.on_nonfinite: OnProblem = on_nonfinite
        self.progress = progress
        self._verify = verify
        self._warned = False
        self._read_one: tuple[_core.Store, int, np.dtype[Any], Output | None] | None = None
        anyones = mode == "r" and model is None and identity is None
        expected = None if anyones else describe(model, identity)
        self._handle = Handle(
            Path(path),
            identity=expected,
            container=container,
            mode=mode,
            durability=durability,
            on_mismatch=on_mismatch,
            lock_timeout=lock_timeout,
            shared=shared,
            allow_network=allow_network,
        )

    def encode(self, texts: object, encode_fn: Callable[[list[str]], Any]) -> Any:
        """Return the vectors of texts; ``encode_fn`` makes those that are not held.

        Args:
            texts: n texts, in any form that :func:`dejavec.keys.text_keys` takes.
            encode_fn: returns the vectors (k, dim) of k different texts, at most ``chunk_rows`` at a time.

        Returns:
            The vectors (n, dim) in the order of the texts, of the dtype that ``encode_fn`` returns, and of
            the kind stored first: a NumPy array or a torch tensor.

        Raises:
            ItemError: a text is none.
            VectorsError: what ``encode_fn`` returned does not fit; nothing of it was written.
            MissingVectorsError: see ``miss``.
            CorruptCacheError: a row is damaged and cannot be replaced.
        """
        texts = frozen(texts)
        filled = fill(
            self,
            text_keys(texts),
            lambda positions: encode_fn(take(texts, positions)),
            name=lambda position: f"item {position} ({take(texts, np.array([position]))[0][:40]!r})",
        )
        return from_rows(filled.vectors, filled.output)

    def get(self, texts: object, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Any]:
        """Return the held vectors of texts, without a model.

        Args:
            texts: n texts.
            out: where to put the vectors instead: C-contiguous, (n, dim), of the stored dtype.

        Returns:
            Which texts are held (n,), and the vectors (n, dim), zeros for the others: ``out`` or, if that is
            None, an array of the kind that was stored. A row whose checksum does not hold counts as not held.

        Raises:
            ItemError: a text is none.
            VectorsError: ``out`` does not fit.
        """
        found, vectors = self.read(text_keys(texts), out)
        output = self.output
        return found, vectors if out is not None or output is None else from_rows(vectors, output)

    def put(self, texts: object, vectors: object) -> int:
        """Store the vectors of texts; where another vector is held, replace it.

        Args:
            texts: n texts; of equal ones the last counts.
            vectors: (n, dim).

        Returns:
            How many rows were appended: vectors that are held already are not.

        Raises:
            ItemError: a text is none.
            VectorsError: the vectors do not fit; nothing was written.
            NonFiniteVectorsError: see ``on_nonfinite``.
            StorageError: they could not be written.
        """
        return self.write(text_keys(texts), vectors)

    def __contains__(self, text: object) -> bool:
        return bool(self.read(text_keys([text]))[0][0])

    def __len__(self) -> int:
        store = self._handle.store()
        return 0 if store is None else len(store)

    def plan(self, texts: object) -> Plan:
        """Tell what ``encode`` would find: hits, misses, duplicates, and the bytes that it would add."""
        return plan(self, text_keys(texts))

    @property
    def path(self) -> Path:
        """The directory: beside the one asked for if ``on_mismatch="sibling"`` applied."""
        return self._handle.path

    @property
    def dim(self) -> int | None:
        """Numbers in a vector; None before the first vector."""
        store = self._handle.store()
        return None if store is None else store.dim

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The stored dtype; None before the first vector."""
        store = self._handle.store()
        return None if store is None else np.dtype(store.dtype)

    @property
    def container(self) -> Container:
        """The file that holds the rows, or will."""
        return self._handle.container

    @property
    def output(self) -> Output | None:
        """The kind of array that the model returned; None before the first vector."""
        store = self._handle.store()
        return None if store is None else Output.from_json(store.output)

    @property
    def vectors(self) -> NDArray[Any]:
        """All committed rows (rows, dim), replaced ones too: read-only, not copied, of the stored dtype."""
        store = self._handle.store()
        if store is None:
            return np.empty((0, 0), np.float32)
        return np.frombuffer(memoryview(store.map_all()), np.dtype(store.dtype)).reshape(-1, store.dim)

    def search(
        self, queries: object, k: int, *, metric: Metric | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the nearest held vectors of each query, comparing it with all of them.

        The newest vector of each text counts, as this handle knows it (see :meth:`refresh`). The vectors are
        read where they lie, without a copy; their checksums are not verified.

        Args:
            queries: (n, dim), in any form that NumPy converts to float32.
            k: how many to find for each.
            metric: squared Euclidean distance (``"l2"``) or inner product (``"ip"``); None for that of the
                file, ``"l2"`` for ``vectors.npy``.

        Returns:
            Distances (n, k), the nearest first, and rows (n, k) of ``vectors``, -1 where there are fewer.

        Raises:
            VectorsError: the queries have another dimension, or the vectors are neither float32 nor float16.
            MissingPackageError: faiss is not installed.

        Example:
            >>> import tempfile, numpy as np
            >>> from dejavec import EmbeddingCache
            >>> with tempfile.TemporaryDirectory() as path, EmbeddingCache(path) as cache:
            ...     _ = cache.put(["east", "north"], np.eye(2, dtype=np.float32))
            ...     cache.search([[0.9, 0.1]], 1, metric="ip")
            (array([[0.9]], dtype=float32), array([[0]]))
        """
        return search(self, queries, k, metric)

    def build_index(
        self,
        factory: str,
        *,
        metric: Metric | None = None,
        train_rows: int | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Build an index for approximate search, or take the one that was built of the same rows.

        It is trained on rows drawn at random and filled a block at a time, so that memory holds those to
        train on, one block, and the index. Of product-quantised lists (``IVF4096,PQ48``) this has no table of
        distances computed beforehand, which may be larger than itself and saves a search little. The index
        is saved in the cache's directory, and extended if rows only came to it since; if rows were replaced,
        it is built anew. Damaged rows are left out.

        Args:
            factory: any string that ``faiss.index_factory`` takes, such as ``"IVF4096,PQ48"``.
            metric: as in :meth:`search`.
            train_rows: how many rows to train on at most; None for 32 a list of an inverted file, 65,536 at
                least.
            progress: whether to show a bar; None: on a terminal.

        Returns:
            A ``faiss.IndexIDMap`` whose ids are rows of ``vectors``: its ``search(queries, k)`` returns
            distances and rows. ``faiss.extract_index_ivf(index).nprobe`` sets how many lists that visits.

        Raises:
            VectorsError: there are no vectors.
            MissingPackageError: faiss is not installed.
            ValueError: FAISS does not know the factory string.
            RuntimeError: FAISS needs more rows to train on, or cannot fill such an index.
        """
        return build_index(self, factory, metric, train_rows, progress)

    def stats(self) -> dict[str, int]:
        """Return counts and sizes: see ``_core.Store.stats``."""
        store = self._handle.store()
        return dict.fromkeys(_STATS, 0) if store is None else store.stats()

    def verify(self) -> dict[str, Any]:
        """Check every row and file, and return the findings: see ``_core.verify``."""
        store = self._handle.store()
        if store is None:
            return {"rows": 0, "keys": 0, "dead": 0, "replaced": 0, "damaged": [], "problems": []}
        return _core.verify(str(self.path))

    def refresh(self) -> int:
        """Learn what other processes have stored; return the number of rows."""
        store = self._handle.refresh()
        return 0 if store is None else store.rows

    def sync(self) -> None:
        """Make all that is stored survive a power loss."""
        store = self._handle.store()
        if store is not None:
            store.sync()

    def close(self) -> None:
        """Sync and release everything; later calls raise ``ClosedCacheError``. Closing twice is fine."""
        self._handle.close()

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.path)!r}, mode={self.mode!r})"

    # What follows works on keys: for fill, the backends and the mteb wrapper.

    def keys(self) -> Keys:
        """Return each committed row's key (rows, 32), zeros for a dead row; of equal keys the last counts."""
        store = self._handle.store()
        return self.keys_of(np.arange(0 if store is None else store.rows))

    def keys_of(self, rows: NDArray[np.int64]) -> Keys:
        """Return the keys of rows (n, 32), zeros where a row is dead or there is none."""
        keys = np.zeros((len(rows), 32), np.uint8)
        store = self._handle.store()
        if store is not None:
            store.read_keys(rows, keys)
        return keys

    @property
    def uuid(self) -> str | None:
        """What tells the cache from any other, 32 hex digits; None before the first vector."""
        store = self._handle.store()
        return None if store is None else store.uuid

    def newest(self) -> tuple[int, int, bytes]:
        """Tell which rows are the newest of their key: see ``_core.Store.newest``."""
        store = self._handle.store()
        return (0, 0, b"") if store is None else store.newest()

    def read_rows(self, first: int, count: int) -> tuple[Rows, list[int]]:
        """Copy rows from ``first`` on, without mapping them.

        Returns:
            The vectors (count, dim), and the positions of those that are dead or damaged.
        """
        store = self._handle.store()
        if store is None:
            return np.empty((count, 0), np.float32), list(range(count))
        vectors = np.empty((count, store.dim), np.dtype(store.dtype))
        return vectors, store.read_rows(first, vectors, self._verify)

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Look up keys and collapse duplicates.

        Returns:
            Each key's row (n,), -1 for a miss; and the position of the first equal key for a miss, its own
            position for a hit (n,).
        """
        store = self._handle.store()
        if store is None:
            return np.full(len(keys), -1, np.int64), first_of_each(keys).astype(np.int64)
        rows, first = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
        store.partition(keys, rows, first)
        return rows, first

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row (n,), -1 for none."""
        rows = np.full(len(keys), -1, np.int64)
        store = self._handle.store()
        if store is not None:
            store.lookup(keys, rows)
        return rows

    def gather(
        self, keys: Keys, rows: NDArray[np.int64], out: NDArray[Any] | None = None
    ) -> tuple[Rows, list[int]]:
        """Read the rows that :meth:`lookup` gave for keys.

        Args:
            keys: (n, 32).
            rows: row numbers (n,); -1 reads as zeros.
            out: where to put the vectors: C-contiguous, (n, dim), of the stored dtype.

        Returns:
            The vectors (n, dim), ``out`` or the caller's own, not copied if they are many and lie in one run;
            and the positions whose row is not the key's or whose checksum does not hold.

        Raises:
            VectorsError: ``out`` does not fit.
        """
        store = self._handle.store()
        if out is not None:
            _check_out(out, len(rows), store)
        if store is None:
            if out is None:
                return np.zeros((len(rows), 0), np.float32), []
            out.fill(0)
            return out, []
        shape, dtype = (len(rows), store.dim), np.dtype(store.dtype)
        if out is not None:
            return out, store.gather(keys, rows, out, self._verify)
        many = len(rows) * store.dim * dtype.itemsize >= _MAPPED_BYTES
        if many and rows[0] >= 0 and (np.diff(rows) == 1).all():
            mapped = store.map_rows(keys, int(rows[0]), self._verify)
            if mapped is not None:
                return np.frombuffer(memoryview(mapped[0]), dtype).reshape(shape), mapped[1]
        vectors = np.empty(shape, dtype)
        return vectors, store.gather(keys, rows, vectors, self._verify)

    def append(self, keys: Keys, rows: Rows, output: Output, seen: NDArray[np.int64] | None = None) -> int:
        """Append rows for different keys, and commit them; create the cache if there is none.

        Args:
            keys: (n, 32).
            rows: (n, dim), as :func:`dejavec.values.to_rows` returns them.
            output: the kind of array that they came as.
            seen: each key's row as it was looked up (n,), None if no key had any; a key that has another by
                now is left out.

        Returns:
            How many were appended.

        Raises:
            VectorsError: dimension or dtype is not the cache's.
        """
        store, rows = self._writable(rows, output)
        return store.append(keys, rows, seen)

    def read(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Rows]:
        """Do what :meth:`get` does, for keys; the vectors are NumPy's, of the stored dtype."""
        rows = self.lookup(keys)
        vectors, damaged = self.gather(keys, rows, out)
        found = rows >= 0
        found[damaged] = False
        vectors[damaged] = 0
        return found, vectors

    def read_text(self, text: str) -> NDArray[Any] | None:
        """Return the vector (dim,) of one text as :attr:`output` has it, but NumPy's; None if it is not held.

        bfloat16, which NumPy lacks, is float32.
        """
        store = self._handle.store()
        if store is None:
            return None
        if self._read_one is None or self._read_one[0] is not store:
            # What a store holds does not change, and to ask it takes longer than to read a vector.
            output, dtype = Output.from_json(store.output), np.dtype(store.dtype)
            kept = output.dtype == dtype.name
            self._read_one = store, store.dim, dtype, None if kept else replace(output, library="numpy")
        _, dim, dtype, other = self._read_one
        vector = np.empty(dim, dtype)
        if not store.read_text(text, vector, self._verify):
            return None
        return vector if other is None else from_rows(vector, other)

    def write(self, keys: Keys, vectors: object) -> int:
        """Do what :meth:`put` does, for keys."""
        rows, output = to_rows(vectors, len(keys), f"the vectors of {len(keys)} items")
        bad = nonfinite(rows)
        if len(bad):
            message = (
                f"{self.path}: expected finite vectors, found NaN or infinity in those of {len(bad)} items"
            )
            message += f", the first at position {bad[0]}; they are not stored"
            if self.on_nonfinite == "raise":
                raise NonFiniteVectorsError(message, path=str(self.path))
            warnings.warn(message, DejavecWarning, stacklevel=3)
            keys, rows = np.delete(keys, bad, axis=0), np.delete(rows, bad, axis=0)
        self.refresh()  # The directory may be gone, or hold another cache by now.
        store, rows = self._writable(rows, output)
        return store.put(keys, rows) if len(rows) else 0

    def warn_once(self, message: str) -> None:
        """Warn, unless this cache did before."""
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self.path}: {message}", DejavecWarning, stacklevel=6)

    def _writable(self, rows: Rows, output: Output) -> tuple[_core.Store, Rows]:
        """Return the store, created if need be, and the rows in its dtype, having checked that they fit."""
        where = f"the vectors for {self.path}"
        dtype = stored_dtype(rows, output, self._handle.container, where)
        store = self._handle.create(rows.shape[1], dtype.str, output)
        check_kind(rows, output, store.dim, Output.from_json(store.output).dtype, where)
        return store, rows.astype(dtype, copy=False)


def _check_out(out: object, count: int, store: _core.Store | None) -> None:
    """Check that vectors can be put into what the caller gave for them.

    Raises:
        VectorsError: they cannot.
    """
    dtype = "" if store is None else f"{np.dtype(store.dtype)} "
    expected = f"C-contiguous {dtype}({count}, {'dim' if store is None else store.dim}), writable"
    remedy = "make such an array"
    if not isinstance(out, np.ndarray):
        raise refusal("out=", expected, type(out).__name__, remedy)
    if store is None:
        fits = out.ndim == 2 and len(out) == count and out.dtype.kind in "fiub"
    else:
        fits = out.shape == (count, store.dim) and out.dtype == np.dtype(store.dtype)
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        state = "" if out.flags.writeable else ", read-only"
        order = "" if out.flags.c_contiguous else ", not C-contiguous"
        raise refusal("out=", expected, f"{out.dtype} {out.shape}{order}{state}", remedy)
