"""One directory of vectors, by key: what callers that have keys work with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import IdentityMismatchError, NonFiniteVectorsError, VectorsError
from dejavec.fill.in_flight import InFlight
from dejavec.fill.settings import OnProblem, check_choice, check_flag
from dejavec.identity.proven import Proofs
from dejavec.keys.items import Keys, first_of_each
from dejavec.storage.handle import DEFAULT_CONTAINER, Durability, Handle, Mode, OnMismatch
from dejavec.storage.identity import BARE, model_text
from dejavec.support.closing import Closing
from dejavec.support.paths import local_directory
from dejavec.support.warn import warn
from dejavec.vectors.arrays import Container, Output, Rows, check_kind, from_rows, nonfinite, stored_dtype
from dejavec.vectors.fitting import check_out, fitting_rows

_MAPPED_BYTES = 1 << 20
_STATS = ("rows", "keys", "synced", "epoch", "row_bytes", "bytes_on_disk", "snapshot_rows", "delta_rows")


class KeyedCache(Closing):
    """A directory of vectors, each under its key.

    Args:
        path: the directory, created by the first :meth:`append` or :meth:`put`.
        identity: which model and settings make the vectors, a JSON object; None if none is named, for reading
            any.
        container: the file that has to hold the rows; None takes what is there, and makes ``vectors.npy``.
        mode: ``"a"`` reads and appends, ``"r"`` only reads.
        verify: whether each row's checksum is verified when it is read.
        durability: ``"commit"`` syncs each append, ``"close"`` only :meth:`sync` and :meth:`close`.
        on_mismatch: whether a directory of another identity raises, or the cache goes to one beside it.
        lock_timeout: seconds to wait for another process that is writing.
        shared: whether a new directory and its files are for its group, too.
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
        container: Container | None = None,
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
            ("container", container or DEFAULT_CONTAINER, Container),
        ):
            check_choice(name, value, allowed)
        self._verify = verify
        self._warned = False
        self._read_one: tuple[_core.Store, int, np.dtype[Any], Output | None] | None = None
        self._handle = Handle(
            directory,
            identity=(None if mode == "r" else dict(BARE)) if identity is None else identity,
            container=container,
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
        """Return how many different keys are stored, by anybody."""
        store = self._handle.store()
        return 0 if store is None else len(store)

    @property
    def path(self) -> Path:
        """The directory: beside the one asked for if ``on_mismatch="sibling"`` applied."""
        return self._handle.path

    @property
    def on_mismatch(self) -> OnMismatch:
        """What applies to that directory: ``"raise"`` once it lies beside the one asked for."""
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
        """The kind of array that the model returned; None before the first vector."""
        store = self._handle.store()
        return None if store is None else Output.from_json(store.output)

    @property
    def container(self) -> Container:
        """The file that holds the rows, or will."""
        return self._handle.container

    @property
    def identity(self) -> dict[str, Any]:
        """Which model and settings make the vectors, as a JSON object; empty if none is named."""
        found = self._handle.identity()
        return {} if found in (None, BARE) else found or {}

    @property
    def model(self) -> str | None:
        """The model as ``"name@revision"``; None if none is named."""
        return model_text(self.identity)

    @property
    def uuid(self) -> str | None:
        """What tells the cache from any other, 32 hex digits; None before the first vector."""
        store = self._handle.store()
        return None if store is None else store.uuid

    @property
    def vectors(self) -> NDArray[Any]:
        """All committed rows (rows, dim), replaced ones too: read-only, not copied, of the stored dtype."""
        store = self._handle.store()
        if store is None:
            return np.empty((0, 0), np.float32)
        return np.frombuffer(memoryview(store.map_all()), np.dtype(store.dtype)).reshape(-1, store.dim)

    @property
    def closed(self) -> bool:
        """Whether the cache was closed."""
        return self._handle.is_closed

    @property
    def in_flight(self) -> InFlight:
        """What callers of this process are encoding for the same directory and identity just now."""
        return self._handle.in_flight

    @property
    def proofs(self) -> Proofs:
        """Where it is noted which models make the vectors."""
        return self._handle.proofs

    def stats(self) -> dict[str, int]:
        """Return counts and sizes: see :meth:`dejavec.EmbeddingCache.stats`."""
        store = self._handle.store()
        return dict.fromkeys(_STATS, 0) if store is None else store.stats()

    def verify(self) -> dict[str, Any]:
        """Check every row and file, and return the findings: see ``_core.verify``."""
        store = self._handle.store()
        if store is None:
            return {"rows": 0, "keys": 0, "dead": 0, "replaced": 0, "damaged": [], "problems": []}
        return _core.verify(str(self.path))

    def refresh(self) -> int:
        """Learn what other processes have stored; return the number of rows.

        Raises:
            CacheNotFoundError: the directory is gone, and ``mode="r"``.
            StorageError: the files cannot be read.
            CorruptCacheError: they do not hold what was committed.
        """
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
        return vectors, store.read_rows(first, vectors, verify=self._verify)

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
        self,
        keys: Keys,
        rows: NDArray[np.int64],
        out: NDArray[Any] | None = None,
        *,
        as_returned: bool = False,
    ) -> tuple[Rows, list[int]]:
        """Read the rows that :meth:`lookup` gave for keys.

        Args:
            keys: (n, 32).
            rows: row numbers (n,); -1 reads as zeros.
            out: where to put the vectors: C-contiguous, (n, dim), of the stored dtype.
            as_returned: whether the vectors may be float16 already where the model returned that, and the
                container holds float32. Else they are of the stored dtype.

        Returns:
            The vectors (n, dim), ``out`` or the caller's own, not copied if they are many and lie in one run;
            and the positions whose row is not the key's or whose checksum does not match.

        Raises:
            VectorsError: ``out`` does not fit.
        """
        store = self._handle.store()
        if out is not None:
            check_out(out, len(rows), store)
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
        if many and rows[0] >= 0 and (np.diff(rows) == 1).all():
            mapped = store.map_rows(keys, int(rows[0]), verify=self._verify)
            if mapped is not None:
                return np.frombuffer(memoryview(mapped[0]), dtype).reshape(shape), mapped[1]
        vectors = np.empty(shape, dtype)
        return vectors, store.gather(keys, rows, vectors, verify=self._verify)

    def append(self, keys: Keys, rows: Rows, output: Output, seen: NDArray[np.int64] | None = None) -> int:
        """Append rows for different keys, and commit them; create the cache if there is none.

        Args:
            keys: (n, 32).
            rows: (n, dim), as :func:`dejavec.vectors.arrays.to_rows` returns them.
            output: the kind of array that they came as.
            seen: each key's row as it was looked up (n,), None if no key had any; a key that has another by
                now is left out.

        Returns:
            How many were appended.

        Raises:
            VectorsError: dimension or dtype is not the cache's.
            IdentityMismatchError: another process has put another cache there.
        """
        store, rows = self._writable(rows, output)
        try:
            return store.append(keys, rows, seen)
        except VectorsError as error:
            # These rows fit the cache that was opened, so another one lies there now.
            raise IdentityMismatchError(
                self.path,
                expected="the cache that was opened",
                found=f"that another process replaced it by one of other vectors ({error})",
                remedy="use another directory",
            ) from error

    def get(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Rows]:
        """Return the stored vectors of keys.

        Args:
            keys: (n, 32).
            out: where to put the vectors: C-contiguous, (n, dim), of the stored dtype.

        Returns:
            Which keys have a sound vector (n,), and the vectors (n, dim), zeros for the others: NumPy's, as
            :func:`dejavec.vectors.arrays.from_rows` takes them.

        Raises:
            VectorsError: ``out`` does not fit.
            CacheNotFoundError: of more than one key: the directory is gone, and ``mode="r"``.
            CorruptCacheError: the files do not hold what was committed.
        """
        if len(keys) > 1:
            self.refresh()  # One key sees what others stored too, but not that the directory was replaced.
        rows = self.lookup(keys)
        vectors, damaged = self.gather(keys, rows, out, as_returned=True)
        found = rows >= 0
        found[damaged] = False
        vectors[damaged] = 0
        return found, vectors

    def get_text(self, text: str) -> NDArray[Any] | None:
        """Return the vector (dim,) of one text as :attr:`output` has it, but NumPy's; None if there is none.

        What other processes stored meanwhile counts, unless the directory was replaced, which :meth:`refresh`
        notices. bfloat16, which NumPy lacks, is float32.

        Raises:
            CorruptCacheError: the files do not hold what was committed.
        """
        store = self._handle.store()
        if store is None:
            return None
        read_one = self._read_one
        if read_one is None or read_one[0] is not store:
            # What a store holds does not change, and to ask it takes longer than to read a vector.
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
        on_nonfinite: OnProblem = "warn",
    ) -> int:
        """Store the vectors of keys; where another vector is stored, replace it.

        Args:
            keys: (n, 32); of equal ones the last counts.
            vectors: (n, dim): an array or tensor, lists, or a column of pandas, polars or Arrow.
            dtype: ``"float32"`` rounds the vectors to it.
            on_nonfinite: whether vectors with NaN or infinity, which are never stored, warn or raise.

        Returns:
            How many rows were appended: vectors that are stored already are not.

        Raises:
            VectorsError: the vectors do not fit; nothing was written.
            NonFiniteVectorsError: see ``on_nonfinite``.
            StorageError: they could not be written.
        """
        where = f"the vectors of {len(keys)} items for {self.path}"
        rows, output = fitting_rows(vectors, len(keys), where, dim=self.dim, stored=self.output, dtype=dtype)
        bad = nonfinite(rows)
        if len(bad):
            parts = {
                "expected": "finite vectors",
                "found": f"NaN or infinity in those of {len(bad)} items, the first at position {bad[0]}",
                "remedy": "they are not stored",
            }
            if on_nonfinite == "raise":
                raise NonFiniteVectorsError(self.path, **parts)
            warn(self.path, **parts)
            keys, rows = np.delete(keys, bad, axis=0), np.delete(rows, bad, axis=0)
        self.refresh()  # The directory may be gone, or hold another cache by now.
        store, rows = self._writable(rows, output)
        return store.put(keys, rows) if len(rows) else 0

    def warn_once(self, message: str) -> None:
        """Warn, unless this cache did before."""
        if not self._warned:
            self._warned = True
            warn(f"{self.path}: {message}")

    def _writable(self, rows: Rows, output: Output) -> tuple[_core.Store, Rows]:
        """Return the store, created if need be, and the rows in its dtype, having checked that they fit."""
        where = f"the vectors for {self.path}"
        dtype = stored_dtype(rows, output, self._handle.container, where)
        store = self._handle.create(rows.shape[1], dtype.str, output)
        check_kind(rows, output, store.dim, Output.from_json(store.output).dtype, where)
        return store, rows.astype(dtype, copy=False)
