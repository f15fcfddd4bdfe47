"""Any sequence of calls on two objects of one cache gives what a dict gives.

``DEJAVEC_CALL_EXAMPLES`` is how many sequences are tried for each container.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dejavec import EmbeddingCache
from dejavec.fill.vector_store import Seen
from dejavec.keys.items import text_keys
from dejavec.vectors.arrays import to_rows

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("DEJAVEC_CALL_EXAMPLES", "12"))

HANDLES = st.integers(0, 1)
VERSIONS = st.integers(0, 2)
ITEMS = st.lists(st.integers(0, 15), min_size=1, max_size=8)
DIFFERENT = st.lists(st.integers(0, 15), min_size=1, max_size=8, unique=True)
CONFLICTS = st.sampled_from(["first", "last"])


def texts_of(items: list[int]) -> list[str]:
    return [f"text {item} " + "é" * (item % 3) for item in items]


def vector(container: str, item: int, version: int) -> Any:
    """A vector that only this item in this version has. An item of tokens has none in one version."""
    random = np.random.default_rng([item, version])
    if container == "ragged":
        return random.standard_normal(((item + version) % 4, 4), np.float32)
    numbers = random.standard_normal(4).astype(np.float32)
    if container == "sparse":
        numbers[1:][random.random(3) < 0.5] = 0
    return numbers


def vectors(container: str, items: list[int], version: int) -> Any:
    made = [vector(container, item, version) for item in items]
    if container == "ragged":
        return made
    matrix = np.array(made, np.float32).reshape(-1, 4)
    return scipy.sparse.csr_array(matrix) if container == "sparse" else matrix


def as_bytes(found: Any) -> list[bytes]:
    return [part.tobytes() for part in (found.toarray() if scipy.sparse.issparse(found) else found)]


class Calls(RuleBasedStateMachine):
    """Two objects of one cache, and what they must hold.

    Attributes:
        versions: the version of each item that is stored, in the order of the rows.
        stamps: a number for each item that changes when it gets another row.
        kept: the items whose text is kept.
    """

    container: Any

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="dejavec-calls-"))
        self.handles = [self.opened(0), self.opened(1)]
        self.versions: dict[int, int] = {}
        self.stamps: dict[int, int] = {}
        self.kept: set[int] = set()
        self.count = 0
        self.looked: tuple[list[int], Seen, dict[int, int]] | None = None

    def teardown(self) -> None:
        for handle in self.handles:
            handle.close()
        if self.count:
            with EmbeddingCache(self.directory / "cache", mode="r") as cache:
                report = cache.verify()
                assert report["keys"] == len(self.versions)
                assert not report["damaged"]
                assert not report["problems"]
                assert not report["damaged_texts"]
                self.compare(cache, list(range(16)))
        shutil.rmtree(self.directory)

    def opened(self, handle: int) -> EmbeddingCache:
        return EmbeddingCache(
            self.directory / "cache",
            model="toy@1",
            container=self.container,
            keep_texts=handle == 1,
            durability="commit" if handle == 1 else "close",
            chunk_rows=3,
        )

    def stored(self, item: int, version: int, *, text: bool) -> None:
        """Note a new row."""
        self.count += 1
        self.versions.pop(item, None)
        self.versions[item] = version
        self.stamps[item] = self.count
        (self.kept.add if text else self.kept.discard)(item)

    def gone(self, item: int) -> None:
        self.kept.discard(item)
        del self.versions[item], self.stamps[item]

    def compare(self, cache: EmbeddingCache, items: list[int]) -> None:
        found, got = cache.get(texts_of(items))
        assert found.tolist() == [item in self.versions for item in items]
        if len(cache) == 0:
            return
        expected = [
            vector(self.container, item, self.versions[item]).tobytes() if item in self.versions else None
            for item in items
        ]
        assert [part if known else None for part, known in zip(as_bytes(got), found, strict=True)] == expected
        rows = cache._store.lookup(text_keys(texts_of(items)))
        kept = [
            text if item in self.kept else None for item, text in zip(items, texts_of(items), strict=True)
        ]
        assert cache.texts(rows).to_pylist() == kept

    @rule(handle=HANDLES, items=ITEMS, version=VERSIONS)
    def put(self, handle: int, items: list[int], version: int) -> None:
        new = [item for item in dict.fromkeys(items[::-1]) if self.versions.get(item) != version][::-1]
        self.handles[handle].put(texts_of(items), vectors(self.container, items, version))
        for item in new:
            self.stored(item, version, text=handle == 1)

    @rule(handle=HANDLES, items=ITEMS, version=VERSIONS)
    def encode(self, handle: int, items: list[int], version: int) -> None:
        by_text = {text: item for item, text in zip(items, texts_of(items), strict=True)}

        def embed(texts: list[str]) -> Any:
            return vectors(self.container, [by_text[text] for text in texts], version)

        found = self.handles[handle].encode(texts_of(items), embed)
        for item in dict.fromkeys(items):
            if item not in self.versions:
                self.stored(item, version, text=handle == 1)
        assert as_bytes(found) == [
            vector(self.container, item, self.versions[item]).tobytes() for item in items
        ]

    @rule(handle=HANDLES, items=DIFFERENT)
    def look(self, handle: int, items: list[int]) -> None:
        store = self.handles[handle]._store
        numbering = store.numbering
        seen = Seen(store.lookup(text_keys(texts_of(items))), numbering)
        self.looked = items, seen, {item: self.stamps[item] for item in items if item in self.stamps}

    @precondition(lambda self: self.looked is not None)
    @rule(handle=HANDLES, version=VERSIONS)
    def append_what_was_looked_for(self, handle: int, version: int) -> None:
        assert self.looked is not None
        items, seen, stamps = self.looked
        rows, output = to_rows(vectors(self.container, items, version), None, "the vectors")
        store = self.handles[handle]._store
        appended = store.append(text_keys(texts_of(items)), rows, output, seen)
        if appended is None:
            assert store.numbering != seen.numbering
            assert (seen.rows >= 0).any()
            return
        new = [item for item in items if self.stamps.get(item) in (None, stamps.get(item))]
        assert appended == len(new)
        for item in new:
            self.stored(item, version, text=False)

    @rule(handle=HANDLES, items=ITEMS)
    def delete(self, handle: int, items: list[int]) -> None:
        known = {item for item in items if item in self.versions}
        assert self.handles[handle].delete(texts_of(items)) == len(known)
        for item in known:
            self.gone(item)

    @rule(handle=HANDLES)
    def compact(self, handle: int) -> None:
        self.handles[handle].compact()
        stats = self.handles[handle].stats()
        assert (stats["rows"], stats["reclaimable_rows"]) == (len(self.versions), 0)

    @rule(handle=HANDLES, newest=st.integers(0, 16), keep=ITEMS)
    def prune(self, handle: int, newest: int, keep: list[int]) -> None:
        oldest = list(self.versions)[: max(len(self.versions) - newest, 0)]
        dropped = [item for item in oldest if item not in keep]
        assert self.handles[handle].prune(drop_older_than=newest, keep=texts_of(keep)) == len(dropped)
        for item in dropped:
            self.gone(item)

    @rule(handle=HANDLES, items=DIFFERENT, version=VERSIONS, on_conflict=CONFLICTS)
    def merge(self, handle: int, items: list[int], version: int, on_conflict: Any) -> None:
        target = self.handles[handle]
        target.refresh()
        text = handle == 1 or target._store.has_texts()
        with EmbeddingCache(
            self.directory / "other", model="toy@1", container=self.container, keep_texts=True
        ) as other:
            other.put(texts_of(items), vectors(self.container, items, version))
            outcome = target.merge(other, on_conflict=on_conflict)
        shutil.rmtree(self.directory / "other", ignore_errors=True)
        added = [item for item in items if item not in self.versions]
        different = [item for item in items if self.versions.get(item, version) != version]
        assert (outcome.added, outcome.conflict_texts) == (len(added), texts_of(different))
        assert outcome.equal == len(items) - len(added) - len(different)
        for item in items:
            if item in added or (item in different and on_conflict == "last"):
                self.stored(item, version, text=text)
            elif item not in different and text:
                self.kept.add(item)

    @rule(handle=HANDLES)
    def reopen(self, handle: int) -> None:
        self.handles[handle].close()
        self.handles[handle] = self.opened(handle)

    @rule(handle=HANDLES, items=ITEMS)
    def get(self, handle: int, items: list[int]) -> None:
        self.compare(self.handles[handle], items)

    @invariant()
    def lengths_are_those_of_the_dict(self) -> None:
        assert [len(handle) for handle in self.handles] == [len(self.versions)] * 2


@pytest.mark.parametrize("container", ["npy", "ragged", "sparse"])
def test_any_calls_give_what_a_dict_gives(container: str) -> None:
    machine = type("CallsOf" + container, (Calls,), {"container": container})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
