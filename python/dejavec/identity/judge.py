"""Decide whether the vectors of a directory are a model's, by proofs or by asking the model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dejavec.fill.vector_store import Positions, VectorStore
from dejavec.identity.claiming import ClaimLostError, StoreOfModel
from dejavec.identity.confirm import Confirming, ask_about, choose, items_to_ask
from dejavec.identity.observed import Description, Look
from dejavec.identity.proven import Proofs
from dejavec.keys.items import Keys
from dejavec.vectors.ragged import Rows


class ProvenStore(VectorStore, Protocol):
    """A store that records which models make its vectors."""

    @property
    def proofs(self) -> Proofs:
        """The proven descriptions."""


@dataclass(frozen=True)
class Subject:
    """A model and the items of one call.

    Attributes:
        look: the look at the model.
        keys: the keys of the items (n, 32).
        texts: returns the texts at some positions; None if the items are no texts.
        encode: returns the model's vectors (k, dim) of the items at some positions; None if they cannot be
            compared with the cached ones.
        most: how many items the model takes at a time.
        is_built: whether the model is built.
        ready: builds the model if it is not built yet.
    """

    look: Look
    keys: Keys
    texts: Callable[[Positions], Sequence[str]] | None
    encode: Callable[[Positions], Rows | None]
    most: int
    is_built: bool = True
    ready: Callable[[], object] = bool


@dataclass(frozen=True)
class Verdict:
    """The outcome of a judgement.

    Attributes:
        refused: why the vectors are not served, as a message says it; None if they are the model's.
        hits: positions of the items that are stored in the directory.
        asked: how many items the model encoded for the comparison.
        is_open: whether there was nothing to compare, so that it is unknown which model made the vectors.
    """

    refused: str | None
    hits: Positions
    asked: int = 0
    is_open: bool = False


class Judge:
    """Decides whether vectors are a model's, and remembers the answers for this process.

    Args:
        confirming: how models are asked. With 0 items, only proven descriptions are served.
    """

    def __init__(self, confirming: Confirming) -> None:
        self._confirming = confirming
        self._answers: dict[tuple[Hashable, Description], str | None] = {}
        """Why the vectors at a place are not from the model with a description; None if they are."""
        self._own: dict[tuple[Hashable, Description], set[bytes]] = {}
        """The keys that a model stored at a place before it was asked."""

    def agreed(self, place: Hashable, description: Description) -> bool:
        """Return whether the vectors at a place are known to be this description's."""
        return self._answers.get((place, description), "unknown") is None

    def judge(
        self, place: Hashable, store: VectorStore, proofs: Proofs, subject: Subject, among: Positions
    ) -> Verdict:
        """Find out whether the vectors of a directory are the model's.

        Args:
            place: identifies the directory in this process.
            store: the vectors.
            proofs: the proven descriptions of the directory.
            subject: the model, and the call.
            among: positions of the items to look up.

        Raises:
            UnconfirmedError: see :func:`dejavec.identity.confirm.ask_about`.
            Exception: the model's own exception, if it fails when asked about unproven vectors.
        """
        description, confirming = subject.look.description, self._confirming
        hits = among[store.lookup(subject.keys[among]) >= 0]
        key, mixed = (place, description), proofs.is_mixed()
        if key in self._answers and not mixed:
            return Verdict(self._answers[key], hits)
        known = proofs.read()
        proven = description in known
        if proven and not mixed and (subject.look.visible or not confirming.items):
            self._answers[key] = None
            return Verdict(None, hits)
        if proven and not subject.is_built:
            return Verdict(None, hits)  # Not remembered, so the model is asked once it is built.
        others = self._of_others(key, subject.keys, hits)
        if not len(others):
            if proven:
                self.note_own(place, description, subject.keys[np.setdiff1d(among, hits)])
            return Verdict(None if proven else "some that nothing shows to be its own", hits, is_open=True)
        # Asking for 16 items would miss some changes of a tokenizer.
        tokenizers = {other.tokenizer for other in known if other.versions == description.versions}
        if description.tokenizer and tokenizers and tokenizers.isdisjoint({None, description.tokenizer}):
            return Verdict("those of another tokenizer", hits)
        if not confirming.items:
            return Verdict("some that were not confirmed, as confirm=0 says", hits)
        subject.ready()
        count = items_to_ask(known, description, confirming.items)
        chosen = choose(subject.keys, others, subject.texts, min(count, subject.most))
        answer = ask_about(
            store,
            subject.keys,
            chosen,
            subject.encode,
            look=subject.look,
            known=known,
            confirming=confirming,
        )
        self._answers[key] = None if answer.agrees else f"others: {answer.said}"
        if answer.agrees:
            proofs.add(description)
        return Verdict(self._answers[key], hits, answer.asked)

    def note_own(self, place: Hashable, description: Description, keys: Keys) -> None:
        """Record the keys (k, 32) that a model is about to store before it was asked.

        Answers about these keys are no evidence about the older vectors.
        """
        self._own.setdefault((place, description), set()).update(map(bytes, keys))

    def claiming(
        self, place: Hashable, store: VectorStore, proofs: Proofs, description: Description
    ) -> VectorStore:
        """Return an empty store. This description claims it when the first vectors are stored."""

        def claim() -> None:
            if not proofs.claim(description, empty=store.refresh() == 0):
                raise ClaimLostError
            self._answers[place, description] = None

        return StoreOfModel(store, description, claim)

    def _of_others(self, key: tuple[Hashable, Description], keys: Keys, hits: Positions) -> Positions:
        """Return the hits, without the keys that this model stored before it was asked."""
        own = self._own.get(key)
        if own is None:
            return hits
        return np.array([at for at in hits if bytes(keys[at]) not in own], np.intp)
