"""The Rust core, as Python sees it.

Arrays are passed through the buffer protocol. Keys are C-contiguous ``uint8`` arrays of shape (n, 32). Row
numbers are ``int64`` arrays of shape (n,), with -1 for "no row". Every call works on a whole batch with the
GIL released. The errors are in :mod:`dejavec.errors`; each call may raise ``StorageError`` and
``CorruptCacheError``.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from dejavec.vectors.output import Container

_Result = TypeVar("_Result")

__version__: str
"""The version of the package, from the Rust workspace."""

debug_build: bool
"""Whether the extension was built without optimisation."""

def to_lists(rows: NDArray[Any]) -> list[list[Any]]:
    """Return ``rows.tolist()`` for an array (n, dim) of numbers.

    The garbage collector rests meanwhile, since numbers are never garbage. Other threads get a turn after
    about 65,000 numbers.
    """

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
    """Write the keys of texts in Arrow buffers into ``out`` (n, 32), without making Python strings.

    Args:
        chunks: for each array, in order, the value buffer ``data`` (any object with the buffer protocol) and
            the offsets: text ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
        indices: positions of the texts to hash, in order, counted over all chunks; None for all texts.
        out: uint8 array of shape (n, 32).

    Raises:
        ValueError: an offset or index points outside its buffer, or ``out`` has another length.
    """

def hash_fields(
    fields: list[tuple[str, NDArray[np.int64], NDArray[np.uint8]]],
    out: NDArray[np.uint8],
) -> None:
    """Write the keys of items with several fields into ``out`` (n, 32).

    If an item has only the field ``text``, its key is the digest of the text. Otherwise its key is the
    SHA-256 of the tag byte 0xFF, the scheme version, then (name, length, digest) of each present field, in
    this order.

    Args:
        fields: name, lengths in bytes of shape (n,) with -1 for "absent", digests of shape (n, 32).
        out: uint8 array of shape (n, 32).
    """

BLOCK_BYTES: int
"""Bytes of a block of :func:`fingerprint_blocks`."""

def fingerprint_blocks(arrays: list[NDArray[np.uint8]]) -> list[bytes]:
    """Return, for each array, the XXH3 (128 bits) of each block of ``BLOCK_BYTES``, concatenated.

    An empty array has one block. All cores work, with the GIL released.
    """

def fingerprint_rows(data: NDArray[np.uint8], ends: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Write the XXH3 (128 bits) of each row into ``out`` (n, 16), with all cores and the GIL released.

    Row ``i`` is ``data[ends[i - 1]:ends[i]]``, and the first one ``data[:ends[0]]``.

    Raises:
        ValueError: the rows lie elsewhere, or ``out`` has another length.
    """

def before_fork() -> None:
    """Note that a fork begins; called by ``os.register_at_fork``."""

def after_fork_in_parent() -> None:
    """Note that a fork has ended or failed; called by ``os.register_at_fork``."""

def after_fork_in_child() -> None:
    """Close the lock files that the parent process held open; called by ``os.register_at_fork``."""

def make_directories(path: str, *, shared: bool) -> None:
    """Make a directory and its missing parents: private to the owner, or group-shared if ``shared``."""

def under_writers_lock(
    path: str, function: Callable[[], _Result], *, lock_timeout: float, allow_network: bool
) -> _Result:
    """Call a function while the writers' lock of the cache directory ``path`` is held, and return its result.

    The directory must exist; it need not hold a cache.

    Raises:
        LockTimeoutError: another writer held the lock for longer than ``lock_timeout`` seconds.
        NetworkFileSystemError: the directory is on a network file system, and that is not allowed.
    """

def verify(path: str, progress: Progress | None = None) -> dict[str, Any]:
    """Check every row and file of the cache in the directory ``path``, even if the cache cannot be opened.

    Args:
        path: the directory.
        progress: counts the rows while they are checked.

    Returns:
        The numbers of committed ``rows``, of different ``keys``, of ``dead`` and of ``replaced`` rows; the
        ``damaged`` row numbers (a list); the ``problems`` (a list with one sentence for each damaged file);
        the number of rows with ``texts``; and ``damaged_texts``, the numbers of sound rows whose text is not
        that of their key (a list).
    """

