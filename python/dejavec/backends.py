"""The cache as a backend of mteb's wrapper, and as the TextVectorMap of mteb 1.x."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import CacheNotFoundError, IdentityMismatchError
from dejavec.keys.items import item_keys
from dejavec.search.approximate import BuiltIndex, build_index
from dejavec.search.exact import search
from dejavec.search.flat import flat_index
from dejavec.search.metric import FileMetric, file_metric
from dejavec.search.result import SearchResult
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.paths import local_directory
from dejavec.vectors.arrays import from_rows, to_dense_rows
from dejavec.vectors.output import DENSE, Container

Item = str | Mapping[str, Any]
"""A text, or a dict as in mteb: ``{"text": …, "title": …}``."""


@runtime_checkable
class CacheBackendProtocol(Protocol):
    """The protocol of mteb's cache backends: a map from items to vectors."""

    def __init__(self, directory: Path | None = None, **kwargs: Any) -> None:
        """Set the backend up in a directory."""

    def add(self, item: list[dict[str, Any]], vectors: Any) -> None:
        """Add the vectors (n, dim) of n items."""

    def get_vector(self, item: dict[str, Any]) -> Any | None:
        """Return the vector (dim,) of an item; None if it has no vector."""

    def save(self) -> None:
        """Write everything to disk."""

    def load(self) -> object:
        """Read the vectors on disk."""

    def close(self) -> None:
        """Release everything."""

    def __contains__(self, item: dict[str, Any]) -> bool:
        """Return whether an item has a vector."""


