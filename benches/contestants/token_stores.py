"""Who keeps documents of many vectors each: this project's cache, and files and stores that hold arrays."""

from __future__ import annotations

import hashlib
import os
import pickle
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benches.contestants.base import Contestant
from dejavec import EmbeddingCache

Documents = Sequence[NDArray[np.float32]]
"""One array (tokens, dim) for each document."""


class Tokens(Contestant):
    """``EmbeddingCache`` with multi-vector items."""

    name = "dejavec, multi-vector"
    why = "as it comes: checksums verified, groups synced"
    store = "dejavec-tokens"
    packages = ("dejavec",)
    verify: ClassVar[bool] = True

    def open(self) -> None:
        self._cache = EmbeddingCache(self.path, model="bench/tokens@1", verify=self.verify)

    def encode(self, inputs: list[str], model: Callable[[list[str]], Any]) -> Documents:
        found: Documents = self._cache.encode(inputs, model)
        return found

    def close(self) -> None:
        self._cache.close()


class UnverifiedTokens(Tokens):
    """The same, without checksums."""

    name = "dejavec, multi-vector, verify=False"
    why = "verify=False: durable rows are not checked against their checksums"
    verify = False


class TokenFile(Contestant):
    """All documents in one file, in their order: no text is hashed or looked up."""

    def open(self) -> None:
        """Nothing."""

    def encode(self, inputs: list[str], model: Callable[[list[str]], Any]) -> Documents:
        if self.path.exists():
            return self.read()
        documents = model(inputs)
        self.write(documents)
        for path in [self.path, *self.path.rglob("*")]:
            _sync(path)
        return documents

    @abstractmethod
    def read(self) -> Documents:
        """The documents of the file."""

    @abstractmethod
    def write(self, documents: Documents) -> None:
        """Write the file."""

    def close(self) -> None:
        """Nothing."""


class Pickle(TokenFile):
    """A pickled list."""

    name = "pickle"
    why = "the list of arrays, protocol 5"
    store = "tokens.pickle"

    def read(self) -> Documents:
        with self.path.open("rb") as file:
            found: Documents = pickle.load(file)
        return found

    def write(self, documents: Documents) -> None:
        with self.path.open("wb") as file:
            pickle.dump(documents, file, protocol=5)


class Npz(TokenFile):
    """NumPy's archive."""

    name = "npz"
    why = "np.savez of all tokens in one array, and of where documents end; np.split gives views"
    store = "tokens.npz"

    def read(self) -> Documents:
        with np.load(self.path) as archive:
            return np.split(archive["tokens"], archive["ends"])

    def write(self, documents: Documents) -> None:
        with self.path.open("wb") as file:
            np.savez(file, tokens=np.concatenate(documents), ends=np.cumsum([*map(len, documents)])[:-1])


class ArrowFile(TokenFile):
    """Arrow's IPC file, mapped."""

    name = "Arrow IPC"
    why = "a column of large lists of fixed-size lists; mapped, and given as views"
    store = "tokens.arrow"
    packages = ("pyarrow",)

    def read(self) -> Documents:
        import pyarrow as pa

        with pa.memory_map(str(self.path)) as source:
            return _documents(pa.ipc.open_file(source).read_all().column("tokens"))

    def write(self, documents: Documents) -> None:
        import pyarrow as pa

        table = _table(documents)
        with pa.OSFile(str(self.path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


class Lance(TokenFile):
    """A data set of Lance."""

    name = "Lance"
    why = "the same column; read whole"
    store = "tokens.lance"
    packages = ("pylance", "pyarrow")

    def read(self) -> Documents:
        import lance

        return _documents(lance.dataset(str(self.path)).to_table(["tokens"]).column("tokens"))

    def write(self, documents: Documents) -> None:
        import lance

        lance.write_dataset(_table(documents), str(self.path))


class LmdbTokens(Contestant):
    """LMDB, a value for each document."""

    name = "LMDB, multi-vector"
    why = "buffers=True and writemap: views of the file; one transaction and one putmulti; readahead off"
    store = "lmdb-tokens"
    packages = ("lmdb",)

    def open(self) -> None:
        import lmdb

        self._environment = lmdb.open(str(self.path), map_size=1 << 33, writemap=True, readahead=False)

    def encode(self, inputs: list[str], model: Callable[[list[str]], Any]) -> Documents:
        keys = [hashlib.sha256(text.encode()).digest() for text in inputs]
        self._reading = self._environment.begin(buffers=True)
        values: list[Any] = [self._reading.get(key) for key in keys]
        if values[0] is not None:
            return [np.frombuffer(value, np.float32).reshape(-1, self.setup.dim) for value in values]
        documents = model(inputs)
        with self._environment.begin(write=True) as transaction:
            pairs = zip(keys, (one.tobytes() for one in documents), strict=True)
            transaction.cursor().putmulti(pairs)
        return documents

    def close(self) -> None:
        """Close the file, of which the documents that were read are views."""
        self._reading.abort()
        self._environment.close()


def _table(documents: Documents) -> Any:
    import pyarrow as pa

    tokens = np.concatenate(documents)
    offsets = np.cumsum([0, *map(len, documents)])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), tokens.shape[1])
    return pa.table({"tokens": pa.LargeListArray.from_arrays(pa.array(offsets), vectors)})


def _documents(column: Any) -> Documents:
    """A column of lists as arrays, views of its memory."""
    found: list[NDArray[np.float32]] = []
    for chunk in column.chunks:
        ends = chunk.offsets.to_numpy()
        vectors = chunk.values
        numbers = vectors.values.to_numpy(zero_copy_only=True).reshape(-1, vectors.type.list_size)
        found += np.split(numbers[: ends[-1]], ends[1:-1])
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
