"""FILE: a column of texts, and others beside it, in any of the formats that commands read, block by block."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from dejavec.errors import ItemError, StorageError
from dejavec.support.packages import package

STANDARD_INPUT = "-"
BLOCK = 10_000
"""The most rows of a block."""

_LINES = (".txt", ".text")
_READERS = {".jsonl": "json", ".ndjson": "json", ".csv": ",", ".tsv": "\t"}
_FORMATS = ".txt, .jsonl, .csv, .tsv, .parquet, a data set directory, or - for standard input"

Block = Mapping[str, list[Any]]
"""Column name to values, all of one length."""


@dataclass(frozen=True)
class TableFile:
    """A file with a column of texts.

    Attributes:
        file: its path; ``-`` for lines on standard input.
        column: the column of texts. Lines have no columns.
        others: further columns, of any values.
    """

    file: Path
    column: str = "text"
    others: tuple[str, ...] = ()

    @property
    def can_repeat(self) -> bool:
        """Whether the file can be read again."""
        return str(self.file) != STANDARD_INPUT

    def blocks(self) -> Iterator[Block]:
        """Yield the texts and the other columns in blocks.

        Raises:
            StorageError: the file cannot be read.
            ItemError: it has no such column, a text is not a text, or a line is not of its format.
            MissingPackageError: the package for this format is not installed.
        """
        first = 0
        for block in self._blocks():
            for at, text in enumerate(block[self.column]):
                if not isinstance(text, str):
                    raise ItemError(
                        f"{self.file}: row {first + at + 1}",
                        expected=f"a text in the column {self.column!r}",
                        found="null" if text is None else f"{type(text).__name__} {text!r:.40}",
                        remedy="leave it out or name another column with --column",
                    )
            first += len(block[self.column])
            yield block

    def texts(self) -> Iterator[list[str]]:
        """Yield the texts alone: see :meth:`blocks`."""
        return (block[self.column] for block in self.blocks())

    def _blocks(self) -> Iterator[Block]:
        suffix = self.file.suffix.lower()
        if not self.can_repeat or suffix in _LINES:
            return self._lines()
        if self.file.is_dir():
            return self._data_set()
        if suffix == ".parquet":
            return self._parquet()
        if suffix in _READERS:
            return self._records(_READERS[suffix])
        if not self.file.exists():
            raise StorageError(
                f"{self.file}: No such file or directory", remedy="check the path", path=self.file
            )
        raise ItemError(
            self.file, expected=_FORMATS, found=f"the suffix {suffix!r}", remedy="rename or convert it"
        )

    @contextmanager
    def _opened(self, newline: str | None) -> Iterator[IO[str]]:
        if not self.can_repeat:
            stream = sys.stdin.buffer if hasattr(sys.stdin, "buffer") else None
            lines: Any = sys.stdin if stream is None else _utf8_lines(stream)
            opened: Any = nullcontext(lines)
        else:
            try:
                opened = self.file.open(encoding="utf-8-sig", newline=newline)
            except OSError as error:
                raise StorageError(
                    f"{self.file}: {error.strerror}", remedy="check the path", path=self.file
                ) from error
        with opened as lines:
            try:
                yield lines
            except UnicodeDecodeError as error:
                raise ItemError(
                    self.file,
                    expected="UTF-8",
                    found=f"the bytes {error.object[error.start : error.start + 4]!r}",
                    remedy="convert it",
                ) from None

    def _lines(self) -> Iterator[Block]:
        if self.others:
            raise ItemError(
                self.file,
                expected=f"a column {self.others[0]!r}",
                found="lines, which have no columns",
                remedy="give a .jsonl, .csv or .parquet file",
            )
        with self._opened(newline="\n") as lines:
            while block := [line.removesuffix("\n").removesuffix("\r") for line in islice(lines, BLOCK)]:
                yield {self.column: block}

    def _records(self, form: str) -> Iterator[Block]:
        names = (self.column, *self.others)
        with self._opened(newline="") as lines:
            rows = self._json_rows(lines) if form == "json" else self._csv_rows(lines, form)
            while block := list(islice(rows, BLOCK)):
                for name in names:
                    for row in block:
                        if name not in row:
                            raise self._no_column(name, row)
                yield {name: [row[name] for row in block] for name in names}

    def _json_rows(self, lines: IO[str]) -> Iterator[Mapping[str, Any]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                row, reason = None, str(error)
            else:
                reason = f"a {type(row).__name__}"
            if not isinstance(row, Mapping):
                raise ItemError(
                    f"{self.file}: line {number}",
                    expected="a JSON object",
                    found=reason,
                    remedy="correct the line",
                )
            yield row

    def _csv_rows(self, lines: IO[str], delimiter: str) -> Iterator[Mapping[str, Any]]:
        csv.field_size_limit(2**31 - 1)
        try:
            yield from csv.DictReader(lines, delimiter=delimiter, strict=True)
        except csv.Error as error:
            raise ItemError(
                self.file, expected="CSV with a line of headings", found=str(error), remedy="correct it"
            ) from None

    def _parquet(self) -> Iterator[Block]:
        arrow, parquet = package("pyarrow", self.file), package("pyarrow.parquet", self.file)
        try:
            file = parquet.ParquetFile(self.file)
            names = [self.column, *self.others]
            for name in names:
                if name not in file.schema_arrow.names:
                    raise self._no_column(name, file.schema_arrow.names)
            for batch in file.iter_batches(BLOCK, columns=names):
                yield batch.to_pydict()
        except (OSError, arrow.ArrowInvalid) as error:
            raise StorageError(f"{self.file}: {error}", remedy="check the file", path=self.file) from error

    def _data_set(self) -> Iterator[Block]:
        datasets = package("datasets", self.file)
        try:
            found = datasets.load_from_disk(str(self.file))
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{self.file}: {error}", remedy="give the directory that save_to_disk wrote", path=self.file
            ) from error
        if isinstance(found, dict):
            raise ItemError(
                self.file,
                expected="one data set",
                found=f"the splits {', '.join(found)}",
                remedy=f"give one of them, such as {self.file / next(iter(found), 'train')}",
            )
        names = [self.column, *self.others]
        for name in names:
            if name not in found.column_names:
                raise self._no_column(name, found.column_names)
        for first in range(0, len(found), BLOCK):
            rows = found[first : first + BLOCK]
            yield {name: rows[name] for name in names}

    def _no_column(self, name: str, names: Sequence[str] | Mapping[str, Any]) -> ItemError:
        return ItemError(
            self.file,
            expected=f"a column {name!r}",
            found=", ".join(str(found) for found in names if found is not None) or "none",
            remedy="name a column of texts with --column" if name == self.column else "name another",
        )


@contextmanager
def repeatable(table: TableFile) -> Iterator[TableFile]:
    """Yield a table that can be read twice: standard input goes to a temporary file, private to its owner."""
    if table.can_repeat:
        yield table
        return
    with tempfile.NamedTemporaryFile(prefix="dejavec-", suffix=".txt") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield replace(table, file=Path(file.name))


def _utf8_lines(stream: IO[bytes]) -> Iterator[str]:
    """Yield lines as UTF-8, whatever the locale says."""
    return (line.decode("utf-8") for line in stream)
