"""Write the table of mteb's registered models into ``docs/mteb.md``: how many are cached, and how."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import mteb

from dejavec.mteb.model.methods import Methods

PAGE = Path(__file__).with_name("mteb.md")
BEGIN, END = "<!-- written by docs/model_table.py -->\n", "<!-- end -->\n"

WAYS = {
    "encode, dense": ("cached", "their `encode` returns dense vectors"),
    "encode, sparse": ("cached", "their `encode` returns sparse vectors; dense ones for some tasks"),
    "encode, late-interaction": ("cached", "their `encode` returns padded or listed token vectors"),
    "_encode": ("cached", "their search calls `_encode`"),
    "function": ("cached once built", "a function builds them, so their methods are known only then"),
    "predict": ("run as they are", "cross-encoders score pairs, and have no vectors"),
    "search": ("run as they are", "their search has no method that makes vectors"),
    "no loader": ("cannot be loaded", "mteb knows only their metadata"),
}


def way_of(meta: Any) -> str:
    """Return how the vectors of a model come into a cache: a key of ``WAYS``.

    The class of a model is examined, not the model. So the form of its vectors is what mteb says of it.
    """
    loader = meta.loader
    while isinstance(loader, functools.partial):
        loader = loader.func
    if loader is None:
        return "no loader"
    kinds = set(meta.model_type or ())
    if "cross-encoder" in kinds:
        return "predict"
    if not isinstance(loader, type):
        return "search" if kinds & {"sparse", "hybrid"} else "function"
    methods = Methods.of(loader)
    if methods.encodes:
        form = (
            "late-interaction" if "late-interaction" in kinds else "sparse" if "sparse" in kinds else "dense"
        )
        return f"encode, {form}"
    return "_encode" if methods.are_cached else "search"


def table() -> str:
    """Return the table as Markdown."""
    ways = Counter(way_of(meta) for meta in mteb.get_model_metas())
    rows = [f"| {ways[way]} | {what} | {why} |" for way, (what, why) in WAYS.items()]
    count = sum(ways.values())
    head = f"The {count} models in the registry of mteb {mteb.__version__}, by their classes; none was run:"
    return "\n".join([head, "", "| models | | why |", "| --- | --- | --- |", *rows, ""])


def page_with_table(page: str) -> str:
    """Return a page with the table of today between the two comments."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
