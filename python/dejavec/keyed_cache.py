"""One directory of vectors, by key: what :mod:`dejavec.fill`, the backends and the mteb wrapper work with."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.closing import Closing
from dejavec.columns import first_bad_row
from dejavec.confirm import KNOWN_ITEMS, Confirming, OnUnconfirmed
from dejavec.errors import DejavecError, IdentityMismatchError, NonFiniteVectorsError, VectorsError
from dejavec.handle import DEFAULT_CONTAINER, Durability, Handle, Mode, OnMismatch
from dejavec.identity import BARE, canonical_json, describe, model_text
from dejavec.in_flight import InFlight
from dejavec.keys import Keys, first_of_each
from dejavec.paths import local_directory
from dejavec.proven import Proofs
from dejavec.settings import FillSettings, Miss, OnProblem, check_choice
from dejavec.values import (
    Container,
    Kind,
    Output,
    Rows,
    check_kind,
    convert_list,
    nonfinite,
    stored_dtype,
    to_rows,
)
from dejavec.warn import warn

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
        dtype: Literal["float32"] | None = None,
        output: Kind | None = None,
        on_write_error: OnProblem = "warn",
        on_nonfinite: OnProblem = "warn",
        on_mismatch: OnMismatch = "raise",
        lock_timeout: float = 60.0,
        shared: bool = False,
        allow_network: bool = False,
        progress: bool | None = False,
    ) -> None:
        directory = local_directory(path)
        flags = {"refresh": refresh, "verify": verify, "shared": shared, "allow_network": allow_network}
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                raise TypeError(f"expected {name} to be True or False, found {type(flag).__name__}")
        if isinstance(lock_timeout, bool) or not isinstance(lock_timeout, int | float):
            raise TypeError(f"expected lock_timeout to be a number, found {type(lock_timeout).__name__}")
        described = describe(model, identity, prompt=prompt, role=role)
        expected = None if mode == "r" and described == BARE else described
        for name, value, allowed in (
            ("mode", mode, Mode),
            ("durability", durability, Durability),
            ("on_mismatch", on_mismatch, OnMismatch),
            ("on_unconfirmed", on_unconfirmed, OnUnconfirmed),
            ("container", container or DEFAULT_CONTAINER, Container),
            ("output", output or "numpy", Kind),
        ):
            check_choice(name, value, allowed)
        self._arguments: dict[str, Any] = {
            "model": model,
            "identity": None if identity is None else json.loads(canonical_json(identity)),
            "prompt": prompt,
            "role": role,
            "confirm": confirm,
            "confirm_tolerance": confirm_tolerance,
            "on_unconfirmed": on_unconfirmed,
            "container": container,
            "mode": mode,
            "miss": miss,
            "refresh": refresh,
            "verify": verify,
            "durability": durability,
            "chunk_rows": chunk_rows,
            "chunk_seconds": chunk_seconds,
            "dtype": dtype,
            "output": output,
            "on_write_error": on_write_error,
            "on_nonfinite": on_nonfinite,
            "lock_timeout": lock_timeout,
            "shared": shared,
            "allow_network": allow_network,
            "progress": progress,
        }
        self.mode: Mode = mode
        self.settings = FillSettings(
            chunk_rows=chunk_rows,
            chunk_seconds=chunk_seconds,
            miss=miss,
            refresh=refresh,
            progress=progress,
            dtype=dtype,
            on_nonfinite=on_nonfinite,
            on_write_error=on_write_error,
        )
        self._output_kind = output
        self._verify = verify
        self._warned = False
        self._confirming = Confirming(
            KNOWN_ITEMS if confirm is None and "model" not in described else confirm or 0,
            confirm_tolerance,
            on_unconfirmed,
        )
        self._handle = Handle(
            directory,
            identity=expected,
            container=container,
            mode=mode,
            durability=durability,
            on_mismatch=on_mismatch,
            lock_timeout=lock_timeout,
            shared=shared,
            allow_network=allow_network,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return path and settings; whoever is given them opens the cache there."""
        place = {"path": str(self.path), "on_mismatch": self._handle.on_mismatch}
        return {**place, **self._arguments, "closed": self._handle.is_closed}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        settings = dict(state)
        path, closed = settings.pop("path"), settings.pop("closed")
        KeyedCache.__init__(self, path, **settings)
        if closed:
            self.close()

    def __bool__(self) -> bool:
        """Whether there is a cache object, empty or not: ``if cache:`` asks for no length."""
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
    def identity(self) -> dict[str, Any]:
        """Which model and settings make the vectors, as a JSON object; empty if none is named."""
        found = self._handle.identity()
        return {} if found in (None, BARE) else found or {}

    @property
    def model(self) -> str | None:
        """The model as ``"name@revision"``; None if none is named."""
        return model_text(self.identity)

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
        """Learn what other processes have stored; return the number of rows.

        ``encode``, ``get``, ``in``, ``len`` and ``read_text`` do so by themselves. ``vectors``, ``keys``,
        ``newest``, ``search`` and ``stats`` go by what this object knows.

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

    def __repr__(self) -> str:
        parts = [repr(str(self.path))]
        if self.closed:
            return f"{type(self).__name__}({parts[0]}, closed)"
        try:
            model, stats = self.model, self.stats()
        except DejavecError as error:
            return f"{type(self).__name__}({parts[0]}, {type(error).__name__})"
        if model is not None:
            parts.append(f"model={model!r}")
        if self.mode != "a":
            parts.append(f"mode={self.mode!r}")
        if self.output is None:
            parts.append("empty")
        else:
            parts += [f"{stats['keys']:,} × {self.dim:,} {self.output.dtype}", _size(stats["bytes_on_disk"])]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        if self.closed:
            return f"<code>{html.escape(repr(self))}</code>"
        stats, output = self.stats(), self.output
        rows = {
            "directory": str(self.path),
            "model": self.model or "none named",
            "vectors": f"{stats['keys']:,}",
            "dimension": "" if self.dim is None else f"{self.dim:,}",
            "dtype": "" if output is None else f"{output.dtype} ({output.library})",
            "size": _size(stats["bytes_on_disk"]),
        }
        cells = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items() if value
        )
        return f"<table><caption>{type(self).__name__}</caption>{cells}</table>"

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

    def read(self, keys: Keys, out: NDArray[Any] | None = None) -> tuple[NDArray[np.bool_], Rows]:
        """Do what :meth:`get` does, for keys; the vectors are NumPy's, as :func:`from_rows` takes them."""
        if len(keys) > 1:
            self.refresh()  # One key sees what others stored too, but not that the directory was replaced.
        rows = self.lookup(keys)
        vectors, damaged = self.gather(keys, rows, out, as_returned=True)
        found = rows >= 0
        found[damaged] = False
        vectors[damaged] = 0
        return found, vectors

    def write(self, keys: Keys, vectors: object) -> int:
        """Do what :meth:`put` does, for keys."""
        rows, output = self._fitting(vectors, len(keys))
        bad = nonfinite(rows)
        if len(bad):
            parts = {
                "expected": "finite vectors",
                "found": f"NaN or infinity in those of {len(bad)} items, the first at position {bad[0]}",
                "remedy": "they are not stored",
            }
            if self.settings.on_nonfinite == "raise":
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

    def _fitting(self, vectors: object, count: int) -> tuple[Rows, Output]:
        """Return what was given for ``count`` items as rows, lists of them in the dtype of the cache."""
        where = f"the vectors of {count} items for {self.path}"
        try:
            rows, output = to_rows(vectors, count, where)
        except VectorsError:
            parts = first_bad_row(vectors, count, self.dim)
            if parts is None:
                raise
            _, bad, found = parts
            found = f"{found} at position {bad}"
            remedy = "leave it out; nothing was stored"
            raise VectorsError(
                where, expected="a vector of one length for each", found=found, remedy=remedy
            ) from None
        if self.settings.dtype is not None:
            with np.errstate(over="ignore"):
                rows, output = rows.astype(np.float32), replace(output, dtype="float32")
        held = self.output
        if held is not None and output.library == "list" and output.dtype != held.dtype:
            rows, exact = convert_list(rows, held)
            if not exact.all():
                found = f"numbers that {held.dtype} rounds at position {int(np.argmin(exact))}"
                remedy = f'convert them to {held.dtype}, or pass dtype="float32" to store them rounded'
                raise VectorsError(
                    where, expected=f"lists that {held.dtype} holds exactly", found=found, remedy=remedy
                )
            output = replace(output, dtype=held.dtype)
        return rows, output

    def _shown(self, output: Output) -> Output:
        """Return the kind of array to return in the place of the stored one."""
        return output if self._output_kind is None else replace(output, library=self._output_kind)

    def _writable(self, rows: Rows, output: Output) -> tuple[_core.Store, Rows]:
        """Return the store, created if need be, and the rows in its dtype, having checked that they fit."""
        where = f"the vectors for {self.path}"
        dtype = stored_dtype(rows, output, self._handle.container, where)
        store = self._handle.create(rows.shape[1], dtype.str, output)
        check_kind(rows, output, store.dim, Output.from_json(store.output).dtype, where)
        return store, rows.astype(dtype, copy=False)


def _size(count: int) -> str:
    """Return a number of bytes as people write it.

    Example:
        >>> _size(999), _size(1_600_000)
        ('999 B', '1.6 MB')
    """
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def _check_out(out: object, count: int, store: _core.Store | None) -> None:
    """Check that vectors can be put into what the caller gave for them.

    Raises:
        VectorsError: they cannot.
    """
    dtype = "" if store is None else f"{np.dtype(store.dtype)} "
    expected = f"C-contiguous {dtype}({count}, {'dim' if store is None else store.dim}), writable"
    remedy = "make such an array"
    if not isinstance(out, np.ndarray):
        raise VectorsError("out=", expected=expected, found=type(out).__name__, remedy=remedy)
    if store is None:
        fits = out.ndim == 2 and len(out) == count and out.dtype.kind in "fiub"
    else:
        fits = out.shape == (count, store.dim) and out.dtype == np.dtype(store.dtype)
    if not (fits and out.flags.c_contiguous and out.flags.writeable):
        state = "" if out.flags.writeable else ", read-only"
        order = "" if out.flags.c_contiguous else ", not C-contiguous"
        raise VectorsError(
            "out=", expected=expected, found=f"{out.dtype} {out.shape}{order}{state}", remedy=remedy
        )
