"""One directory of vectors, by key: what :mod:`dejavec.fill`, the backends and the mteb wrapper work with."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.closing import Closing
from dejavec.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.errors import DejavecWarning, NonFiniteVectorsError
from dejavec.handle import DEFAULT_CONTAINER, Durability, Handle, Mode, OnMismatch
from dejavec.identity import BARE, describe
from dejavec.in_flight import InFlight
from dejavec.keys import Keys, first_of_each
from dejavec.settings import FillSettings, Miss, OnProblem, check_choice
from dejavec.values import (
    Container,
    Output,
    Rows,
    check_kind,
    nonfinite,
    refusal,
    stored_dtype,
    to_rows,
)

_MAPPED_BYTES = 1 << 20
_STATS = ("rows", "keys", "synced", "epoch", "row_bytes", "bytes_on_disk", "snapshot_rows", "delta_rows")


class KeyedCache(Closing):
    """A directory of vectors, each under its key.

    Args, errors and settings are those of :class:`dejavec.cache.EmbeddingCache`.
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
            ("durability", durability, Durability),
            ("on_mismatch", on_mismatch, OnMismatch),
            ("on_unconfirmed", on_unconfirmed, OnUnconfirmed),
            ("container", container or DEFAULT_CONTAINER, Container),
        ):
            check_choice(name, value, allowed)
        self.mode: Mode = mode
        self.settings = FillSettings(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            miss=miss,
            refresh=refresh,
            progress=progress,
            on_nonfinite=on_nonfinite,
            on_write_error=on_write_error,
        )
        self._verify = verify
        self._warned = False
        described = describe(model, identity, prompt=prompt, role=role)
        expected = None if mode == "r" and described == BARE else described
        self._confirming = Confirming(
            KNOWN_ITEMS if confirm is None and "model" not in described else confirm or 0,
            confirm_tolerance,
            on_unconfirmed,
        )
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

    def __len__(self) -> int:
        store = self._handle.store()
        return 0 if store is None else len(store)

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

    @property
    def in_flight(self) -> InFlight:
        """What callers of this process are encoding for the same directory and identity just now."""
        return self._handle.in_flight

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
        return f"{type(self).__name__}({str(self.path)!r}, mode={self.mode!r})"

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
        if as_returned and store.dtype == "<f4" and Output.from_json(store.output).dtype == "float16":
            halves = np.empty(shape, np.float16)
            return halves, store.gather_halves(keys, rows, halves, self._verify)
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
        """Do what :meth:`get` does, for keys; the vectors are NumPy's, as :func:`from_rows` takes them."""
        rows = self.lookup(keys)
        vectors, damaged = self.gather(keys, rows, out, as_returned=True)
        found = rows >= 0
        found[damaged] = False
        vectors[damaged] = 0
        return found, vectors

    def write(self, keys: Keys, vectors: object) -> int:
        """Do what :meth:`put` does, for keys."""
        rows, output = to_rows(vectors, len(keys), f"the vectors of {len(keys)} items")
        bad = nonfinite(rows)
        if len(bad):
            message = (
                f"{self.path}: expected finite vectors, found NaN or infinity in those of {len(bad)} items"
            )
            message += f", the first at position {bad[0]}; they are not stored"
            if self.settings.on_nonfinite == "raise":
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
