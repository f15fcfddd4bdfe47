"""What every adapter promises, whatever its framework, and the table of that in the README.

The adapters of frameworks run it in ``make test-adapters``, those of sentence-transformers in ``make test``.
``make adapters-table`` runs both, and writes the table anew.
"""

from __future__ import annotations

import functools
import os
import pickle
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pages import ROOT
from toys import FAILING, RefusedError, given, same

from dejavec.errors import DejavecWarning

README = ROOT / "README.md"
TEXTS = ["once", "again", "", "Straße", "once", " once"]
YES, NO = "✓", "-"


class Subject(ABC):
    """A framework's object in the conformance suite. ``scale`` is a setting that changes vectors.

    Attributes:
        page: the row of its framework in the README: what it is called, and its page in ``docs``.
        refusal: what it raises if the model refuses a text.
        answers_in_parts: whether it embeds many texts in several steps, the first of which may succeed.
        pickles: whether the framework's own object does.
    """

    page: ClassVar[tuple[str, str]]
    refusal: type[Exception] = RefusedError
    answers_in_parts = True
    pickles = True

    @abstractmethod
    def plain(self, scale: float = 1.0) -> Any:
        """Return the framework's own object."""

    @abstractmethod
    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        """Return it with a cache."""

    @abstractmethod
    def documents(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of documents, as the framework returns them."""

    @abstractmethod
    def queries(self, embedder: Any, texts: list[str]) -> Any:
        """Return the vectors of queries."""


FOUND: dict[tuple[str, str], dict[str, set[str]]] = {}
"""For each row of the README and each promise: what the tests of this process found."""

PROMISES: list[str] = []
"""The promises, as the columns of the README call them."""


def promise(column: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Note what a test of a promise finds. A test that is skipped found that it does not apply."""
    if column not in PROMISES:
        PROMISES.append(column)

    def noting(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def noted(self: object, subject: Subject, tmp_path: Path) -> None:
            found = FOUND.setdefault(subject.page, {}).setdefault(column, set())
            try:
                test(self, subject, tmp_path)
            except BaseException as raised:
                found.add(NO if isinstance(raised, pytest.skip.Exception) else "failed")
                raise
            found.add(YES)

        return noted

    return noting


class Conformance:
    """The promises. A test file subclasses it, and has a fixture ``subject``."""

    @pytest.fixture(autouse=True)
    def _nothing_given(self) -> None:
        given()

    @promise("the same bits")
    def test_the_vectors_are_those_of_the_framework_to_the_bit(
        self, subject: Subject, tmp_path: Path
    ) -> None:
        plain, cached = subject.plain(), subject.cached(tmp_path)
        for embed in (subject.documents, subject.queries):
            expected = embed(plain, TEXTS)
            for _ in range(2):
                assert same(embed(cached, TEXTS), expected)
            assert same(embed(subject.cached(tmp_path), TEXTS[::-1]), expected[::-1])

    @promise("no second call")
    def test_the_second_run_asks_the_model_only_whether_the_vectors_are_its_own(
        self, subject: Subject, tmp_path: Path
    ) -> None:
        many = [f"text {number}" for number in range(100)]
        subject.documents(subject.cached(tmp_path), many)
        subject.queries(subject.cached(tmp_path), many)
        given()
        again = subject.cached(tmp_path)
        subject.documents(again, many)
        subject.queries(again, many)
        assert len(given()) <= 2 * 16
        subject.documents(again, many)
        subject.queries(again, many)
        assert given() == []

    @promise("no second call")
    def test_with_confirm_0_the_second_run_calls_the_model_never(
        self, subject: Subject, tmp_path: Path
    ) -> None:
        for _ in range(2):
            given()
            cached = subject.cached(tmp_path, confirm=0)
            subject.documents(cached, TEXTS)
            subject.queries(cached, TEXTS)
        assert given() == []

    @promise("roles apart")
    def test_queries_and_documents_never_share_a_vector(self, subject: Subject, tmp_path: Path) -> None:
        plain, cached = subject.plain(), subject.cached(tmp_path)
        documents, queries = subject.documents(cached, ["once"]), subject.queries(cached, ["once"])
        assert same(documents, subject.documents(plain, ["once"]))
        assert same(queries, subject.queries(plain, ["once"]))
        assert not same(documents, queries)

    @promise("duplicates once")
    def test_equal_texts_are_embedded_once(self, subject: Subject, tmp_path: Path) -> None:
        subject.documents(subject.cached(tmp_path), ["once", "again", "once", "once"])
        assert sorted(given()) == ["again", "once"]

    @promise("a failure keeps the rest")
    def test_what_was_embedded_before_a_failure_is_kept(self, subject: Subject, tmp_path: Path) -> None:
        many = [f"text {number}" for number in range(40)]
        cached = subject.cached(tmp_path, confirm=0)
        with pytest.raises(subject.refusal):
            subject.documents(cached, [*many, FAILING])
        given()
        subject.documents(cached, many)
        assert len(given()) == (8 if subject.answers_in_parts else 40)
        with pytest.raises(subject.refusal):
            subject.documents(cached, [*many, FAILING])
        given()
        subject.documents(cached, many)
        assert given() == []

    @promise("another model noticed")
    def test_another_model_never_gets_the_vectors_of_the_first(
        self, subject: Subject, tmp_path: Path
    ) -> None:
        subject.documents(subject.cached(tmp_path), TEXTS)
        other = subject.cached(tmp_path, scale=2.0)
        with warnings.catch_warnings():
            # It may say that these vectors go to another directory.
            warnings.simplefilter("ignore", DejavecWarning)
            found = subject.documents(other, TEXTS)
        assert same(found, subject.documents(subject.plain(2.0), TEXTS))
        again = subject.documents(subject.cached(tmp_path), TEXTS)
        assert same(again, subject.documents(subject.plain(), TEXTS))

    @promise("pickles")
    def test_it_pickles_as_the_original_and_the_path(self, subject: Subject, tmp_path: Path) -> None:
        if not subject.pickles:
            with pytest.raises(TypeError):
                pickle.dumps(subject.plain())
            pytest.skip("nor does the original")
        cached = subject.cached(tmp_path, confirm=0)
        expected = subject.documents(cached, TEXTS)
        copy = pickle.loads(pickle.dumps(cached))
        given()
        assert same(subject.documents(copy, TEXTS), expected)
        assert given() == []

    @promise("threads")
    def test_it_works_from_threads(self, subject: Subject, tmp_path: Path) -> None:
        many = [f"text {number}" for number in range(50)]
        cached = subject.cached(tmp_path)
        expected = subject.documents(subject.plain(), many)
        given()
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: subject.documents(cached, many), range(16)))
        assert all(same(one, expected) for one in found)
        assert sorted(given()) == sorted(many)

    def test_the_readme_says_what_was_found(self, subject: Subject) -> None:
        found = FOUND.get(subject.page, {})
        if set(found) != set(PROMISES):
            pytest.skip("some of the promises were not tested")
        before, table, after = _parts(README.read_text())
        # A framework has several subjects: all of them keep a promise, or it is not made.
        row = [_name(subject.page), *(YES if found[column] == {YES} else NO for column in PROMISES)]
        if "WRITE_TABLE" in os.environ:
            rows = {line.split(" | ")[0]: line for line in table[2:]} | {f"| {row[0]}": _line(row)}
            lines = [_line(["", *PROMISES]), _line(["---"] * (1 + len(PROMISES))), *sorted(rows.values())]
            README.write_text("\n".join([*before, *lines, *after]))
        else:
            assert table[0] == _line(["", *PROMISES]), "run `make adapters-table`"
            assert _line(row) in table, "run `make adapters-table`"


def frameworks_in_the_readme() -> list[str]:
    """The rows of the table, without what was found."""
    return [line.split(" | ")[0].removeprefix("| ") for line in _parts(README.read_text())[1][2:]]


def _parts(text: str) -> tuple[list[str], list[str], list[str]]:
    """The lines before the table, of the table, and after it."""
    lines = text.split("\n")
    start = next(at for at, line in enumerate(lines) if line.startswith("| |") and PROMISES[0] in line)
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    return lines[:start], lines[start:end], lines[end:]


def _name(page: tuple[str, str]) -> str:
    return f"[{page[0]}](docs/{page[1]})"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")
