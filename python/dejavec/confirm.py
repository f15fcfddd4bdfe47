"""Whether cached vectors are the ones that a model returns: some are encoded again and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dejavec.errors import UnconfirmedError
from dejavec.observed import Description, Look
from dejavec.values import Output, Rows
from dejavec.warn import warn

OnUnconfirmed = Literal["warn", "raise"]

KNOWN_ITEMS, UNKNOWN_ITEMS = 4, 16
"""Items of a question about a description that is proven, or differs in versions only; and about another."""

_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
_TOLERANCE = 1e-4
"""Of float32 and float64. Measured: the noise of another batch is 1.5e-6 (float32), 2e-3 and 1.8e-2 of the
largest number; one step of an optimiser at a learning rate of 1e-6 is 1.2e-3."""

_LOOSEST = 5e-2
"""Where the last digits may differ for a reason, and of a model that answers differently each time."""

_INTEGERS = 1e-2
"""Share of a quantised vector's numbers that may differ: those next to a threshold fall to either side."""

_DRAWN = 256


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        agrees: whether the model's vectors are the cached ones.
        difference: how far the farthest is off, as a part of the largest number of its vector; infinity if it
            cannot be compared.
        asked: how many items the model encoded.
        doubt: why the vectors agree although they were not confirmed, None if they were.
    """

    agrees: bool
    difference: float
    asked: int
    doubt: str | None = None


def items_to_ask(known: Sequence[Description], description: Description, confirm: int) -> int:
    """Return how many items a question has.

    Args:
        known: the proven descriptions.
        description: the model's.
        confirm: how many if it is proven or only the versions differ; otherwise there are four times as many.

    Example:
        >>> here = Description("s", None, (("torch", "2"),), "cpu", None)
        >>> newer = Description("s", None, (("torch", "3"),), "cpu", None)
        >>> items_to_ask([here], newer, 4), items_to_ask([], newer, 4)
        (4, 16)
    """
    same = any((one.seen, one.tokenizer) == (description.seen, description.tokenizer) for one in known)
    return confirm if same else confirm * (UNKNOWN_ITEMS // KNOWN_ITEMS)


def tolerance_for(known: Sequence[Description], look: Look, output: Output) -> float:
    """Return how far a vector may be off: what another batch changes, or another version or device.

    Args:
        known: the proven descriptions.
        look: the model as it is.
        output: the kind of array that it returns.
    """
    if known and all(known_.surroundings != look.description.surroundings for known_ in known):
        return _LOOSEST
    names = {output.dtype, *look.dtypes}
    if any("int" in name for name in names - {output.dtype}):
        return _LOOSEST  # Weights in packed integers: activations are scaled by their batch.
    return max([_TOLERANCES.get(name, _TOLERANCE) for name in names])


def difference(cached: Rows, found: Rows) -> float:
    """Return how far vectors are off: the largest |difference| / largest |number| of any, infinity if unlike.

    Of integers it is the share of numbers that differ.

    Args:
        cached: (n, dim).
        found: what the model returns for these items.

    Example:
        >>> difference(np.array([[4.0, 2.0]]), np.array([[4.0, 2.5]]))
        0.125
    """
    if cached.shape != found.shape or not cached.size:
        return np.inf if cached.shape != found.shape else 0.0
    if cached.dtype.kind in "iub" and found.dtype.kind in "iub":
        return float((cached != found).mean(axis=1).max())
    wide = cached.astype(np.float64)
    scale = np.maximum(np.abs(wide).max(axis=1), np.finfo(np.float64).tiny)
    off = np.abs(found.astype(np.float64) - wide).max(axis=1) / scale
    return float(np.where(np.isnan(off), np.inf, off).max())


def ask(
    cached: Rows,
    encode: Callable[[], Rows | None],
    *,
    tolerance: float,
    proven: bool,
) -> Answer:
    """Ask a model whether cached vectors are its own.

    Args:
        cached: the vectors (n, dim) of some items.
        encode: returns the model's for the same items, None if these are of another kind altogether.
        tolerance: how far they may be off.
        proven: whether the model's description is proven. Then a model that fails, or that answers every call
            otherwise, is believed.

    Raises:
        Exception: whatever the model raises, if its description is not proven.
    """
    count = len(cached)
    if cached.dtype.kind in "iub":
        tolerance = max(tolerance, _INTEGERS)
    try:
        found = encode()
    except Exception as error:
        if not proven:
            raise
        return Answer(True, np.inf, count, f"the model failed when asked: {type(error).__name__}: {error}")
    off = np.inf if found is None else difference(cached, found)
    if found is None or off <= tolerance or not np.isfinite(off):
        return Answer(off <= tolerance, off, count)
    try:
        again = encode()
    except Exception as error:
        if not proven:
            raise
        return Answer(True, off, 2 * count, f"the model failed when asked: {type(error).__name__}: {error}")
    spread = np.inf if again is None else difference(found, again)
    if off <= min(4 * spread, _LOOSEST):
        return Answer(True, off, 2 * count, f"the model answers differently each time, by {spread:.1g}")
    if spread > _LOOSEST and proven:
        return Answer(True, off, 2 * count, f"the model answers differently each time, by {spread:.1g}")
    return Answer(False, off, 2 * count)


def choose(
    hits: NDArray[np.intp], texts: Callable[[NDArray[np.intp]], Sequence[str]] | None, count: int
) -> NDArray[np.intp]:
    """Return which of the hits to ask for, in their order.

    Of texts: the longest, the shortest, then those with the most words that none before has, for their
    length, among 256 that are drawn. Short texts, or such as are drawn, do not show a change that only long
    ones see. Of other items: drawn.

    Args:
        hits: positions, (n,).
        texts: returns the texts at some positions; None if the items are no texts.
        count: how many.
    """
    generator = np.random.default_rng()
    if len(hits) <= count:
        return hits
    drawn = generator.choice(hits, min(_DRAWN, len(hits)), replace=False)
    if texts is None:
        return np.sort(drawn[:count])
    if len(hits) > len(drawn):
        lengths = np.fromiter(map(len, texts(hits)), np.int64, len(hits))
        drawn = np.unique([hits[lengths.argmax()], hits[lengths.argmin()], *drawn])
    found = texts(drawn)
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    words = [text.split() for text in found]
    distinct = [set(some) for some in words]
    chosen = list(dict.fromkeys([int(lengths.argmax()), int(lengths.argmin())]))[:count]
    seen = set().union(*(distinct[at] for at in chosen))
    rest = [at for at in range(len(drawn)) if at not in chosen]
    while len(chosen) < count:
        best = max(rest, key=lambda at: len(distinct[at] - seen) / (len(words[at]) + 8) ** 0.5)
        chosen.append(best)
        rest.remove(best)
        seen |= distinct[best]
    return np.sort(drawn[chosen])


def unconfirmed(doubt: str, on_unconfirmed: OnUnconfirmed) -> None:
    """Warn that vectors are served although they were not confirmed, or raise.

    Raises:
        UnconfirmedError: that is asked for.
    """
    if on_unconfirmed == "raise":
        remedy = 'on_unconfirmed="warn" serves them'
        raise UnconfirmedError(f"{doubt}; {remedy}", found=doubt, remedy=remedy)
    warn(f"{doubt}; the cached vectors are served, since the model looks as it did")
