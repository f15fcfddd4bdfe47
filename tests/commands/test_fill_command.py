"""``dejavec fill``: encodes what is missing with a real model, resumes, and never mixes models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from static_models import static_model
from terminal import on_terminal

from dejavec import EmbeddingCache
from dejavec.cli import fill
from dejavec.cli.main import main
from dejavec.serving import named_model

pytestmark = pytest.mark.slow

TEXTS = [f"w{number} w{number + 1}" for number in range(150)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("model")
    return directory, static_model(directory)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in [*TEXTS, TEXTS[0]]))
    return path


def words(cache: Path, file: Path, model: tuple[Path, Any], *more: str) -> list[str]:
    return ["fill", str(cache), str(file), "--model", str(model[0]), "--column", "body", *more]


def test_a_fill_stores_what_the_model_returns_and_the_next_one_does_not_load_it(
    tmp_path: Path,
    file: Path,
    model: tuple[Path, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fill, "_FIRST", 8)
    assert main(words(tmp_path / "cache", file, model, "--dry-run", "--json")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["plan"]["misses"], planned["encoded"]) == (150, 0)
    assert not (tmp_path / "cache").exists()

    assert main(words(tmp_path / "cache", file, model, "--keep-texts", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["encoded"] == 150
    with EmbeddingCache(tmp_path / "cache", mode="r") as cache:
        assert str(cache.model).startswith(f"{model[0]}@weights-")
        found, vectors = cache.get(TEXTS)
        assert found.all()
        assert np.allclose(vectors, model[1].encode(TEXTS), atol=1e-6)
        assert cache.texts().to_pylist() == TEXTS

    monkeypatch.setattr(named_model, "package", lambda *args, **named: pytest.fail("the model was loaded"))
    assert main(words(tmp_path / "cache", file, model)) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_an_interrupted_fill_keeps_what_it_committed_and_goes_on(
    tmp_path: Path,
    file: Path,
    model: tuple[Path, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fill, "_FIRST", 8)
    encode, calls = SentenceTransformer.encode, []

    def interrupted(self: Any, texts: list[str], **settings: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, texts, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(SentenceTransformer, "encode", interrupted)
        status, screen = on_terminal(patched, lambda: main(words(tmp_path / "cache", file, model)))
    assert status == 130
    assert "all but the texts of the last seconds are kept" in screen
    assert " of 150" in screen
    kept = len(EmbeddingCache(tmp_path / "cache", mode="r"))
    assert kept == sum(calls[:2]) > 0
    assert main(words(tmp_path / "cache", file, model, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["encoded"] == 150 - kept


def test_another_model_or_prompt_adds_nothing(
    tmp_path: Path, file: Path, model: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "cache", file, model)) == 0
    other = tmp_path / "other"
    static_model(other, seed=1)
    assert main(words(tmp_path / "cache", file, (other, None))) == 1
    assert "expected model" in capsys.readouterr().err
    assert main(words(tmp_path / "cache", file, model, "--prompt", "w9 ")) == 1
    assert 'expected prompt "w9 "' in capsys.readouterr().err
    # The same directory with other weights.
    static_model(model[0], seed=2)
    try:
        file.write_text(file.read_text() + json.dumps({"body": "w1 w2 w3"}) + "\n")
        status = main(words(tmp_path / "cache", file, model))
    finally:
        static_model(model[0])
    assert status == 1
    assert "expected model" in (said := capsys.readouterr().err), said
    assert len(EmbeddingCache(tmp_path / "cache", mode="r")) == 150


def test_a_model_whose_pooling_changed_is_asked_and_adds_nothing(
    tmp_path: Path,
    file: Path,
    model: tuple[Path, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(words(tmp_path / "cache", file, model)) == 0
    file.write_text(file.read_text() + json.dumps({"body": "w1 w2 w3"}) + "\n")
    encode = SentenceTransformer.encode
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *args, **named: encode(*args, **named) * 2)
    assert main(words(tmp_path / "cache", file, model)) == 1
    assert "expected vectors that this function makes" in (said := capsys.readouterr().err), said
    assert len(EmbeddingCache(tmp_path / "cache", mode="r")) == 150


def test_a_model_that_does_not_load_is_one_sentence(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    assert main(words(tmp_path / "cache", file, (tmp_path / "none", None))) == 1
    assert "dejavec: --model: expected a model that sentence-transformers loads" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
