"""What every adapter promises, whatever its framework: see ``make test-adapters``."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from subjects import SUBJECTS, Subject
from toys import FAILING, given, same

from dejavec.errors import DejavecWarning

TEXTS = ["once", "again", "", "Straße", "once", " once"]


@pytest.fixture(params=SUBJECTS, ids=lambda subject: type(subject).__name__)
def subject(request: pytest.FixtureRequest) -> Subject:
    given()
    found: Subject = request.param
    return found


def test_the_vectors_are_those_of_the_framework_to_the_bit(subject: Subject, tmp_path: Path) -> None:
    plain, cached = subject.plain(), subject.cached(tmp_path)
    for embed in (subject.documents, subject.queries):
        expected = embed(plain, TEXTS)
        for _ in range(2):
            assert same(embed(cached, TEXTS), expected)
        assert same(embed(subject.cached(tmp_path), TEXTS[::-1]), expected[::-1])


def test_the_second_run_asks_the_model_only_whether_the_vectors_are_its_own(
    subject: Subject, tmp_path: Path
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


def test_with_confirm_0_the_second_run_calls_the_model_never(subject: Subject, tmp_path: Path) -> None:
    for _ in range(2):
        given()
        cached = subject.cached(tmp_path, confirm=0)
        subject.documents(cached, TEXTS)
        subject.queries(cached, TEXTS)
    assert given() == []


def test_queries_and_documents_never_share_a_vector(subject: Subject, tmp_path: Path) -> None:
    plain, cached = subject.plain(), subject.cached(tmp_path)
    documents, queries = subject.documents(cached, ["once"]), subject.queries(cached, ["once"])
    assert same(documents, subject.documents(plain, ["once"]))
    assert same(queries, subject.queries(plain, ["once"]))
    assert not same(documents, queries)


def test_equal_texts_are_embedded_once(subject: Subject, tmp_path: Path) -> None:
    subject.documents(subject.cached(tmp_path), ["once", "again", "once", "once"])
    assert sorted(given()) == ["again", "once"]


def test_what_was_embedded_before_a_failure_is_kept(subject: Subject, tmp_path: Path) -> None:
    many = [f"text {number}" for number in range(40)]
    cached = subject.cached(tmp_path, confirm=0)
    with pytest.raises(subject.refusal):
        subject.documents(cached, [*many, FAILING])
    given()
    subject.documents(cached, many[:32])
    assert given() == ([] if subject.answers_in_parts else many[:32])
    with pytest.raises(subject.refusal):
        subject.documents(cached, [*many, FAILING])
    given()
    subject.documents(cached, many[:32])
    assert given() == []


def test_another_model_never_gets_the_vectors_of_the_first(subject: Subject, tmp_path: Path) -> None:
    subject.documents(subject.cached(tmp_path), TEXTS)
    other = subject.cached(tmp_path, scale=2.0)
    with warnings.catch_warnings():
        # It may say that these vectors go to another directory.
        warnings.simplefilter("ignore", DejavecWarning)
        found = subject.documents(other, TEXTS)
    assert same(found, subject.documents(subject.plain(2.0), TEXTS))
    assert same(subject.documents(subject.cached(tmp_path), TEXTS), subject.documents(subject.plain(), TEXTS))


def test_it_pickles_as_the_original_and_the_path(subject: Subject, tmp_path: Path) -> None:
    if not subject.pickles:
        with pytest.raises(TypeError):
            pickle.dumps(subject.plain())
        return
    cached = subject.cached(tmp_path, confirm=0)
    expected = subject.documents(cached, TEXTS)
    copy = pickle.loads(pickle.dumps(cached))
    given()
    assert same(subject.documents(copy, TEXTS), expected)
    assert given() == []


def test_it_works_from_threads(subject: Subject, tmp_path: Path) -> None:
    many = [f"text {number}" for number in range(50)]
    cached = subject.cached(tmp_path)
    expected = subject.documents(subject.plain(), many)
    given()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: subject.documents(cached, many), range(16)))
    assert all(same(one, expected) for one in found)
    assert sorted(given()) == sorted(many)
