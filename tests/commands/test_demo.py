"""``dejavec demo`` does its job on real input, small here, and says when a promise does not hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import mteb
import numpy as np
import pytest
from mteb.mocks.mock_tasks import MockRetrievalTask
from warm_processes import run_python

from dejavec.cli import main as cli
from dejavec.cli.demo import Demonstration
from dejavec.cli.documents import schema_of
from dejavec.demo import evaluate as demo
from dejavec.demo.corpus import read_corpus

pytestmark = pytest.mark.slow

SMALL = ["--documents", "24", "--queries", "8"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets these for its process, which is ours here."""
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TQDM_DISABLE"):
        monkeypatch.setenv(variable, "1")


def rows(report: str) -> dict[str, dict[str, str]]:
    """The table of a report: label -> heading -> cell. A cell that is empty for one run is "-"."""
    lines = report.splitlines()
    start = next(place for place, line in enumerate(lines) if line.split()[:1] == ["score"])
    headings = re.split(r"\s{2,}", lines[start].strip())
    ends = [lines[start].index(heading) + len(heading) for heading in headings]
    found = {}
    for line in lines[start + 1 :]:
        if not line:
            break
        label = re.split(r"\s{2,}", line)[0]
        begins = [len(label), *ends[:-1]]
        found[label] = {
            heading: line[begin:end].strip()
            for heading, begin, end in zip(headings, begins, ends, strict=True)
        }
    return found


def test_demo_runs_and_the_next_one_finds_its_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    status, first, messages = run_python("-m", "dejavec", "demo", "--cache", str(cache), *SMALL)
    assert status == 0, first + messages
    table = rows(first)
    assert list(table) == ["uncached", "cold", "warm"]
    for column in ("score", "raw scores", "vectors"):
        assert len({run[column] for run in table.values()}) == 1
    assert [run["encoded"] for run in table.values()] == ["32", "32", "0"]
    assert (table["cold"]["hits"], table["cold"]["misses"], table["cold"]["duplicates"]) == ("0", "32", "0")
    assert (table["warm"]["hits"], table["warm"]["misses"], table["warm"]["duplicates"]) == ("32", "0", "0")
    assert table["cold"]["on disk"] == table["warm"]["on disk"] == "32"
    assert "times faster" in first

    assert cli.main(["demo", "--cache", str(cache), "--compare", *SMALL]) == 0
    second = capsys.readouterr().out
    assert "32 rows from before" in second
    again = rows(second)
    assert list(again) == ["uncached", "found warm", "warm", "mteb's cold", "mteb's warm"]
    assert again["found warm"]["encoded"] == "0"
    assert again["found warm"]["raw scores"] == table["cold"]["raw scores"]


@pytest.mark.filterwarnings("default::dejavec.DejavecWarning")  # the model has neither weights nor a commit
def test_demo_takes_any_task_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No registered task can be loaded without a network, so the name stands for one that can.
    monkeypatch.setattr(mteb, "get_task", lambda name: {"Any": MockRetrievalTask}[name]())
    arguments = ["demo", "--cache", str(tmp_path), "--task", "Any", "--model", "mteb/baseline-random-encoder"]
    assert cli.main([*arguments, "--json"]) == 0
    printed, report = capsys.readouterr()
    document = json.loads(printed)
    jsonschema.validate(document, schema_of(Demonstration))
    assert document["held"]
    table = rows(report)
    assert list(table) == [run["label"] for run in document["runs"]] == ["uncached", "cold", "warm"]
    assert "raw scores" not in table["warm"]
    assert table["warm"]["vectors"] == table["uncached"]["vectors"]
    assert table["warm"]["encoded"] == "0"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rows_encoded": 3}, "the warm run encoded 3 rows"),
        ({"vectors_digest": "b"}, "the two cached runs differ"),
        ({"score": 0.2}, "the cached runs differ from the uncached one"),
    ],
)
def test_demo_fails_when_a_promise_does_not_hold(changed: dict[str, Any], expected: str) -> None:
    uncached = demo.Run("uncached", 0.5, "a", "a", 2.0, 1.0, 80)
    cold = demo.Run("cold", 0.5, "a", "a", 2.0, 1.0, 80, 0, 80, 0, 80)
    warm = demo.Run("warm", 0.5, "a", "a", 0.2, 0.1, 0, 80, 0, 0, 80)
    said: list[str] = []
    assert demo.verdict([uncached, cold, warm], [], demo.Options(), said.append) == 0
    assert demo.verdict([uncached, cold, replace(warm, **changed)], [], demo.Options(), said.append) == 1
    assert any(line.startswith("FAILED") and expected in line for line in said)


def test_rows_on_disk_are_counted_with_numpy_alone(tmp_path: Path) -> None:
    assert demo.rows_on_disk(tmp_path / "absent") == 0
    for name, count in (("a", 2), ("b/c", 3)):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "vectors.npy", np.zeros((count, 4)))
    assert demo.rows_on_disk(tmp_path) == 5


def test_the_corpus_is_there_on_every_python() -> None:
    corpus = read_corpus(3000, 1000)
    assert (len(corpus.documents), len(corpus.queries)) == (3000, 1000)
    assert len({document.title for document in corpus.documents}) == 3000
    assert len({document.first_line for document in corpus.queries}) == 1000
    assert set(corpus.queries) <= set(corpus.documents)
    assert min(len(document.body.split()) for document in corpus.documents) >= 10
    assert min(len(document.first_line.split()) for document in corpus.queries) >= 5


def test_the_corpus_is_read_without_importing_anything(tmp_path: Path) -> None:
    body = "one two three four five six seven eight nine ten"
    (tmp_path / "package" / "test").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text(
        f'"""A package with words enough.\n\n{body}\n"""\n'
        "raise SystemExit\n"
        f'if True:\n    def nested():\n        """Too short.\n\n        {body} eleven\n        """\n'
    )
    (tmp_path / "package" / "test" / "test_it.py").write_text(f'"""Not part of the library.\n\n{body}\n"""\n')
    (tmp_path / "broken.py").write_text(f'"""A file that does not parse.\n\n{body}\n"""\ndef (:\n')
    corpus = read_corpus(10, 10, tmp_path)
    assert [document.title for document in corpus.documents] == ["package", "package.nested"]
    assert [document.body for document in corpus.documents] == [body, f"{body} eleven"]
    assert [document.title for document in corpus.queries] == ["package"]


@pytest.mark.parametrize(
    "arguments", [[], ["demo", "--documents", "0"], ["demo", "--queries", "many"], ["nonsense"]]
)
def test_a_wrong_call_is_answered_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert "Usage: dejavec" in capsys.readouterr().err
