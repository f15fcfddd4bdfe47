"""`dejavec search`: the nearest texts, by the model that made the vectors and no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from static_models import static_model
from terminal import on_terminal

from dejavec.cli.documents import schema_of
from dejavec.cli.main import main
from dejavec.cli.searching import Matches

pytest.importorskip("faiss")
pytestmark = pytest.mark.slow

TEXTS = [f"w{number} w{number + 1} w{number + 2}" for number in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A directory with a model, a file of texts, a cache that keeps them and one that does not."""
    place = tmp_path_factory.mktemp("search")
    model = static_model(place / "model")
    (place / "texts.txt").write_text("\n".join(TEXTS))
    words = [str(place / "texts.txt"), "--model", str(place / "model")]
    assert main(["fill", str(place / "kept"), *words, "--keep-texts"]) == 0
    assert main(["fill", str(place / "bare"), *words]) == 0
    return place, model


def words(place: Path, cache: str, *more: str) -> list[str]:
    return ["search", str(place / cache), TEXTS[30], "--model", str(place / "model"), "-k", "3", *more]


def test_a_search_shows_the_nearest_texts_of_the_cache(
    made: tuple[Path, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, model = made
    vectors = model.encode(TEXTS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [TEXTS[at] for at in np.argsort(-(vectors @ vectors[30]))[:3]]
    assert main(words(place, "kept", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema_of(Matches))
    assert [match["text"] for match in found["matches"]] == expected
    assert found["matches"][0]["distance"] == pytest.approx(1)
    status, screen = on_terminal(monkeypatch, lambda: main(words(place, "kept")), 40)
    assert status == 0
    assert screen.splitlines()[0].split() == ["distance", "row", "text"]
    assert max(map(len, screen.splitlines())) <= 40
    assert TEXTS[30] in screen.splitlines()[1]


def test_texts_and_positions_come_from_a_file_of_another_order(
    made: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("\n".join(["not cached", *reversed(TEXTS)]))
    assert main(words(made[0], "bare", "--json", "--texts", str(tmp_path / "other.txt"))) == 0
    first = json.loads(capsys.readouterr().out)["matches"][0]
    assert (first["text"], first["position"]) == (TEXTS[30], 30)
    assert main(words(made[0], "bare", "--json")) == 0
    first = json.loads(capsys.readouterr().out)["matches"][0]
    assert (first["row"], first["text"], first["position"]) == (30, None, None)


def test_another_model_is_refused(
    made: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    static_model(tmp_path / "model", seed=1)
    asked = words(made[0], "kept")
    asked[asked.index("--model") + 1] = str(tmp_path / "model")
    assert main(asked) == 1
    assert f"expected vectors of {tmp_path / 'model'}, found those of {made[0]}" in capsys.readouterr().err
    try:
        static_model(made[0] / "model", seed=1)
        assert main(words(made[0], "kept")) == 1
    finally:
        static_model(made[0] / "model")
    assert "@weights-" in capsys.readouterr().err