def repair(
    path: str,
    *,
    lock_timeout: float,
    force: bool = False,
    allow_network: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Repair a damaged cache, so that it can be opened, under its writers' lock.

    If neither slot is valid, ``commit`` is rebuilt from the row checksums. A damaged header of the rows file
    is restored from ``meta.json``. The key record of each damaged row is zeroed, so that it becomes a miss,
    and so are the records of older rows with its key. The snapshots of a damaged cache are replaced.

    Args:
        path: the directory.
        lock_timeout: seconds to wait for the writers' lock.
        force: whether to repair a cache with more damaged than sound rows. Otherwise nothing is changed.
        allow_network: whether to write on a network file system.
        progress: counts the rows that were checked.

    Returns:
        The result of ``verify`` before the repair.

    Raises:
        CorruptCacheError: more rows are damaged than sound and ``force`` is false, or ``meta.json`` is
            damaged.
        CacheNotFoundError: there is no cache.
        LockTimeoutError: the lock was held for longer than ``lock_timeout``.
        NetworkFileSystemError: the directory is on a network file system, and that is not allowed.
    """

def generation(path: str) -> int:
    """Return how often the cache in the directory ``path`` was compacted, as ``meta.json`` says now.

    Raises:
        CacheNotFoundError: there is no cache.
        CorruptCacheError: ``meta.json`` is damaged.
    """

def file_in_generation(file: str, generation: int) -> str:
    """Return the name of a file of a cache that was compacted ``generation`` times.

    ``vectors.npy`` of generation 0 is ``vectors.1.npy`` in generation 1.
    """

def is_of_a_cache(file: str) -> bool:
    """Return whether a file of this name is one of a cache, of any generation, or a temporary one."""

@final
class Numbering:
    """What row numbers belong to: the files of one generation of one cache. Two of them are equal or not."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Progress:
    """How far the check of ``verify`` or ``repair`` is, for another thread."""

    def __new__(cls) -> Self: ...
    @property
    def rows(self) -> int:
        """How many rows are to be checked; 0 before that is known."""

    @property
    def checked(self) -> int:
        """How many of them were checked."""

@final
class Rows:
    """Rows of the rows file as a buffer: read-only, or private to the caller (copy-on-write)."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int:
        """The length in bytes."""

@final
class Store:
    """An open cache directory. Many threads may use it, but no forked child."""

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
            ForeignDirectoryError: it has no ``meta.json`` and holds foreign files, or is a file.
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
        """Create a cache in the directory ``path``, or open an existing one for appending.

        Args:
            path: the directory.
            dim: numbers in a vector, 1 to 65,536.
            dtype: NumPy descriptor of a number: ``<f2 <f4 <f8 |i1 |u1 <i2 <u2 <i4 <u4 <i8 <u8 |b1``.
            identity: JSON object: the model and settings that make the vectors. An existing cache keeps its
                identity, so the caller must compare it with ``Store.identity`` afterwards.
            output: JSON object: the array kind and dtype that the model returns.
            container: the file that holds the rows: ``vectors.npy``; or ``vectors.faiss``, a FAISS flat index
                with this metric, which holds only float32.
            durability: ``"commit"`` syncs at each append group, ``"close"`` only in ``sync`` and ``close``.
            lock_timeout: seconds to wait for the writers' lock.
            shared: whether a new directory and its files are group-shared.
            allow_network: whether to write on a network file system.

        Raises:
            ForeignDirectoryError: the directory holds foreign files.
            VectorsError: the existing cache has another dimension, dtype or container, or the container
                cannot hold the dtype.
            LockTimeoutError: the lock was held for longer than ``lock_timeout``.
            NetworkFileSystemError: the directory is on a network file system, and that is not allowed.
        """

    @property
    def path(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def numbering(self) -> Numbering:
        """What the row numbers of this handle belong to. It may change with each call."""

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
        """Committed rows that this handle knows, including replaced and dead ones."""

    def __len__(self) -> int:
        """How many different keys the cache holds. Commits of other handles count."""

    def read_keys(self, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        """Copy the keys of rows into ``out`` (n, 32). Rows that are dead or not committed give zeros."""

    def lookup(self, keys: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Write the newest row of each key, or -1, into ``rows`` (n,). Commits of other handles count."""

    def read_text(self, text: str, out: NDArray[Any], verify: bool) -> bool:
        """Copy the vector of one text into ``out`` (dim,). Return whether a sound vector is stored.

        Commits of other handles count.
        """

    def newest(self) -> tuple[int, int, bytes]:
        """Return which rows are the newest of their key, without reading all keys.

        Returns:
            The number of rows; the number of rows that are dead or replaced by a later one; and a bit for
            each row, 1 if it is the newest. Row ``i`` is bit ``i % 8`` of byte ``i // 8``, where bit 0 is the
            lowest.
        """

    def partition(self, keys: NDArray[np.uint8], rows: NDArray[np.int64], first: NDArray[np.int64]) -> None:
        """Look up keys, and find duplicates among the misses.

        ``rows`` is the result of ``lookup``. If item ``i`` is a miss, ``first[i]`` is the position of the
        first item of this call with the same key; otherwise it is ``i``. So ``(rows < 0) & (first ==
        arange(n))`` marks the misses to encode, and ``first != arange(n)`` the duplicates.
        """

    def append(
        self,
        keys: NDArray[np.uint8],
        parts: Iterable[NDArray[Any]],
        seen: NDArray[np.int64] | None,
        numbering: Numbering | None = None,
        *,
        indices: NDArray[np.int32] | None = None,
        indptr: NDArray[np.int64] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> int | None:
        """Append one group of rows and commit it.

        ``seen`` (n,) has the newest row of each key at the caller's look-up, -1 for none; None: no key had a
        row. A key is dropped only if another row is the newest now. Keys must differ from each other.
        ``numbering`` is that from before the look-up.

        ``parts`` are C-contiguous arrays (k, dim) with the store's dtype: n rows, one part after the other.
        In a ragged store a part has whole rows, and row ``i`` has the elements from ``indptr[i]`` up to, and
        without, ``indptr[i + 1]``. In a sparse store the parts, and ``indices``, are (elements,).

        ``texts`` are kept beside the rows that are appended. A text is kept if its SHA-256 is the key, so
        not that of an item with more than text.

        Returns:
            How many rows were appended. None: nothing was, since a row was seen, and rows have other numbers
            now.

        Raises:
            VectorsError: the arrays do not fit the store or each other.
            ReadOnlyCacheError, LockTimeoutError, PoisonedWriterError: see these classes.
        """

    def put(
        self,
        keys: NDArray[np.uint8],
        parts: Iterable[NDArray[Any]],
        *,
        indices: NDArray[np.int32] | None = None,
        indptr: NDArray[np.int64] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> int:
        """Append all rows except those that are already stored with the same bytes.

        The arrays are those of ``append``. If keys are equal, the last one wins.

        Returns:
            How many rows were appended.
        """

    def delete(self, keys: NDArray[np.uint8]) -> int:
        """Zero the key records of all rows of keys, durably.

        Args:
            keys: (n, 32).

        Returns:
            How many of the keys had a row.
        """
    def compact(self) -> int:
        """Copy the rows that count into new files, and replace the old files by them.

        Returns:
            By how many bytes all files became smaller.

        Raises:
            CorruptCacheError: a row that counts is damaged. Nothing was changed.
        """

    def prune(self, *, max_bytes: int | None, max_rows: int | None, keep: NDArray[np.uint8]) -> int:
        """Drop the oldest rows beyond the limits, and compact.

        Args:
            max_bytes: how large all files may be afterwards.
            max_rows: how many of the newest rows stay.
            keep: keys whose rows stay (n, 32).

        Returns:
            How many rows that counted were dropped.

        Raises:
            CorruptCacheError: a row that counts is damaged. Nothing was changed.
        """

    def pruning(
        self, *, max_bytes: int | None, max_rows: int | None, keep: NDArray[np.uint8]
    ) -> tuple[int, int]:
        """Return what ``prune`` would do with the rows that this handle knows. Nothing is written.

        Returns:
            How many rows that count it would drop, and how many bytes of rows, keys and texts it would free.
        """

    def put_texts(self, keys: NDArray[np.uint8], texts: Sequence[str | None]) -> int:
        """Keep the texts of keys that are stored and whose newest row has no text.

        They are durable when the call returns, whatever ``durability`` says.

        Returns:
            How many texts were added.

        Raises:
            ReadOnlyCacheError, LockTimeoutError, PoisonedWriterError: see these classes.
        """

    def texts(self, rows: NDArray[np.int64]) -> tuple[bytes, bytes]:
        """Return the texts of rows. Commits of other handles count.

        A row without a text, a dead one, one that is not committed, and one whose text is not that of its
        key have none.

        Returns:
            The texts, one after the other, as UTF-8 with ``surrogatepass``; and the length of each in bytes,
            -1 for none, as the bytes of ``<i8``.
        """

    def lengths(self, rows: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        """Write how many elements each of the rows has into ``out`` (n,).

        It is 1 in a dense store, and 0 for row -1 and for a damaged row.
        """

    def gather(
        self,
        keys: NDArray[np.uint8],
        rows: NDArray[np.int64],
        out: NDArray[Any],
        *,
        verify: bool,
        indices: NDArray[np.int32] | None = None,
        indptr: NDArray[np.int64] | None = None,
    ) -> list[int]:
        """Copy the rows that ``lookup`` gave for ``keys`` into ``out``.

        ``out`` is C-contiguous, (n, dim), with the store's dtype. Row -1 gives zeros. With ``verify=False``
        the checksums of rows that are known to be durable are not checked. The keys of rows are always
        checked.

        Where rows have elements, ``out`` and ``indices`` have places for those of all rows, and ``indptr``
        (n + 1,) says where the place of each row begins: see ``lengths`` and ``append``.

        Returns:
            The positions of rows that are not committed, have another key or a checksum mismatch. ``out`` is
            undefined there.
        """

    def gather_halves(
        self, keys: NDArray[np.uint8], rows: NDArray[np.int64], out: NDArray[np.float16], *, verify: bool
    ) -> list[int]:
        """Do what ``gather`` does, for a store of float32, and round each number to the nearest float16.

        ``out`` is C-contiguous, (n, dim).

        Raises:
            VectorsError: the store has another dtype, or rows with elements.
        """

    def map_rows(
        self, keys: NDArray[np.uint8], first: int, *, verify: bool
    ) -> tuple[Rows, Rows | None, bytes | None, list[int]] | None:
        """Map the rows of ``keys`` for the caller. They must be contiguous from row ``first`` on.

        The mapping is private and writable (copy-on-write): nothing is copied, and the file does not change.

        Returns:
            The mapping; that of the indices in a sparse store; the offsets of the rows (n + 1,) as the bytes
            of ``<i8`` where rows have elements; and the positions that failed as in ``gather``. None if the
            rows cannot be mapped.
        """

    def read_rows(self, first: int, out: NDArray[Any], *, verify: bool) -> list[int]:
        """Copy the committed rows from ``first`` on into ``out``, without mapping them.

        ``out`` is C-contiguous, (n, dim), with the store's dtype.

        Returns:
            The positions of dead rows and of rows with a checksum mismatch. With ``verify=False`` the
            checksums of rows that are known to be durable are not checked.

        Raises:
            VectorsError: not all of these rows are committed.
        """

    def map_all(self) -> tuple[Rows, Rows | None, Rows | None]:
        """All committed rows as read-only mappings.

        Returns:
            The vectors or numbers; their indices in a sparse store; and where each row ends, ``<i8``, where
            rows have elements.
        """

    def refresh(self) -> int:
        """Read the commits of other handles, and return ``rows``.

        If the directory has other files now, the store opens these.
        """

    def sync(self) -> None:
        """Make every committed row durable, including rows of other handles.

        If this store stored nothing and the newest commit calls all rows durable, no file is opened for
        writing.

        Raises:
            StorageError: a sync failed; or the directory was replaced, and unsynced rows were lost with the
                old files.
        """

    def has_texts(self) -> bool:
        """Return whether the text of any row is kept."""

    def bytes_on_disk(self) -> int:
        """Return the size of all files in the directory."""

    def stats(self) -> dict[str, int]:
        """Return counts and sizes. All rows are looked at, but not their vectors.

        ``rows``, ``keys``, ``synced`` (rows), ``epoch``, ``elements``, ``row_bytes`` (the mean where rows
        have any number of elements), ``bytes_on_disk``, ``snapshot_rows``, ``delta_rows``, ``texts`` (rows
        whose text is kept), ``reclaimable_rows`` and ``reclaimable_bytes`` (what a compaction would free),
        and ``generation`` (how often the cache was compacted).
        """

    def close(self) -> None:
        """Sync rows that are not durable, and close the files.

        Later calls raise ``ClosedCacheError``.

        Raises:
            StorageError: see ``sync``.
        """
