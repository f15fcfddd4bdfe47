"""`dejavec push`, `pull` and `ls URL`: what they say is what they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from comparing import files_below
from shared_rows import TEXTS, filled, stored, values, vectors
from terminal import on_terminal

from dejavec import EmbeddingCache
from dejavec.cli.documents import schema_of
from dejavec.cli.ls import Listing
from dejavec.cli.main import main
from dejavec.cli.pulling import Pull
from dejavec.cli.pushing import Push


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    filled(tmp_path / "mine", prompt="query: ", role="query").close()
    return tmp_path / "mine"


def said(capsys: pytest.CaptureFixture[str], document: type) -> Any:
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema_of(document))
    return found


def test_a_cache_goes_there_and_back(mine: Path, team: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(mine.parent)
    assert main(["push", str(mine), team, "--dry-run", "--json"]) == 0
    assert said(capsys, Push)["rows"] == 120
    assert files_below(mine.parent) == before
    assert main(["push", str(mine), team]) == 0
    assert f"{team}: 120 vectors written" in capsys.readouterr().out
    assert main(["push", str(mine), team]) == 0
    assert "120 were there already" in capsys.readouterr().out

    yours = mine.parent / "yours"
    before = files_below(mine.parent)
    assert main(["pull", team, str(yours), "--dry-run", "--json"]) == 0
    assert said(capsys, Pull)["rows"] == 120
    assert files_below(mine.parent) == before
    assert main(["pull", team, str(yours)]) == 0
    assert f"{yours}: 120 vectors taken, 1.4 kB" in capsys.readouterr().out
    with EmbeddingCache(yours, mode="r") as opened:
        assert stored(opened) == values(vectors("npy", TEXTS))
    assert main(["pull", team, str(yours), "--json"]) == 0
    assert (said(capsys, Pull)["there"]) == 120
    assert main(["ls", str(mine.parent), "--json"]) == 0
    assert len(said(capsys, Listing)["caches"]) == 2
    assert main(["rm", str(yours), "--yes"]) == 0
    assert not yours.exists()


def test_keys_alone_are_indexed(mine: Path, team: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(mine), team]) == 0
    assert main(["pull", team, str(mine.parent / "yours"), "--vectors", "on-demand"]) == 0
    assert "120 keys indexed" in capsys.readouterr().out


def test_a_listing_says_what_is_shared(mine: Path, team: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(mine), team]) == 0
    capsys.readouterr()
    (mine.parent / "team" / "notes.txt").write_text("hello")
    assert main(["ls", team, "--json"]) == 0
    found = said(capsys, Listing)
    (one,) = found["shared"]
    assert (one["model"], one["role"], one["prompt"], one["rows"]) == ("m@1", "query", "query: ", 120)
    assert [skip["name"] for skip in found["skipped"]] == ["notes.txt"]
    assert main(["ls", team]) == 0
    shown = capsys.readouterr().out
    assert "m@1" in shown
    assert "1 shared, 120 rows" in shown
    assert "  skipped notes.txt: foreign" in shown
    (mine.parent / "team" / "notes\x1b[31m.txt").write_text("hello")
    assert main(["ls", team]) == 1
    said_at_last = capsys.readouterr().err
    assert "could not be listed" in said_at_last
    assert "\x1b" not in said_at_last


def test_a_wrong_address_is_a_wrong_call(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["push", str(mine)], ["ls"]):
        assert main([*words, "s3://key:secret@bucket/x"]) == 2
        said = capsys.readouterr()
        assert "without credentials" in said.err
        assert "secret" not in said.err + said.out
    assert main(["pull", f"file://{mine}/none", str(mine)]) == 1
    assert "expected a directory, found none" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["push", "ls", "pull"])
def test_a_terminal_of_80_columns_is_enough(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "mine", prompt="Represent this sentence: ", role="document").push("memory://screens")
    words = {"push": ["push", "mine"], "ls": ["ls"], "pull": ["pull"]}[verb] + ["memory://screens"]
    status, shown = on_terminal(monkeypatch, lambda: main([*words, *(["yours"] if verb == "pull" else [])]))
    assert status == 0
    assert shown
    assert max(map(len, shown.splitlines())) <= 80
