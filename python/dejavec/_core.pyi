"""The Rust core, as Python sees it.

Arrays cross the border through the buffer protocol: keys are C-contiguous ``uint8`` arrays of shape (n, 32),
row numbers are ``int64`` arrays of shape (n,) in which -1 stands for "no row". Every call works on a whole
batch with the GIL released. Errors are those of :mod:`dejavec.errors`; each call may raise ``StorageError``
and ``CorruptCacheError``.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from dejavec.vectors.arrays import Container

_Result = TypeVar("_Result")

__version__: str
"""The version of the package, from the Rust workspace."""

debug_build: bool
"""Whether the extension was built without optimisation."""

def hash_texts(texts: tuple[str, ...], out: NDArray[np.uint8]) -> None:
    """Write the key of each text, SHA-256 of its UTF-8 bytes, into ``out`` (n, 32).

    Lone surrogates are encoded with ``surrogatepass``.

    Raises:
        ItemError: an item is not a ``str``; the message names its position and type.
    """

def hash_arrow(
    chunks: list[tuple[object, NDArray[np.int32] | NDArray[np.int64]]],
    indices: NDArray[np.int64] | None,
    out: NDArray[np.uint8],
) -> None:
    """Write the keys of texts that lie in Arrow buffers into ``out`` (n, 32), without making Python strings.

    Args:
        chunks: of each array, in order, the value buffer (any object with the buffer protocol) and the
            offsets: text ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
        indices: which texts of all chunks together to hash, in order; None for all.
        out: uint8 array of shape (n, 32).

    Raises:
        ValueError: an offset or index points outside its buffer, or ``out`` has another length.
    """

def hash_fields(
    fields: list[tuple[str, NDArray[np.int64], NDArray[np.uint8]]],
    out: NDArray[np.uint8],
) -> None:
    """Write the keys of items with several fields into ``out`` (n, 32).

    An item whose only field is ``text`` keeps the digest of the text as its key; any other is SHA-256 over a
    tag byte 0xFF, the scheme version, then (name, length, digest) of each present field, in the order given.

    Args:
        fields: (name, lengths of shape (n,) in bytes with -1 for "absent", digests of shape (n, 32)).
        out: uint8 array of shape (n, 32).
    """

BLOCK_BYTES: int
"""Bytes of a block of :func:`fingerprint_blocks`."""

def fingerprint_blocks(arrays: list[NDArray[np.uint8]]) -> list[bytes]:
    """Return the XXH3, 128 bits, of each block of ``BLOCK_BYTES`` of each array, one behind the other.

    An empty array has one block. All cores work, with the GIL released.
    """

def before_fork() -> None:
    """Note that a fork begins; called by ``os.register_at_fork``."""

def after_fork_in_parent() -> None:
    """Note that a fork is over, or failed; called by ``os.register_at_fork``."""

def after_fork_in_child() -> None:
    """Close the lock files that the parent process held open; called by ``os.register_at_fork``."""

def make_directories(path: str, *, shared: bool) -> None:
    """Make a directory and its missing parents, for their owner alone or, if ``shared``, for the group."""

def under_writers_lock(
    path: str, function: Callable[[], _Result], *, lock_timeout: float, allow_network: bool
) -> _Result:
    """Call a function while the writers' lock of the cache directory ``path`` is held, and return its result.

    The directory must exist; it need not hold a cache.

    Raises:
        LockTimeoutError: another writer held the lock for longer than ``lock_timeout`` seconds.
        NetworkFileSystemError: the directory lies on another machine, and that is not allowed.
    """

def verify(path: str) -> dict[str, Any]:
    """Check every row and file of the cache in the directory ``path``, openable or not.

    Returns:
        ``rows``, ``keys`` (different ones), ``dead`` (rows), ``replaced`` (rows), ``damaged`` (list of row
        numbers) and ``problems`` (list of sentences, one for each damaged file).
    """

def repair(
    path: str, *, lock_timeout: float, force: bool = False, allow_network: bool = False
) -> dict[str, Any]:
    """Make a damaged cache openable again, under its writers' lock.

    Rebuilds ``commit`` from the row checksums if neither slot is valid, restores a damaged vectors header
    from ``meta.json``, zeroes the key record of each damaged row (it becomes a miss) and of the older rows of
    its key, and replaces damaged index snapshots.

    Args:
        path: the directory.
        lock_timeout: seconds to wait for the writers' lock.
        force: whether to go on if more rows are damaged than sound: else nothing is changed.
        allow_network: whether to write on a network file system.

    Returns:
        What ``verify`` returns, for the state before the repair.

    Raises:
        CorruptCacheError: most rows are damaged and ``force`` is false, or ``meta.json`` is damaged.
        CacheNotFoundError: there is no cache.
        LockTimeoutError: the lock was held for longer than ``lock_timeout``.
        NetworkFileSystemError: the directory is on one.
    """

@final
class Rows:
    """Rows of the vectors file as a buffer: read-only, or private to the caller (copy-on-write)."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int:
        """The length in bytes."""

