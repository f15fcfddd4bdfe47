"""Tables that fit the terminal; without one, plain columns of any width."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_LEAST = 16
"""Characters of a shortened cell at least."""

_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: the heading.
        align: where the cells stand.
        shortened: which end of a cell is kept where the terminal is narrow; None: the cell stays whole.
        rank: columns of the highest rank are left out first where the terminal is still too narrow; 0: never.
    """

    name: str
    align: Literal["left", "right"] = "left"
    shortened: Literal["start", "end"] | None = None
    rank: int = 0


def terminal_width() -> int | None:
    """Return how many characters a line of the terminal has; None if the output is no terminal."""
    if not sys.stdout.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdigit() else os.get_terminal_size(sys.stdout.fileno()).columns or 80


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows (n, columns) below headings, without columns that are empty in all rows."""
    filled = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    columns, rows = [columns[at] for at in filled], [[row[at] for at in filled] for row in rows]
    width = terminal_width()
    if width is None:
        print("\n".join(aligned(columns, rows)))
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    chosen, cells = fitted(columns, rows, width, cell_len)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in chosen:
        table.add_column(column.name, justify=column.align, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table.

    Example:
        >>> aligned([Column("name"), Column("rows", "right")], [["a", "1"], ["long", "1,000"]])
        ['name   rows', 'a         1', 'long  1,000']
    """
    lines = [[column.name for column in columns], *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return [
        (" " * _GAP)
        .join(
            cell.rjust(width) if column.align == "right" else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        .rstrip()
        for line in lines
    ]


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, length: Callable[[str], int] = len
) -> tuple[list[Column], list[list[str]]]:
    """Return the columns and rows of a table that is at most ``width`` wide, if that is possible.

    Cells are shortened first, then columns are left out.

    Args:
        columns: the columns.
        rows: the cells (n, columns).
        width: characters of a line.
        length: how many characters of the terminal a text takes.

    Example:
        >>> fitted([Column("cache"), Column("dim", rank=1)], [["a/path", "384"]], 9)[1]
        [['a/path']]
    """
    kept = list(range(len(columns)))
    while True:
        widths = {
            at: max(length(columns[at].name), *(length(row[at]) for row in rows)) if rows else 0
            for at in kept
        }
        excess = sum(widths.values()) + _GAP * len(kept) - width
        shrinking = [at for at in kept if columns[at].shortened is not None]
        while excess > 0 and shrinking:
            widest = max(shrinking, key=lambda at: widths[at])
            if widths[widest] <= _LEAST:
                break
            widths[widest] -= 1
            excess -= 1
        dropped = max(kept, key=lambda at: columns[at].rank)
        if excess <= 0 or not columns[dropped].rank:
            break
        kept.remove(dropped)
    cells = [[shortened(row[at], widths[at], columns[at].shortened, length) for at in kept] for row in rows]
    return [columns[at] for at in kept], cells


def shortened(
    text: str,
    width: int,
    keep: Literal["start", "end"] | None = "start",
    length: Callable[[str], int] = len,
) -> str:
    """Return a text without one of its ends, at most ``width`` wide."""
    if keep is None or length(text) <= width:
        return text
    mark = "…" if _can_print("…") else "~"
    while text and length(text) >= width:
        text = text[:-1] if keep == "start" else text[1:]
    return text + mark if keep == "start" else mark + text


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def printable(text: str) -> str:
    r"""Return a text without characters that would move a terminal's cursor.

    Example:
        >>> printable("a\x1b[31m\nb")
        'a?[31m?b'
    """
    return "".join(character if character.isprintable() else "?" for character in text)
