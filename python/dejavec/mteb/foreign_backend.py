"""A cache backend of another library in place of ours, with a record of the identity that it lacks.

Such a backend maps items to float32 vectors, and does not know the model. So each identity has a separate
directory. A small file beside it records the identity, and the form in which the model returned vectors.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import IdentityMismatchError, StorageError
from dejavec.fill.in_flight import InFlight
from dejavec.fill.vector_store import Seen
from dejavec.identity.proven import Change, Proofs
from dejavec.keys.items import Keys, first_of_each, text_keys
from dejavec.serving.forms import NOT_VECTORS, is_dense
from dejavec.storage.identity import compared, difference, sibling
from dejavec.support.canonical import canonical_json
from dejavec.support.json_file import locked, read_record, write_record
from dejavec.support.paths import with_suffix
from dejavec.support.warn import warn
from dejavec.vectors.dtypes import dtype_name
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows, dim_of
from dejavec.vectors.stored import FLOAT32_HOLDS, check_kind

if TYPE_CHECKING:
    from dejavec.mteb.items import Items

_METHODS = ("add", "get_vector", "save", "load", "close", "__contains__")
_MARK = "dejavec:"
"""The prefix of a text that replaces an item, in a backend that hashes texts."""


def is_backend(backend: object) -> bool:
    """Return whether this is a class with the methods that mteb needs in a backend."""
    return isinstance(backend, type) and all(callable(getattr(backend, name, None)) for name in _METHODS)


def not_kept(vectors: Any) -> str | None:
    """Return why a float32 backend cannot hold these vectors exactly; None if it can."""
    if not is_dense(vectors):
        return f"{NOT_VECTORS} by a float32 backend"
    if dtype_name(vectors) not in FLOAT32_HOLDS:
        return f"the backend keeps float32, which does not hold {vectors.dtype}"
    return None


class ForeignCache:
    """A backend with the vectors of one identity, in ``<path>@<12 hex>``, described by a file beside it.

    Args:
        path: the directory that a cache of ours would have.
        backend: the class of the backend.
        identity: the identity of the vectors.
        shared: as in ``EmbeddingCache``, for the directory. The backend's files do not follow it.
        allow_network: ignored; our own caches have it.

    Attributes:
        path: the directory of the backend.
        container: None, since the backend chooses its file format.
        output: the array kind; None before the first vector.
        dtype: the dtype of :func:`dejavec.vectors.arrays.to_rows`; None before the first vector.
        dim: numbers in a vector; None before the first vector.
        proofs: the proven descriptions.
    """

    def __init__(
        self,
        path: Path,
        backend: type[Any],
        identity: Mapping[str, Any],
        *,
        shared: bool,
        allow_network: bool,
    ) -> None:
        del allow_network
        name = f"{backend.__module__}.{backend.__qualname__}"
        self._identity = {"identity": dict(identity), "backend": name}
        self.path = foreign_path(path, backend, identity)
        self.container = None
        self.output: Output | None = None
        self.dtype: np.dtype[Any] | None = None
        self.dim: int | None = None
        self._record = _record_beside(self.path)
        self.proofs = Proofs(self._record, self._update_record)
        self._warned = False
        self.in_flight = InFlight.of(self.path)
        self._read_record()
        # Without the file beside it, the identity of a directory is unknown.
        self._is_lost = self.dim is None and self.path.is_dir() and any(self.path.iterdir())
        _core.make_directories(str(self.path), shared=shared)
        self._backend = backend(self.path)
        self._backend.load()

    @property
    def is_empty(self) -> bool:
        """Whether it has no vectors."""
        return self.dim is None and not self._is_lost

    def get(self, item: dict[str, str]) -> NDArray[np.float32] | None:
        """Return the vector (dim,) of an item; None if there is none, or it is invalid."""
        vector = self._backend.get_vector(item)
        if vector is None:
            return None
        array = np.asarray(vector, np.float32)
        # We never store vectors that are not finite.
        return array if array.shape == (self.dim,) and np.isfinite(array).all() else None

    def add(self, items: list[dict[str, str]], rows: Rows, output: Output) -> int:
        """Add the vectors (n, dim) of different items, check that the backend has them, and return how many.

        Raises:
            VectorsError: the vectors do not fit the stored ones.
            StorageError: the backend raised, or returns other vectors than it got.
        """
        self._write_record(rows, output)
        wanted = np.asarray(rows, np.float32)  # They are dense: see `not_kept`.
        new = [at for at, item in enumerate(items) if not self._holds(item, wanted[at])]
        try:
            if new:
                self._backend.add([items[at] for at in new], wanted[new])
                self._backend.save()
        except Exception as error:
            raise StorageError(
                f"{self.path}: {self._identity['backend']} could not store vectors: "
                f"{type(error).__name__}: {error}",
                remedy="use dejavec.NumpyCache",
                path=self.path,
            ) from error
        if not all(self._holds(items[at], wanted[at]) for at in new):
            self._record.unlink(missing_ok=True)
            raise StorageError(
                self.path,
                expected=f"{self._identity['backend']} to return the vectors that it was given",
                found="others",
                remedy="use dejavec.NumpyCache",
            )
        return len(new)

    def warn_once(self, message: str) -> None:
        """Warn, unless this cache has warned before."""
        if not self._warned:
            self._warned = True
            warn(f"{self.path}: {message}")

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def _holds(self, item: dict[str, str], row: NDArray[np.float32]) -> bool:
        held = self.get(item)
        return held is not None and held.tobytes() == row.tobytes()

    def _read_record(self) -> None:
        record = read_record(self._record)
        if record is None:
            return
        held = {name: record[name] for name in self._identity}
        if _essence(held) != _essence(self._identity):
            expected, found = difference(self._identity, held)
            raise IdentityMismatchError(
                self.path, expected=expected, found=found, remedy="use another cache_path"
            )
        if "output" not in record:
            return  # The model is making the first vectors.
        self.output = Output.from_json(record["output"])
        self.dtype, self.dim = np.dtype(record["dtype"]), record["dim"]

    def _update_record(self, change: Change) -> None:
        """Apply a change to the record.

        Raises:
            OSError: the record cannot be written.
        """
        with locked(self._record):
            found = read_record(self._record)
            changed = change(dict(self._identity) if found is None else found)
            if changed != found:
                write_record(self._record, changed)

    def _write_record(self, rows: Rows, output: Output) -> None:
        if self.output is not None and self.dim is not None and self._record.exists():
            check_kind(rows, output, self.dim, self.output, f"the vectors for {self.path}")
            return
        self.output, self.dtype, self.dim = output, rows.dtype, dim_of(rows)
        form = {"output": output.to_json(), "dtype": rows.dtype.str, "dim": dim_of(rows)}
        try:
            self._update_record(lambda record: {**record, **form})
        except OSError as error:
            raise StorageError(
                f"{self._record}: could not be written: {error}",
                remedy="free space or mend the permissions, then run again",
                path=self._record,
            ) from error


def foreign_path(path: Path, backend: type[Any], identity: Mapping[str, Any]) -> Path:
    """Return the directory of a backend for an identity, if the directory of our cache would be ``path``."""
    name = f"{backend.__module__}.{backend.__qualname__}"
    return sibling(path, {"identity": compared(identity), "backend": name})


def foreign_record(path: Path, backend: type[Any], identity: Mapping[str, Any]) -> Path:
    """Return the file that records the identity of such a directory."""
    return _record_beside(foreign_path(path, backend, identity))


def foreign_identities(path: Path, backend: type[Any]) -> Iterator[dict[str, Any]]:
    """Yield the identities that this backend has stored, if the directory of our cache would be ``path``."""
    name = f"{backend.__module__}.{backend.__qualname__}"
    for found in sorted(path.parent.glob(f"{glob.escape(path.name)}@*.json")):
        record = read_record(found)
        if record is not None and record.get("backend") == name and isinstance(record.get("identity"), dict):
            yield record["identity"]


def _record_beside(directory: Path) -> Path:
    return with_suffix(directory, ".json")


def _essence(record: Mapping[str, Any]) -> str:
    return canonical_json({**record, "identity": compared(record["identity"])})


class ForeignCall:
    """A backend as the store of one call of :func:`dejavec.fill.fill`, with look-up by key.

    Args:
        cache: the backend.
        keys: the keys of all items of the call.
        items: the items.
    """

    def __init__(self, cache: ForeignCache, keys: Keys, items: Items) -> None:
        self._cache = cache
        self._texts = dict(_plain_texts(keys, items))
        self._found: dict[bytes, NDArray[np.float32]] = {}
        self.path = cache.path
        self.in_flight = cache.in_flight

    @property
    def output(self) -> Output | None:
        """The array kind."""
        return self._cache.output

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The dtype of the rows."""
        return self._cache.dtype

    @property
    def dim(self) -> int | None:
        """Numbers in a vector."""
        return self._cache.dim

    @property
    def row_bytes(self) -> int:
        """How many bytes a float32 row takes; the backend may need more."""
        return (self.dim or 0) * np.dtype(np.float32).itemsize

    @property
    def numbering(self) -> None:
        """None: the backend has no row numbers."""
        return None

    def refresh(self) -> int:
        """Do nothing, since the backend does not see other processes; return 0."""
        return 0

    def partition(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Do what ``KeyedCache.partition`` does. The row number of every hit is 0."""
        first = first_of_each(keys).astype(np.int64)
        rows = self.lookup(keys)
        return rows, np.where(rows < 0, first, np.arange(len(keys)))

    def lookup(self, keys: Keys) -> NDArray[np.int64]:
        """Do what ``KeyedCache.lookup`` does. The row number of every hit is 0."""
        return np.array([-1 if self._get(key.tobytes()) is None else 0 for key in keys], np.int64)

    def gather(
        self, keys: Keys, rows: NDArray[np.int64], *, as_returned: bool = False
    ) -> tuple[Rows, list[int]]:
        """Return the vectors (n, dim) of keys, and the positions of keys that the backend lacks."""
        del as_returned
        vectors = np.zeros((len(keys), self.dim or 0), self.dtype or np.float32)
        lost = []
        for position in np.flatnonzero(rows >= 0).tolist():
            vector = self._get(keys[position].tobytes())
            if vector is None:
                lost.append(position)
            else:
                vectors[position] = vector
        return vectors, lost

    def append(
        self,
        keys: Keys,
        rows: Rows,
        output: Output,
        seen: Seen | None,
        texts: list[str] | None = None,
    ) -> int:
        """Add rows for different keys that the backend lacks."""
        del seen, texts
        return self._cache.add([self._item(key.tobytes()) for key in keys], rows, output)

    def _get(self, key: bytes) -> NDArray[np.float32] | None:
        # Only hits are remembered, so a later look-up also finds vectors that were added since.
        if self.dim is not None and key not in self._found:
            vector = self._cache.get(self._item(key))
            if vector is not None:
                self._found[key] = vector
        return self._found.get(key)

    def _item(self, key: bytes) -> dict[str, str]:
        text = self._texts.get(key)
        return {"text": f"{_MARK}{key.hex()}" if text is None else text}


def _plain_texts(keys: Keys, items: Items) -> Iterator[tuple[bytes, str]]:
    """Yield key and text of each plain text that any backend can hash."""
    if not items.text_only or len(items) == 0:
        return
    texts = [str(text) for text in items.loader(np.arange(len(items))).dataset["text"]]
    plain = (text_keys(texts) == keys).all(axis=1)
    for position in np.flatnonzero(plain).tolist():
        text = texts[position]
        # A text that begins with the prefix is stored under its key instead.
        if not text.startswith(_MARK) and (text.isascii() or _is_unicode(text)):
            yield keys[position].tobytes(), text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