class _Backend:
    """The common part of the backends: everything except the container."""

    container: Container | None = None
    """The container that the cache must have. None accepts dense ones, and makes ``vectors.npy`` when new."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = local_directory(directory, "directory")
        self._serves_mteb = False
        self._identity: dict[str, Any] | None = None
        self._named: IdentityMismatchError | None = None
        self._cache: KeyedCache
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        """Return directory and settings. The unpickled object opens the same cache."""
        left_out = ("_cache", "_named")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        closed = state["_closed"]
        vars(self).update(state)
        self._open()
        if closed:
            self.close()

    def load(self, name: str | None = None) -> Self:
        """Read the commits of other processes; open the cache again if it was closed.

        Args:
            name: the task's name, as readers pass it. Its value is ignored.

        Raises:
            CacheNotFoundError: the vectors are in the directories ``query`` and ``document`` below; or a name
                is given, and there is no such directory.
        """
        # mteb's wrapper assumes that its model made all vectors, and adds nothing if it finds all of them.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        self._serves_mteb = name is None and str(caller).startswith("mteb.")
        if name is not None and not self.directory.is_dir():
            raise CacheNotFoundError(
                self.directory,
                expected="a cache",
                found="no such directory",
                remedy="check the path; a cache is made there by the first add()",
            )
        if self._closed:
            self._open()
        self._cache.refresh()
        self._refuse_directory_above()
        return self

    def add(self, items: Item | Sequence[Item], vectors: Any) -> None:
        """Add vectors. A stored vector that differs is replaced.

        Args:
            items: n items, or one.
            vectors: (n, dim); also (dim,) for one item.

        Raises:
            ItemError: an item is neither text nor a dict of content that has a key.
            VectorsError: the vectors do not fit.
            IdentityMismatchError: the cache holds the vectors of a named model.
        """
        if self._named is not None:
            raise self._named
        many = [items] if isinstance(items, str | Mapping) else items
        if len(many) == 1 and np.ndim(vectors) == 1:
            vectors = [vectors]
        self._cache.put(item_keys(many), vectors)

    def get_vector(self, item: Item) -> NDArray[Any] | None:
        """Return the vector (dim,) of an item; None if it has no vector.

        It has the dtype of the added vectors, or float32 for bfloat16, which NumPy lacks.

        Raises:
            ItemError: the item is neither text nor a dict of content that has a key.
            IdentityMismatchError: the caller is mteb's wrapper, and the cache holds the vectors of a named
                model.
        """
        if self._serves_mteb and self._named is not None:
            raise self._named
        if isinstance(item, str):
            return self._cache.get_text(item)
        found, vectors = self._cache.get(item_keys([item]))
        output = self._cache.output
        if output is None or not found[0]:
            return None
        vector: NDArray[Any] = from_rows(vectors, replace(output, library="numpy"))[0]
        return vector

    def get_vectors(self, items: Sequence[Item]) -> tuple[NDArray[np.bool_], NDArray[Any] | None]:
        """Return the vectors of many items in one call: an extension, see docs/upstream.md.

        Args:
            items: n items.

        Returns:
            Which items have a vector (n,), and a private array (n, dim) with their vectors. Its other rows
            are undefined. Before the first vector, None instead of the array.

        Raises:
            ItemError: an item is neither text nor a dict of content that has a key.
            IdentityMismatchError: see :meth:`get_vector`.
        """
        if self._serves_mteb and self._named is not None:
            raise self._named
        found, vectors = self._cache.get(item_keys(items))
        output = self._cache.output
        if output is None:
            return found, None
        return found, from_rows(vectors, replace(output, library="numpy"))

    def identify(self, identity: Mapping[str, Any]) -> None:
        """Set the identity of the vectors to read and add: an extension, see docs/upstream.md.

        Args:
            identity: everything that changes a vector, as a JSON object: model, revision, prompt, arguments.

        Raises:
            IdentityMismatchError: the directory holds vectors with another identity, or without one.
            TypeError: the identity is not JSON.
        """
        identified = self._cache_of(identity)
        self._cache.close()
        self._cache, self._identity = identified, dict(identity)
        self._named = None

    def __contains__(self, item: Item) -> bool:
        return self.get_vector(item) is not None

    @property
    def vectors(self) -> NDArray[Any]:
        """All rows (rows, dim): read-only, not copied. ``hash_to_index`` has their keys."""
        self._refuse_directory_above()
        vectors: NDArray[Any] = self._cache.vectors  # type: ignore[assignment]  # Dense, as `container` says.
        return vectors

    @property
    def vector_dim(self) -> int | None:
        """Numbers in a vector; None before the first vector."""
        return self._cache.dim

    @property
    def hash_to_index(self) -> dict[str, int]:
        """Key to row number in ``vectors``. A key has 64 hex digits; for plain text, it is its SHA-256."""
        self._refuse_directory_above()
        keys = self._cache.keys()
        sound = np.flatnonzero(keys.any(axis=1))
        return {keys[row].tobytes().hex(): row for row in sound.tolist()}

    def save(self) -> None:
        """Make all vectors survive a power loss."""
        self._cache.sync()

    def close(self) -> None:
        """Save and release everything."""
        self._closed = True
        self._cache.close()

    def _open(self) -> None:
        self._closed = False
        self._named = None
        try:
            self._cache = self._cache_of(self._identity)
        except IdentityMismatchError as error:
            if self._identity is not None:
                raise
            self._named = IdentityMismatchError(
                self.directory,
                expected="vectors of no named model",
                found=error.found,
                remedy="use another directory, or dejavec's CachedEmbeddingWrapper; reading is allowed",
            )
            self._cache = KeyedCache(self.directory, containers=self._accepted, mode="r")

    def _cache_of(self, identity: Mapping[str, Any] | None) -> KeyedCache:
        return KeyedCache(self.directory, identity=identity, containers=self._accepted, durability="close")

    @property
    def _accepted(self) -> tuple[Container, ...]:
        """The containers that the cache may have."""
        return DENSE if self.container is None else (self.container,)

    def _refuse_directory_above(self) -> None:
        if self._cache.dim is not None:
            return
        below = [
            path for name in ("query", "document") if (path := self.directory / name / "meta.json").is_file()
        ]
        if below:
            caches = " and ".join(str(path.parent) for path in below)
            raise CacheNotFoundError(
                self.directory,
                expected="a cache",
                found=f"{caches} below it",
                remedy="open one of those",
            )


class NumpyCache(_Backend):
    """A dejavec cache as a backend of mteb's own wrapper, and as the ``TextVectorMap`` of mteb 1.x.

    It does not know which model makes its vectors, so it only adds to caches without a named model. The
    vectors of a named model can be read, but not by mteb's wrapper: it does not say which model it wraps.

    Args:
        directory: the cache directory.
        initial_vectors: ignored, since the file grows as needed; mteb passes it.

    Raises:
        ForeignDirectoryError: the directory holds other files, such as a cache that mteb wrote.

    Example:
        >>> import tempfile, numpy as np
        >>> from dejavec import TextVectorMap
        >>> directory = tempfile.TemporaryDirectory()
        >>> vector_map = TextVectorMap(directory.name).load(name="Task")
        >>> vector_map.add(["a", {"text": "b"}], np.eye(2, dtype=np.float32))
        >>> np.asarray(vector_map.vectors)
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        >>> vector_map.get_vector("b"), "c" in vector_map
        (array([0., 1.], dtype=float32), False)
        >>> vector_map.close()
        >>> directory.cleanup()
    """

    def __init__(self, directory: str | os.PathLike[str], initial_vectors: int = 100_000) -> None:
        del initial_vectors
        super().__init__(directory)


class FaissCache(_Backend):
    """A dejavec cache with its vectors in ``vectors.faiss``, an index that FAISS can read at any moment.

    Otherwise it is like :class:`NumpyCache`. The file holds float32. It takes vectors that float32 holds
    exactly, such as float16 and bfloat16, and returns them in their own dtype.

    Args:
        directory: the cache directory.
        metric: how the index compares vectors: squared Euclidean distance or inner product.
        dtype: ``"float32"`` takes vectors of any dtype and returns float32. Vectors that float32 does not
            hold exactly, such as float64, are rounded.

    Raises:
        IdentityMismatchError: the directory has ``vectors.npy``, or an index with the other metric.
        ForeignDirectoryError: the directory holds other files, such as a cache that mteb wrote.
        ValueError: there is no such metric or dtype.

    Example:
        >>> import tempfile, faiss, numpy as np
        >>> from dejavec import FaissCache
        >>> directory = tempfile.TemporaryDirectory()
        >>> cache = FaissCache(directory.name, metric="ip")
        >>> cache.add(["east", "north"], np.eye(2, dtype=np.float32))
        >>> cache.save()
        >>> cache.search([[0.9, 0.1]], 2).rows
        array([[0, 1]])
        >>> faiss.read_index(f"{directory.name}/vectors.faiss").ntotal
        2
        >>> cache.close()
        >>> directory.cleanup()
    """

    container: Container | None = "faiss-l2"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        metric: FileMetric = "l2",
        dtype: Literal["float32"] | None = None,
    ) -> None:
        if metric not in get_args(FileMetric):
            raise ValueError(f"expected metric to be one of {get_args(FileMetric)}, found {metric!r}")
        if dtype not in ("float32", None):
            raise ValueError(f"expected dtype to be 'float32' or None, found {dtype!r}")
        self.container = "faiss-ip" if metric == "ip" else "faiss-l2"
        self._rounds = dtype is not None
        super().__init__(directory)

    def add(self, items: Item | Sequence[Item], vectors: Any) -> None:
        """Add vectors as :meth:`NumpyCache.add` does. With ``dtype="float32"`` they are rounded first.

        Raises:
            VectorsError: float32 would round the vectors, and ``dtype`` is None.
        """
        super().add(items, _rounded(vectors) if self._rounds else vectors)

    @property
    def index(self) -> Any | None:
        """A FAISS index over the file, without a copy; None before the first vector.

        It covers all rows that this object knows now, including replaced ones; :meth:`search` leaves these
        out. The index stays valid after the cache is closed. It is for searching only: FAISS ends the process
        if something is added to it. A copy made by ``faiss.clone_index`` must not outlive the index.

        Raises:
            MissingPackageError: faiss is not installed.
        """
        vectors = self.vectors
        return None if len(vectors) == 0 else flat_index(vectors, file_metric(self._cache))

    def search(self, queries: object, k: int) -> SearchResult:
        """Find the nearest vectors of each query: see :meth:`EmbeddingCache.search`."""
        self._refuse_directory_above()
        return search(self._cache, queries, k)

    def search_items(self, queries: object, k: int) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
        """Do what :meth:`search` does, and return keys instead of row numbers.

        Returns:
            Distances (n, k), and keys (n, k) as in ``hash_to_index``, ``""`` if there are fewer vectors.
        """
        found = self.search(queries, k)
        rows = found.rows
        keys = [key.tobytes().hex() for key in self._cache.keys_of(rows.reshape(-1))]
        return found.distances, np.where(rows < 0, "", np.array(keys, np.str_).reshape(rows.shape))

    def build_index(
        self, factory: str, *, train_rows: int | None = None, progress: bool | None = None
    ) -> BuiltIndex:
        """Build an index for approximate search: see :meth:`EmbeddingCache.build_index`."""
        self._refuse_directory_above()
        return build_index(self._cache, factory, None, train_rows, progress)


def _rounded(vectors: Any) -> NDArray[np.float32]:
    """Return vectors (n, dim), or one (dim,), as float32."""
    if np.ndim(vectors) == 1:
        vectors = [vectors]
    return to_dense_rows(vectors, None, "the vectors")[0].astype(np.float32)


TextVectorMap = NumpyCache
"""The name of the class in mteb 1.x."""
