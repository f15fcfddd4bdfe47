"""What ``dejavec import`` reads besides mteb's caches: texts and their vectors, block by block."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dejavec.cli.table_file import BLOCK, TableFile, repeatable
from dejavec.errors import ItemError, StorageError, VectorsError
from dejavec.support.packages import package

KeyEncoder = Literal["sha1", "sha256", "blake2b", "sha512"]
"""The functions by which LangChain's ``CacheBackedEmbeddings`` names files."""

_LANGCHAIN = uuid.UUID(int=1985)
"""The name space of LangChain's default names."""

NO_FILE = "without a file of their own in SRC"
NO_ROW = "without a row in SRC"

Vectors = Any
"""n vectors: what :func:`dejavec.vectors.arrays.to_rows` takes."""


@dataclass
class Read:
    """Texts and vectors, and what was left out.

    Attributes:
        blocks: texts (n) and their vectors (n).
        left: how many texts were left out, by reason; complete when all blocks are read.
    """

    blocks: Iterator[tuple[list[str], Vectors]]
    left: dict[str, int] = field(default_factory=dict)


def matrix(source: Path, texts: TableFile, ids: Path | None, id_column: str) -> Read:
    """Read a ``.npy`` file (n, dim): its rows have the order of the texts, or the names of a file of ids.

    Raises:
        VectorsError: it is no matrix, or there are not as many texts or ids as rows.
    """
    try:
        rows = np.load(source, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise StorageError(
            f"{source}: {error.strerror or error}", remedy="check the path", path=source
        ) from error
    except ValueError as error:
        raise VectorsError(
            source, expected="a .npy file of numbers", found=str(error), remedy="convert it"
        ) from None
    if not isinstance(rows, np.ndarray) or rows.ndim != 2:
        found = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise VectorsError(source, expected="one matrix (rows, dim)", found=found, remedy="convert it")
    if ids is None:
        return Read(_in_order(source, rows, texts))
    named = _names(ids)
    if len(named) != len(rows):
        raise VectorsError(
            ids,
            expected=f"{len(rows):,} ids, as {source} has rows",
            found=f"{len(named):,}",
            remedy="check both",
        )
    read = Read(iter(()))
    read.blocks = _by_id(rows, named, texts, id_column, read)
    return read


def _in_order(source: Path, rows: Any, table: TableFile) -> Iterator[tuple[list[str], Vectors]]:
    with repeatable(table) as whole:
        # Counted before anything is stored: with one text too few, each vector would have the wrong one.
        count = sum(len(texts) for texts in whole.texts())
        if count != len(rows):
            raise VectorsError(
                table.file,
                expected=f"{len(rows):,} texts, as {source} has rows",
                found=f"{count:,}",
                remedy="check both; rows and texts must have one order",
            )
        end = 0
        for texts in whole.texts():
            start, end = end, end + len(texts)
            yield texts, np.asarray(rows[start:end])


def _names(ids: Path) -> dict[str, int]:
    """Return the row of each id: a ``.npy`` file, or any FILE of lines."""
    if ids.suffix == ".npy":
        try:
            found = np.load(ids, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StorageError(f"{ids}: {error}", remedy="check the file", path=ids) from error
        return {str(name): row for row, name in enumerate(found.tolist())}
    lines = TableFile(ids).texts()
    return {name: row for row, name in enumerate(name for block in lines for name in block)}


def _by_id(
    rows: Any, named: dict[str, int], table: TableFile, column: str, read: Read
) -> Iterator[tuple[list[str], Vectors]]:
    for block in TableFile(table.file, table.column, (column,)).blocks():
        found = [named.get(str(name)) for name in block[column]]
        pairs = [(text, row) for text, row in zip(block[table.column], found, strict=True) if row is not None]
        read.left[NO_ROW] = read.left.get(NO_ROW, 0) + len(found) - len(pairs)
        if pairs:
            yield [text for text, _ in pairs], np.asarray(rows[[row for _, row in pairs]])


def parquet(source: Path, column: str, vector_column: str) -> Read:
    """Read a Parquet file with a column of texts and one of vectors."""
    return Read(_table_blocks(source, column, vector_column))


def _table_blocks(source: Path, column: str, vectors: str) -> Iterator[tuple[list[str], Vectors]]:
    arrow, reader = package("pyarrow", source), package("pyarrow.parquet", source)
    try:
        file = reader.ParquetFile(source)
        for name, option in ((column, "--column"), (vectors, "--vectors")):
            if name not in file.schema_arrow.names:
                raise ItemError(
                    source,
                    expected=f"a column {name!r}",
                    found=", ".join(file.schema_arrow.names),
                    remedy=f"name another with {option}",
                )
        for batch in file.iter_batches(BLOCK, columns=[column, vectors]):
            yield batch.column(column).to_pylist(), batch.column(vectors)
    except (OSError, arrow.ArrowInvalid) as error:
        raise StorageError(f"{source}: {error}", remedy="check the file", path=source) from error


def langchain(source: Path, table: TableFile, namespace: str, encoder: KeyEncoder) -> Read:
    """Read the files that LangChain's ``CacheBackedEmbeddings`` wrote into a ``LocalFileStore``.

    The name of a file is a digest of its text, so the texts have to be known.
    """
    read = Read(iter(()))
    read.blocks = _files(source, table, _encoder(namespace, encoder), read)
    return read


def _encoder(namespace: str, encoder: KeyEncoder) -> Callable[[str], str]:
    if encoder == "sha1":

        def name(text: str) -> str:
            digest = hashlib.sha1(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
            return f"{namespace}{uuid.uuid5(_LANGCHAIN, digest)}"

        return name
    return lambda text: (
        f"{namespace}{hashlib.new(encoder, text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    )


def _files(
    source: Path, table: TableFile, name_of: Callable[[str], str], read: Read
) -> Iterator[tuple[list[str], Vectors]]:
    for texts in table.texts():
        found: list[str] = []
        vectors: list[list[float]] = []
        for text in texts:
            path = source / name_of(text)
            try:
                vectors.append(_vector(path))
            except FileNotFoundError:
                read.left[NO_FILE] = read.left.get(NO_FILE, 0) + 1
            except OSError as error:
                raise StorageError(
                    f"{path}: {error.strerror}", remedy="correct its permissions", path=path
                ) from error
            else:
                found.append(text)
        if found:
            yield found, vectors


def _vector(path: Path) -> list[float]:
    try:
        vector = json.loads(path.read_bytes())
    except ValueError:
        vector = None
    if not isinstance(vector, list) or not all(type(number) in (int, float) for number in vector):
        raise VectorsError(
            path, expected="a JSON list of numbers", found="other bytes", remedy="remove the file"
        )
    return [float(number) for number in vector]
