"""Check whether cached vectors are a model's: it encodes some items again, and the vectors are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from dejavec.errors import UnconfirmedError
from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.observed import Description, Look
from dejavec.keys.items import Keys, first_of_each
from dejavec.support.warn import warn
from dejavec.vectors.compare import relative_differences
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows

OnUnconfirmed = Literal["warn", "raise"]

KNOWN_ITEMS, UNKNOWN_ITEMS = 4, 16
"""Items to ask for: few if the description is proven or differs in versions only, more otherwise."""

_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
_TOLERANCE = 1e-4
"""For float32 and float64. Measured, as parts of the largest number: another batch changes 1.5e-6 (float32),
2e-3 (float16) and 1.8e-2 (bfloat16); one optimiser step at a learning rate of 1e-6 changes 1.2e-3."""

_LOOSEST = 5e-2
"""For other versions or devices, packed integer weights, and models that answer differently each time."""

_INTEGERS = 1e-2
"""How many numbers of a quantised vector may differ, as a share: noise moves numbers across a threshold."""

_DRAWN = 256

_CONFIRMED = "a model that confirms the cached vectors"


@dataclass(frozen=True)
class Confirming:
    """How a model is asked whether cached vectors are its own.

    Attributes:
        items: how many items to ask for if the description is proven; 0: never ask.
        tolerance: how far a number may be off; None: what the dtype needs.
        on_unconfirmed: whether to warn or raise when vectors are served unconfirmed.

    Raises:
        ValueError: a number is negative.
    """

    items: int
    tolerance: float | None = None
    on_unconfirmed: OnUnconfirmed = "warn"

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.items < 0 or not (self.tolerance or 0) >= 0:
            raise ValueError(
                "expected confirm and confirm_tolerance of at least 0, or None, found "
                f"{self.items} and {self.tolerance}"
            )


@dataclass(frozen=True)
class Answer:
    """The outcome of asking a model.

    Attributes:
        agrees: whether the cached vectors count as the model's.
        difference: the largest difference, as a part of the largest number of its vector; infinity if vectors
            cannot be compared.
        items: how many items the model was asked for.
        asked: how many items it encoded: twice as many if it was asked twice.
        doubt: why the vectors are served although they were not confirmed; None if they were.
    """

    agrees: bool
    difference: float
    items: int
    asked: int
    doubt: str | None = None

    @property
    def said(self) -> str:
        """The outcome in words."""
        return (
            f"of {self.items} items encoded again, one is off by {self.difference:.2g} of its largest number"
        )


def items_to_ask(known: Sequence[Description], description: Description, confirm: int) -> int:
    """Return how many items to ask for.

    Args:
        known: the proven descriptions.
        description: the description of the model.
        confirm: the number if the description is proven or differs in versions only. Other descriptions need
            four times as many.

    Example:
        >>> here = Description("s", None, (("torch", "2"),), "cpu", None)
        >>> newer = Description("s", None, (("torch", "3"),), "cpu", None)
        >>> items_to_ask([here], newer, 4), items_to_ask([], newer, 4)
        (4, 16)
    """
    same = any((one.seen, one.tokenizer) == (description.seen, description.tokenizer) for one in known)
    return confirm if same else confirm * (UNKNOWN_ITEMS // KNOWN_ITEMS)


def tolerance_for(known: Sequence[Description], look: Look, output: Output, stored: str) -> float:
    """Return how far a vector may be off, because of another batch, version or device.

    Args:
        known: the proven descriptions.
        look: the look at the model.
        output: the array kind that it returns.
        stored: the name of the dtype of the cached numbers.
    """
    if known and all(known_.surroundings != look.description.surroundings for known_ in known):
        return _LOOSEST
    names = {output.dtype, stored, *look.dtypes}
    if any("int" in name for name in look.dtypes - {output.dtype}):
        return _LOOSEST  # With packed integer weights, the batch changes the scale of activations.
    return max([_TOLERANCES.get(name, _TOLERANCE) for name in names])


def ask_about(
    store: VectorStore,
    keys: Keys,
    chosen: Positions,
    encode: Callable[[Positions], Rows | None],
    *,
    look: Look,
    known: Sequence[Description],
    confirming: Confirming,
) -> Answer:
    """Ask a model whether the vectors of some items are its own.

    Args:
        store: where the vectors are stored.
        keys: the keys of all items (n, 32).
        chosen: positions of the items to ask for.
        encode: returns the model's vectors of some items; None if they are incomparable.
        look: the look at the model. If its description is proven, the vectors count as its own even if the
            model fails, or answers differently each time.
        known: the proven descriptions.
        confirming: how to ask.

    Raises:
        UnconfirmedError: the vectors are not confirmed, and ``confirming`` says to raise.
        Exception: the model's own exception, if its description is not proven.
    """
    rows = store.lookup(keys[chosen])
    cached, damaged = store.gather(keys[chosen], rows)
    sound = np.delete(np.arange(len(chosen)), damaged)
    chosen, cached = chosen[sound], cached[sound]
    output = store.output
    if not len(chosen) or output is None:
        return Answer(True, 0.0, 0, 0)  # All rows are damaged, so all items will be encoded again.
    tolerance = confirming.tolerance
    answer = ask(
        cached,
        lambda: encode(chosen),
        tolerance=tolerance_for(known, look, output, cached.dtype.name) if tolerance is None else tolerance,
        proven=look.description in known,
    )
    if answer.doubt is not None:
        _unconfirmed(store.path, answer.doubt, confirming.on_unconfirmed)
    return answer


def ask(cached: Rows, encode: Callable[[], Rows | None], *, tolerance: float, proven: bool) -> Answer:
    """Ask a model whether cached vectors are its own.

    Args:
        cached: the vectors of n items.
        encode: returns the model's vectors of the same items; None if they are incomparable.
        tolerance: how far a number may be off.
        proven: whether the model's description is proven. Then the vectors count as its own even if the model
            fails, or answers differently each time.

    Raises:
        Exception: the model's own exception, if its description is not proven.
    """
    count = len(cached)
    if cached.dtype.kind in "iub":
        tolerance = max(tolerance, _INTEGERS)
    try:
        found = encode()
    except Exception as error:
        if not proven:
            raise
        return Answer(
            True, np.inf, count, count, f"one that failed when it was asked: {type(error).__name__}: {error}"
        )
    off = np.inf if found is None else _largest(cached, found)
    if found is None or off <= tolerance or not np.isfinite(off):
        return Answer(off <= tolerance, off, count, count)
    try:
        again = encode()
    except Exception as error:
        if not proven:
            raise
        return Answer(
            True, off, count, 2 * count, f"one that failed when it was asked: {type(error).__name__}: {error}"
        )
    spread = np.inf if again is None else _largest(found, again)
    if off <= min(4 * spread, _LOOSEST):
        return Answer(True, off, count, 2 * count, f"one that answers differently each time, by {spread:.1g}")
    if spread > _LOOSEST and proven:
        return Answer(True, off, count, 2 * count, f"one that answers differently each time, by {spread:.1g}")
    return Answer(False, off, count, 2 * count)


def _largest(cached: Rows, found: Rows) -> float:
    """Return how far the worst vector is off; 0 without vectors."""
    return float(relative_differences(cached, found).max(initial=0.0))


def choose(
    keys: Keys, hits: Positions, texts: Callable[[Positions], Sequence[str]] | None, count: int
) -> Positions:
    """Return the positions of the hits to ask for, sorted.

    For texts: the longest, the shortest, then texts with many new words for their length, among 256 random
    ones. Some changes of a model affect only long texts, so a random choice is not enough. For other items:
    random ones.

    Args:
        keys: the keys of all items.
        hits: positions of the hits (n,).
        texts: returns the texts at some positions; None if the items are no texts.
        count: how many to choose.
    """
    drawn = np.random.default_rng().choice(hits, min(_DRAWN, len(hits)), replace=False)
    if texts is not None and len(hits) > len(drawn):
        lengths = np.fromiter(map(len, texts(hits)), np.int64, len(hits))
        drawn = np.append(drawn, [hits[lengths.argmax()], hits[lengths.argmin()]])
    drawn = drawn[first_of_each(keys[drawn]) == np.arange(len(drawn))]
    if len(drawn) <= count or texts is None:
        return np.sort(drawn[:count])
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


def _unconfirmed(path: Path, doubt: str, on_unconfirmed: OnUnconfirmed) -> None:
    """Warn that vectors are served although they were not confirmed, or raise.

    Raises:
        UnconfirmedError: ``on_unconfirmed`` is ``"raise"``.
    """
    if on_unconfirmed == "raise":
        remedy = 'on_unconfirmed="warn" serves them'
        raise UnconfirmedError(path, expected=_CONFIRMED, found=doubt, remedy=remedy)
    warn(
        path,
        expected=_CONFIRMED,
        found=doubt,
        remedy="they are served, since the model looks as it did",
    )