@final
class Store:
    """One cache directory, open. Safe to use from many threads; not across ``fork``."""

    @staticmethod
    def open(
        path: str,
        *,
        mode: Literal["r", "a"],
        durability: Literal["commit", "close"],
        lock_timeout: float,
        allow_network: bool,
    ) -> Store:
        """Open the cache in the directory ``path``.

        Raises:
            CacheNotFoundError: the directory is missing or has no ``meta.json``.
            ForeignDirectoryError: it has none and holds files that are not ours, or is a file.
            UnsupportedVersionError: the cache has a newer format version.
        """

    @staticmethod
    def create(
        path: str,
        *,
        dim: int,
        dtype: str,
        identity: str,
        output: str,
        container: Container,
        durability: Literal["commit", "close"],
        lock_timeout: float,
        shared: bool,
        allow_network: bool,
    ) -> Store:
        """Create a cache in the directory ``path``, or open the one that is there for appending.

        Args:
            path: the directory.
            dim: numbers in a vector, 1 to 65,536.
            dtype: NumPy descriptor of a number: ``<f2 <f4 <f8 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8 |b1``.
            identity: JSON object: which model and settings make the vectors. The caller compares it with
                ``Store.identity`` afterwards: an existing cache keeps its own.
            output: JSON object: which kind of array and dtype the model returns.
            container: the file that holds the rows: ``vectors.npy``, or ``vectors.faiss``, a FAISS flat index
                of this metric, which holds float32 only.
            durability: ``"commit"`` syncs each append group, ``"close"`` only ``sync`` and ``close``.
            lock_timeout: seconds to wait for the writers' lock.
            shared: whether the directory, if it is made, and its files are the group's too.
            allow_network: whether to write on a network file system.

        Raises:
            ForeignDirectoryError: the directory holds files that are not ours.
            VectorsError: the existing cache has another dimension, dtype or container, or the container
                cannot hold the dtype.
            LockTimeoutError: the lock was held for longer than ``lock_timeout``.
            NetworkFileSystemError: the directory is on one.
        """

    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def container(self) -> Container: ...
    @property
    def identity(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def rows(self) -> int:
        """Committed rows that this handle knows of, replaced and dead ones included."""

    def __len__(self) -> int:
        """How many different keys the cache holds, those that others have committed since included."""

    def read_keys(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the keys of rows into ``out`` (n, 32), zeros where a row is dead or not committed."""

    def lookup(self, keys: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Write the newest row of each key, or -1, into ``rows`` (n,). What others have committed counts."""

    def read_text(self, text: str, out: NDArray[Any], verify: bool) -> bool:
        """Copy the vector of one text into ``out`` (dim,); return whether a sound one is stored.

        What others have committed counts.
        """

    def newest(self) -> tuple[int, int, bytes]:
        """Tell which rows are the newest of their key, without looking at the keys.

        Returns:
            How many rows there are; how many of them are not the newest: replaced by a later one, or dead;
            a bit for each row, 1 if it is: row ``i`` is bit ``i % 8`` of byte ``i // 8``, the lowest first.
        """

    def partition(self, keys: NDArray[np.uint8], rows: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        """Look up and collapse duplicates.

        ``rows`` is as of ``lookup``. ``first[i]`` is the position of the first item of this call with the key
        of item ``i`` if that key is a miss, else ``i``. So misses to encode are ``(rows < 0) & (first ==
        arange(n))``, and duplicates are ``first != arange(n)``.
        """

    def append(self, keys: NDArray[np.uint8], vectors: NDArray[Any], seen: NDArray[np.int64] | None) -> int:
        """Append one group of rows and commit it.

        A key is dropped only if its newest row is now another than the one in ``seen`` (None: no row was
        seen). ``vectors`` is C-contiguous, (n, dim), of the store's dtype. Keys must differ from each other.

        Returns:
            How many rows were appended.

        Raises:
            ReadOnlyCacheError, LockTimeoutError, PoisonedWriterError: see there.
        """

    def put(self, keys: NDArray[np.uint8], vectors: NDArray[Any]) -> int:
        """Append the vectors that are not stored byte for byte already; the last of equal keys wins.

        Returns:
            How many rows were appended.
        """

    def gather(
        self, keys: NDArray[np.uint8], rows: NDArray[np.int64], out: NDArray[Any], *, verify: bool
    ) -> list[int]:
        """Copy the rows that ``lookup`` gave for ``keys`` into ``out``.

        ``out`` is C-contiguous, (n, dim), of the store's dtype. Row -1 gives zeros. With
        ``verify=False`` the checksums of rows that are known to be durable are not checked; that each row has
        its key is checked always.

        Returns:
            The positions whose row is not committed, has another key or breaks its checksum. What lies in
            ``out`` there is undefined.
        """

    def gather_halves(
        self, keys: NDArray[np.uint8], rows: NDArray[np.int64], out: NDArray[np.float16], *, verify: bool
    ) -> list[int]:
        """Do what ``gather`` does for a store of float32, and round each number to the nearest float16.

        ``out`` is C-contiguous, (n, dim).

        Raises:
            VectorsError: the store has another dtype.
        """

    def map_rows(self, keys: NDArray[np.uint8], first: int, *, verify: bool) -> tuple[Rows, list[int]] | None:
        """Map the rows of ``keys``, which lie one behind the other from row ``first`` on, for the caller.

        The mapping is private and writable: no copy is made, and the file stays untouched.

        Returns:
            The mapping and the positions that failed, as of ``gather``; None where the system cannot map.
        """

    def read_rows(self, first: int, out: NDArray[Any], *, verify: bool) -> list[int]:
        """Copy the committed rows from ``first`` on into ``out``, without mapping them.

        ``out`` is C-contiguous, (n, dim), of the store's dtype.

        Returns:
            The positions whose row is dead or, unless ``verify`` is false, breaks its checksum.

        Raises:
            VectorsError: not all of these rows are committed.
        """

    def map_all(self) -> Rows:
        """All committed rows as a read-only mapping."""

    def refresh(self) -> int:
        """Learn what other handles have committed; returns ``rows``.

        If the directory has other files by now, the store moves to them.
        """

    def sync(self) -> None:
        """Make every committed row durable, whoever wrote it.

        A store that stored nothing believes a commit that says that all is durable, and opens no file for
        writing.

        Raises:
            StorageError: it failed; or the directory was replaced, and rows that were not synced went with
                it.
        """

    def stats(self) -> dict[str, int]:
        """Return counts and sizes.

        ``rows``, ``keys``, ``synced`` (rows), ``epoch``, ``row_bytes``, ``bytes_on_disk``, ``snapshot_rows``
        and ``delta_rows``.
        """

    def close(self) -> None:
        """Sync what is not durable, write the header, release everything.

        Later calls raise ``ClosedCacheError``.

        Raises:
            StorageError: as ``sync``.
        """
