"""A summary of a cache, in one line and as a table."""

from __future__ import annotations

import html

from dejavec.errors import DejavecError
from dejavec.storage.handle import Mode
from dejavec.storage.keyed_cache import KeyedCache


def line_of(name: str, cache: KeyedCache, mode: Mode) -> str:
    """Return the ``repr`` of a cache. It does not raise if the cache is damaged or gone.

    Args:
        name: the name of its class.
        cache: the cache.
        mode: how it was opened.
    """
    parts = [repr(str(cache.path))]
    if cache.closed:
        return f"{name}({parts[0]}, closed)"
    try:
        model, count, size = cache.model, len(cache), cache.bytes_on_disk()
    except DejavecError as error:
        return f"{name}({parts[0]}, {type(error).__name__})"
    if model is not None:
        parts.append(f"model={model!r}")
    if mode != "a":
        parts.append(f"mode={mode!r}")
    if cache.output is None:
        parts.append("empty")
    else:
        parts.append(f"{count:,} × {cache.dim:,} {cache.output.dtype}")
        parts.append(size_text(size))
    return f"{name}({', '.join(parts)})"


def table_of(name: str, cache: KeyedCache) -> str:
    """Return an HTML table of an open cache, for notebooks."""
    output = cache.output
    rows = {
        "directory": str(cache.path),
        "model": cache.model or "none named",
        "vectors": f"{len(cache):,}",
        "dimension": "" if cache.dim is None else f"{cache.dim:,}",
        "dtype": "" if output is None else f"{output.dtype} ({output.library})",
        "size": size_text(cache.bytes_on_disk()),
    }
    cells = "".join(
        f"<tr><th>{row}</th><td>{html.escape(value)}</td></tr>" for row, value in rows.items() if value
    )
    return f"<table><caption>{name}</caption>{cells}</table>"


def size_text(count: int) -> str:
    """Return a number of bytes with a unit.

    Example:
        >>> size_text(999), size_text(1_600_000)
        ('999 B', '1.6 MB')
    """
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"
