"""One directory of vectors by key, for callers that have keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec._core import Numbering
from dejavec.errors import IdentityMismatchError, NonFiniteVectorsError, VectorsError
from dejavec.fill.in_flight import InFlight
from dejavec.fill.settings import OnProblem, check_choice, check_flag
from dejavec.fill.vector_store import Seen
from dejavec.identity.proven import Proofs
from dejavec.keys.items import Keys, first_of_each
from dejavec.storage import deletions
from dejavec.storage.handle import Durability, Handle, Mode, OnMismatch
from dejavec.storage.identity import BARE, model_text
from dejavec.support.closing import Closing
from dejavec.support.paths import local_directory
from dejavec.support.warn import warn
from dejavec.vectors.arrays import from_rows
from dejavec.vectors.fitting import check_out, fitting_rows
from dejavec.vectors.output import Container, Output, family_of
from dejavec.vectors.ragged import KEY_RECORD_BYTES, Ragged, Rows, dim_of, offsets_of
from dejavec.vectors.stored import check_kind, nonfinite, stored_dtype

T = TypeVar("T")

_MAPPED_BYTES = 1 << 20
_STATS = (
    *("rows", "keys", "synced", "epoch", "elements", "row_bytes"),
    *("bytes_on_disk", "snapshot_rows", "delta_rows", "texts"),
    *("reclaimable_rows", "reclaimable_bytes", "generation"),
)
_COUNTS, _LISTS = ("rows", "keys", "dead", "replaced", "texts"), ("damaged", "problems", "damaged_texts")
"""Entries of the findings of :meth:`KeyedCache.verify`."""


class KeyedCache(Closing):
    """A directory of vectors by key.

    Args:
        path: the directory. The first :meth:`append` or :meth:`put` creates it.
        identity: a JSON object that says which model and settings make the vectors. None: no model is named;
            with ``mode="r"``, any identity is accepted.
        containers: the containers that the cache may have; empty for any. The first vectors choose the first
            that holds them.
        mode: ``"a"`` reads and appends, ``"r"`` only reads.
        verify: whether to verify each row's checksum when it is read.
        durability: ``"commit"`` syncs each append, ``"close"`` only :meth:`sync` and :meth:`close`.
        on_mismatch: whether to raise if the directory has another identity, or use a sibling.
        lock_timeout: seconds to wait for another process that is writing.
        shared: whether a new directory and its files are group-shared.
        allow_network: whether to write on a network file system.

    Raises:
        IdentityMismatchError: the directory has another identity or container.
        ForeignDirectoryError: the directory holds something else.
        CacheNotFoundError: ``mode="r"``, and there is no cache.

    Example:
        >>> import tempfile
        >>> from dejavec.keys.items import text_keys
        >>> with tempfile.TemporaryDirectory() as path, KeyedCache(path) as cache:
        ...     cache.put(text_keys(["a", "b"]), np.eye(2, dtype=np.float32))
        ...     found, vectors = cache.get(text_keys(["b", "c"]))
        ...     found, vectors
        2
        (array([ True, False]), array([[0., 1.],
               [0., 0.]], dtype=float32))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        identity: Mapping[str, Any] | None = None,
        containers: Sequence[Container] = (),
        mode: Mode = "a",
        verify: bool = True,
        durability: Durability = "commit",
        on_mismatch: OnMismatch = "raise",
        lock_timeout: float = 60.0,
        shared: bool = False,
        allow_network: bool = False,
    ) -> None:
        directory = local_directory(path)
        for name, flag in (("verify", verify), ("shared", shared), ("allow_network", allow_network)):
            check_flag(name, flag)
        if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, int | float):
            raise TypeError(f"expected lock_timeout to be a number, found {type(lock_timeout).__name__}")
        for name, value, allowed in (
            ("mode", mode, Mode),
            ("durability", durability, Durability),
            ("on_mismatch", on_mismatch, OnMismatch),
            *(("container", container, Container) for container in containers),
        ):
            check_choice(name, value, allowed)
        self._verify = verify
        self._warned = False
        self._read_one: tuple[_core.Store, int, np.dtype[Any], Output | None] | None = None
        self._handle = Handle(
            directory,
            identity=(None if mode == "r" else dict(BARE)) if identity is None else identity,
            containers=tuple(containers),
            mode=mode,
            durability=durability,
            on_mismatch=on_mismatch,
            lock_timeout=lock_timeout,
            shared=shared,
            allow_network=allow_network,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def __bool__(self) -> bool:
        """Whether there is a cache object, empty or not."""
        return True

    def __len__(self) -> int:
        """Return how many different keys are stored, including those of other processes."""
        store = self._handle.store()
        return 0 if store is None else len(store)

    @property
    def path(self) -> Path:
        """The directory. With ``on_mismatch="sibling"`` it may be a sibling of the requested one."""
        return self._handle.path

    @property
    def on_mismatch(self) -> OnMismatch:
        """The policy for that directory: ``"raise"`` once it is a sibling."""
        return self._handle.on_mismatch

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
    def output(self) -> Output | None:
        """The array kind; None before the first vector."""
        store = self._handle.store()
        return None if store is None else Output.from_json(store.output)

    @property
    def row_bytes(self) -> int:
        """How many bytes a row adds on disk, with its key; the mean of ragged rows; 0 before the first."""
        store = self._handle.store()
        if store is None:
            return 0
        if family_of(store.container) == "dense":
            return store.dim * np.dtype(store.dtype).itemsize + KEY_RECORD_BYTES
        mapped = sum(len(part) for part in store.map_all() if part is not None)
        return mapped // max(store.rows, 1) + KEY_RECORD_BYTES

    @property
    def container(self) -> Container:
        """The container of the rows. Before there are any, the one of dense rows."""
        return self._handle.container

    def accepts(self, containers: Sequence[Container]) -> bool:
        """Return whether a cache that is not there yet may have one of these containers."""
        return self._handle.accepts(containers)

    @property
    def identity(self) -> dict[str, Any]:
        """The identity; empty if no model is named."""
        found = self._handle.identity()
        return {} if found in (None, BARE) else found or {}

    @property
    def model(self) -> str | None:
        """The model as ``"name@revision"``; None if none is named."""
        return model_text(self.identity)

    @property
    def uuid(self) -> str | None:
        """A unique identifier of the cache, 32 hex digits; None before the first vector."""
        store = self._handle.store()
        return None if store is None else store.uuid

    @property
    def generation(self) -> int:
        """How often the cache was compacted. Row numbers are those of a generation."""
        store = self._handle.store()
        return 0 if store is None else store.generation

    @property
    def numbering(self) -> Numbering | None:
        """What row numbers belong to: the generation of this cache; None before the first vector."""
        store = self._handle.store()
        return None if store is None else store.numbering

    def unmoved(self, read: Callable[[], T]) -> T:
        """Return what ``read`` returns about row numbers, and read again if they changed meanwhile."""
        while True:
            numbering = self.numbering
            found = read()
            if self.numbering == numbering:
                return found

    @property
    def vectors(self) -> Rows:
        """All committed rows, replaced ones too: read-only, not copied, in the stored dtype."""
        store = self._handle.store()
        if store is None:
            return np.empty((0, 0), np.float32)
        data, indices, ends = store.map_all()
        if ends is None:
            return np.frombuffer(memoryview(data), np.dtype(store.dtype)).reshape(-1, store.dim)
        indptr = np.concatenate([np.zeros(1, np.int64), np.frombuffer(memoryview(ends), np.int64)])
        return _ragged(store, memoryview(data), None if indices is None else memoryview(indices), indptr)

    @property
    def closed(self) -> bool:
        """Whether the cache is closed."""
        return self._handle.is_closed

    @property
    def in_flight(self) -> InFlight:
        """The items that callers of this process are encoding for the same directory and identity."""
        return self._handle.in_flight

    @property
    def proofs(self) -> Proofs:
        """The proven descriptions of the cache."""
        return self._handle.proofs

    def has_texts(self) -> bool:
        """Return whether the text of any row is kept."""
        store = self._handle.store()
        return store is not None and store.has_texts()

    def bytes_on_disk(self) -> int:
        """Return the size of all files in the directory; 0 before the first vector."""
        store = self._handle.store()
        return 0 if store is None else store.bytes_on_disk()

    def stats(self) -> dict[str, int]:
        """Return counts and sizes: see :meth:`dejavec.EmbeddingCache.stats`."""
        store = self._handle.store()
        return dict.fromkeys(_STATS, 0) if store is None else store.stats()

    def verify(self) -> dict[str, Any]:
        """Check every row and file, and return the findings: see ``_core.verify``."""
        store = self._handle.store()
        if store is None:
            return {**dict.fromkeys(_COUNTS, 0), **{name: [] for name in _LISTS}}
        return _core.verify(str(self.path))

    def refresh(self) -> int:
        """Read the commits of other processes; return the number of rows.

        Raises:
            CacheNotFoundError: the directory is gone, and ``mode="r"``.
            StorageError: the files cannot be read.
            CorruptCacheError: committed rows are missing in the files.
        """
        store = self._handle.refresh()
        return 0 if store is None else store.rows

    def sync(self) -> None:
        """Make all stored rows durable, so that they survive a power loss."""
        store = self._handle.store()
        if store is not None:
            store.sync()

    def close(self) -> None:
        """Sync, and close all files. Later calls raise ``ClosedCacheError``. Closing twice is allowed."""
        self._handle.close()

    def keys(self) -> Keys:
        """Return each committed row's key (rows, 32), zeros for a dead row. The last of equal keys counts."""
        store = self._handle.store()
        return self.keys_of(np.arange(0 if store is None else store.rows))

    def keys_of(self, rows: NDArray[np.int64]) -> Keys:
        """Return the keys of rows (n, 32), zeros for dead or missing rows."""
        keys = np.zeros((len(rows), 32), np.uint8)
        store = self._handle.store()
        if store is not None:
            store.read_keys(rows, keys)
        return keys

    def is_newest(self) -> NDArray[np.bool_]:
        """Return whether each row is the newest of its key (rows,). Replaced and dead rows are not."""
        store = self._handle.store()
        count, _, bits = (0, 0, b"") if store is None else store.newest()
        flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little", count=count)
        return flags.view(np.bool_)

    def read_rows(self, first: int, count: int) -> tuple[NDArray[Any], list[int]]:
        """Copy dense rows from ``first`` on, without mapping them.

        Returns:
            The vectors (count, dim), and the positions of dead or damaged rows.
        """
        store = self._handle.store()
        if store is None:
            return np.empty((count, 0), np.float32), list(range(count))
        vectors = np.empty((count, store.dim), np.dtype(store.dtype))
        return vectors, store.read_rows(first, vectors, verify=self._verify)

    def take(self, keys: Keys) -> int:
        """Take rows that are missing here from a store behind the cache, and return how many: 0 without one.

        Args:
            keys: the keys (n, 32).
        """
        del keys
        return 0

    def elsewhere(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which keys are missing here and are in a store behind the cache (n,): none without one.

        Args:
            keys: the keys (n, 32).
        """
        return np.zeros(len(keys), np.bool_)

    def note_stored(self, rows: Rows, appended: int) -> None:
        """Do nothing: a store behind the cache gets new rows.

        Args:
            rows: rows that were to be stored, in the stored dtype.
            appended: how many of them were, at least one.
        """

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Look up keys and collapse duplicates.

        Returns:
            Each key's row number (n,), -1 for a miss. And for each miss the position of the first equal key,
            for each hit the position itself (n,).
        """
        store = self._handle.store()
        if store is None:
            return np.full(len(keys), -1, np.int64), first_of_each(keys).astype(np.int64)
        rows, first = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
        store.partition(keys, rows, first)
        return rows, first

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Return each key's newest row number (n,), -1 for none."""
        rows = np.full(len(keys), -1, np.int64)
        store = self._handle.store()
        if store is not None:
            store.lookup(keys, rows)
        return rows

    def gather(
        self,
        keys: Keys,
        rows: NDArray[np.int64],
        out: NDArray[Any] | None = None,
        *,
        as_returned: bool = False,
    ) -> tuple[Rows, list[int]]:
        """Read the rows of keys, at row numbers from :meth:`lookup`.

        Args:
            keys: the keys (n, 32).
            rows: row numbers (n,); -1 reads as zeros.
            out: an array for the vectors: C-contiguous, (n, dim), of the stored dtype.
            as_returned: whether vectors may be float16 if the model returned float16 and the container holds
                float32. Otherwise they have the stored dtype.

        Returns:
            The n vectors, and the positions of damaged rows: another key, or a checksum mismatch. The vectors
            are ``out``, a new array, or for a long run of rows a copy-on-write mapping. Row -1 of a ragged
            cache has no elements.

        Raises:
            VectorsError: ``out`` does not fit.
        """
        vectors, damaged = self._gather(keys, rows, out, as_returned)
        if damaged:
            # Another thread may have opened compacted files since the look-up, with other row numbers.
            now = np.where(rows < 0, rows, self.lookup(keys))
            if not np.array_equal(now, rows):
                vectors, damaged = self._gather(keys, now, out, as_returned)
                deleted = np.flatnonzero((now < 0) & (rows >= 0))
                damaged = sorted({*damaged, *deleted.tolist()})
        return vectors, damaged

    def _gather(
        self, keys: Keys, rows: NDArray[np.int64], out: NDArray[Any] | None, as_returned: bool
    ) -> tuple[Rows, list[int]]:
        store = self._handle.store()
        if out is not None:
            check_out(out, len(rows), store)
        if store is not None and family_of(store.container) != "dense":
            return self._gather_ragged(store, keys, rows)
        if store is None:
            if out is None:
                return np.zeros((len(rows), 0), np.float32), []
            out.fill(0)
            return out, []
        shape, dtype = (len(rows), store.dim), np.dtype(store.dtype)
        if out is not None:
            return out, store.gather(keys, rows, out, verify=self._verify)
        if as_returned and store.dtype == "<f4" and Output.from_json(store.output).dtype == "float16":
            halves = np.empty(shape, np.float16)
            return halves, store.gather_halves(keys, rows, halves, verify=self._verify)
        many = len(rows) * store.dim * dtype.itemsize >= _MAPPED_BYTES
        if many and _are_contiguous(rows):
            mapped = store.map_rows(keys, int(rows[0]), verify=self._verify)
            if mapped is not None:
                return np.frombuffer(memoryview(mapped[0]), dtype).reshape(shape), mapped[3]
        vectors = np.empty(shape, dtype)
        return vectors, store.gather(keys, rows, vectors, verify=self._verify)

    @overload
    def append(
        self,
        keys: Keys,
        rows: Rows,
        output: Output,
        seen: None = None,
        texts: Sequence[str | None] | None = None,
    ) -> int: ...

    @overload
    def append(
        self,
        keys: Keys,
        rows: Rows,
        output: Output,
        seen: Seen,
        texts: Sequence[str | None] | None = None,
    ) -> int | None: ...

    def append(
        self,
        keys: Keys,
        rows: Rows,
        output: Output,
        seen: Seen | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> int | None:
        """Append rows for different keys, and commit them; create the cache if there is none.

        Args:
            keys: the keys (n, 32).
            rows: n rows, from :func:`dejavec.vectors.arrays.to_rows`.
            output: the array kind of the vectors.
            seen: each key's row from the look-up (n,); None if no key had one. A key is left out if it has
                another row by now.
            texts: the texts that are kept beside the rows (n,), None for none: see :meth:`put_texts`.

        Returns:
            How many rows were appended. None: nothing was, since a row was seen, and rows have other numbers
            now; look up again.

        Raises:
            VectorsError: dimension or dtype do not fit the cache.
            IdentityMismatchError: another process replaced the cache by another one.
        """
        store, rows = self._writable(rows, output)
        try:
            parts, offsets = _columns_of(rows)
            numbers, numbering = (None, None) if seen is None else (seen.rows, seen.numbering)
            appended = store.append(keys, parts, numbers, numbering, **offsets, texts=texts)
        except VectorsError as error:
            # These rows fit the opened cache, so another one is there now.
            raise IdentityMismatchError(
                self.path,
                expected="the cache that was opened",
                found=f"that another process replaced it by one of other vectors ({error})",
                remedy="use another directory",
            ) from error
        if appended:
            self.note_stored(rows, appended)
        return appended

    def get(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Rows]:
        """Return the stored vectors of keys.

        Args:
            keys: the keys (n, 32).
            out: an array for the vectors: C-contiguous, (n, dim), of the stored dtype.

        Returns:
            Which keys have a sound vector (n,), and the n vectors; those of the others are zeros, or have no
            elements. :func:`dejavec.vectors.arrays.from_rows` converts them to the array kind.

        Raises:
            VectorsError: ``out`` does not fit.
            CacheNotFoundError: the directory is gone, with ``mode="r"`` and more than one key.
            CorruptCacheError: committed rows are missing in the files.
        """
        if len(keys) > 1:
            self.refresh()  # A look-up reads others' commits, but does not notice a replaced directory.
        rows = self.lookup(keys)
        vectors, damaged = self.gather(keys, rows, out, as_returned=True)
        found = rows >= 0
        found[damaged] = False
        if isinstance(vectors, Ragged):
            return found, vectors.emptied(damaged)
        vectors[damaged] = 0
        return found, vectors

    def get_text(self, text: str) -> NDArray[Any] | None:
        """Return the vector (dim,) of one text as a NumPy array in the dtype of :attr:`output`, or None.

        New rows of other processes count. Only :meth:`refresh` notices a replaced directory. NumPy lacks
        bfloat16, so that becomes float32.

        Raises:
            CorruptCacheError: committed rows are missing in the files.
        """
        store = self._handle.store()
        if store is None:
            return None
        read_one = self._read_one
        if read_one is None or read_one[0] is not store:
            # These properties of a store do not change, and to get them takes longer than to read a vector.
            output, dtype = Output.from_json(store.output), np.dtype(store.dtype)
            kept = output.dtype == dtype.name
            other = None if kept else replace(output, library="numpy")
            self._read_one = read_one = store, store.dim, dtype, other
        _, dim, dtype, other = read_one
        vector = np.empty(dim, dtype)
        if not store.read_text(text, vector, self._verify):
            return None
        return vector if other is None else from_rows(vector, other)

    def put(
        self,
        keys: Keys,
        vectors: object,
        *,
        dtype: Literal["float32"] | None = None,
        store_dtype: Literal["float16"] | None = None,
        on_nonfinite: OnProblem = "warn",
        texts: list[str] | None = None,
    ) -> int:
        """Store the vectors of keys, and replace other vectors of these keys.

        Args:
            keys: the keys (n, 32). The last of equal keys counts.
            vectors: n vectors: what :func:`dejavec.vectors.arrays.to_rows` takes.
            dtype: ``"float32"`` rounds the vectors to it.
            store_dtype: ``"float16"`` rounds the stored numbers to it.
            on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.
            texts: the texts that are kept beside the rows that are appended (n,).

        Returns:
            How many rows were appended. Equal vectors that are stored already are not appended.

        Raises:
            VectorsError: the vectors do not fit; nothing was written.
            NonFiniteVectorsError: see ``on_nonfinite``.
            StorageError: the vectors could not be written.
        """
        where = f"the vectors of {len(keys)} items for {self.path}"
        rows, output = fitting_rows(
            vectors,
            len(keys),
            where,
            dim=self.dim,
            stored=self.output,
            dtype=dtype,
            store_dtype=store_dtype,
        )
        bad = nonfinite(rows)
        if len(bad):
            found = {
                "expected": "finite vectors",
                "found": f"NaN or infinity in those of {len(bad)} items, the first at position {bad[0]}",
                "remedy": "they are not stored",
            }
            if on_nonfinite == "raise":
                raise NonFiniteVectorsError(self.path, **found)
            warn(self.path, **found)
            sound = np.delete(np.arange(len(keys)), bad)
            keys, rows = keys[sound], rows[sound]
            if texts is not None:
                texts = [texts[at] for at in sound.tolist()]
        self.refresh()  # The directory may be gone or replaced by now.
        store, rows = self._writable(rows, output)
        if not len(rows):
            return 0
        parts, offsets = _columns_of(rows)
        appended = store.put(keys, parts, **offsets, texts=texts)
        if appended:
            self.note_stored(rows, appended)
        return appended

    def delete(self, keys: Keys, *, tell: bool = True) -> int:
        """Delete keys: see :meth:`dejavec.EmbeddingCache.delete`.

        Args:
            keys: the keys (n, 32).
            tell: whether the next push of a shared cache deletes them for others, too.

        Returns:
            How many different keys were stored.

        Raises:
            ReadOnlyCacheError: ``mode="r"``.
            StorageError: the records could not be zeroed. Some of the keys may be deleted.
        """
        self.refresh()  # The directory may be gone or replaced by now.
        store = self._handle.store()
        if tell and self._handle.writes:
            deletions.note(self.path, keys)
        return 0 if store is None else store.delete(keys)

    def compact(self) -> int:
        """Compact the cache, and return by how many bytes the files became smaller.

        See :meth:`dejavec.EmbeddingCache.compact`.
        """
        self.refresh()
        store = self._handle.store()
        return 0 if store is None else store.compact()

    def prune(self, *, max_bytes: int | None, max_rows: int | None, keep: Keys) -> int:
        """Drop the oldest rows beyond limits, compact, and return how many different keys were dropped.

        See :meth:`dejavec.EmbeddingCache.prune`.
        """
        self.refresh()
        store = self._handle.store()
        return 0 if store is None else store.prune(max_bytes=max_bytes, max_rows=max_rows, keep=keep)

    def pruning(self, *, max_bytes: int | None, max_rows: int | None, keep: Keys) -> tuple[int, int]:
        """Return how many keys :meth:`prune` would drop, and how many bytes it would free."""
        self.refresh()
        store = self._handle.store()
        return (0, 0) if store is None else store.pruning(max_bytes=max_bytes, max_rows=max_rows, keep=keep)

    def put_texts(self, keys: Keys, texts: Sequence[str | None]) -> int:
        """Keep the texts of keys that are stored and whose newest row has none, and return how many.

        Only a text whose SHA-256 is the key is kept.

        Args:
            keys: the keys (n, 32).
            texts: the text of each key (n,).

        Raises:
            ReadOnlyCacheError: ``mode="r"``.
            StorageError: the texts could not be written.
        """
        self.refresh()  # The directory may be gone or replaced by now.
        store = self._handle.store()
        return 0 if store is None else store.put_texts(keys, list(texts))

    def texts(self, rows: NDArray[np.int64] | None) -> tuple[bytes, NDArray[np.int64]]:
        """Return the texts of rows (n,); None: of all rows.

        Returns:
            The texts, one after the other, as UTF-8; and the length of each in bytes (n,), -1 for none.
        """
        store = self._handle.store()
        if rows is None:
            rows = np.arange(0 if store is None else store.rows)
        if store is None:
            return b"", np.full(len(rows), -1, np.int64)
        data, lengths = store.texts(rows)
        return data, np.frombuffer(lengths, "<i8")

    def warn_once(self, message: str) -> None:
        """Warn, unless this cache has warned before."""
        if not self._warned:
            self._warned = True
            warn(f"{self.path}: {message}")

    def _writable(self, rows: Rows, output: Output) -> tuple[_core.Store, Rows]:
        """Check that rows fit; return the store, which is created if necessary, and the rows in its dtype."""
        where = f"the vectors for {self.path}"
        container = self._handle.container_for(output, where)
        dtype = stored_dtype(rows, output, container, where)
        store = self._handle.create(dim_of(rows), dtype.str, output, container)
        check_kind(rows, output, store.dim, Output.from_json(store.output), where)
        return store, rows.astype(dtype, copy=False)

    def _gather_ragged(
        self, store: _core.Store, keys: Keys, rows: NDArray[np.int64]
    ) -> tuple[Ragged, list[int]]:
        """Read ragged rows: a copy-on-write mapping of contiguous ones, or one copy of others."""
        if _are_contiguous(rows):
            mapped = store.map_rows(keys, int(rows[0]), verify=self._verify)
            if mapped is not None:
                data, indices, ends, damaged = mapped
                indptr = np.frombuffer(ends or b"", np.int64)
                second = None if indices is None else memoryview(indices)
                return _ragged(store, memoryview(data), second, indptr), damaged
        lengths = np.empty(len(rows), np.int64)
        store.lengths(rows, lengths)
        indptr = offsets_of(lengths)
        sparse = store.container == "sparse"
        numbers = np.empty(int(indptr[-1]) * (1 if sparse else store.dim), np.dtype(store.dtype))
        columns = np.empty(int(indptr[-1]), np.int32) if sparse else None
        copied = _ragged(store, numbers, columns, indptr)
        damaged = store.gather(
            keys, rows, copied.data, verify=self._verify, indices=copied.indices, indptr=copied.indptr
        )
        return copied, damaged


def _are_contiguous(rows: NDArray[np.int64]) -> bool:
    """Return whether row numbers count up by one, from a row that exists."""
    return len(rows) > 0 and bool(rows[0] >= 0) and bool((np.diff(rows) == 1).all())


def _columns_of(rows: Rows) -> tuple[Sequence[NDArray[Any]], dict[str, Any]]:
    """Return the numbers of rows in parts, and the further arrays by which the store takes ragged ones."""
    if not isinstance(rows, Ragged):
        return (rows,), {}
    return rows.parts, {"indices": rows.indices, "indptr": rows.indptr}


def _ragged(store: _core.Store, data: Any, indices: Any, indptr: NDArray[np.int64]) -> Ragged:
    """Return rows over buffers with all numbers, and all column numbers of a sparse cache."""
    numbers = np.frombuffer(data, np.dtype(store.dtype))
    if indices is None:
        return Ragged(numbers.reshape(-1, store.dim), indptr)
    return Ragged(numbers, indptr, np.frombuffer(indices, np.int32), store.dim)
