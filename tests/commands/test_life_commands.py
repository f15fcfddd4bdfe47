"""`dejavec rm`, `prune` and `compact`: what was asked to go is gone, and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from comparing import files_below
from terminal import on_terminal

from dejavec import EmbeddingCache
from dejavec.cli.compact import Compacted
from dejavec.cli.documents import schema_of
from dejavec.cli.main import main
from dejavec.cli.prune import Pruned
from dejavec.cli.rm import Removed

TEXTS = [f"a text of some length, number {number}" for number in range(50)]
VECTORS = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    with EmbeddingCache(tmp_path / "cache", model="toy@1", role="query", keep_texts=True) as cache:
        cache.put(TEXTS, VECTORS)
    (tmp_path / "gone.txt").write_text("\n".join([*TEXTS[10:20], "never cached", TEXTS[10]]))
    return tmp_path / "cache"


def stored(cache: Path) -> list[bool]:
    with EmbeddingCache(cache, mode="r") as opened:
        found, vectors = opened.get(TEXTS)
        assert (vectors[found] == VECTORS[found]).all()
        return [bool(flag) for flag in found]


def said(capsys: pytest.CaptureFixture[str], document: type) -> Any:
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema_of(document))
    return found


def test_texts_are_deleted_and_their_bytes_go_with_a_compaction(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rm", str(cache), "--texts", str(cache.parent / "gone.txt")]
    before = files_below(cache)
    assert main([*words, "--dry-run", "--json"]) == 0
    found = said(capsys, Removed)
    assert (found["texts"], found["rows"]) == (12, 10)
    assert files_below(cache) == before
    assert main(words) == 0
    assert f"10 of 12 texts deleted\n  their bytes stay in the files until: dejavec compact {cache}" in (
        capsys.readouterr().out
    )
    assert stored(cache) == [not 10 <= at < 20 for at in range(50)]
    assert any(TEXTS[15].encode() in content for content in files_below(cache).values())

    assert main(["compact", str(cache), "--dry-run", "--json"]) == 0
    assert said(capsys, Compacted)["rows"] == 10
    assert main(["compact", str(cache), "--json"]) == 0
    found = said(capsys, Compacted)
    assert (found["rows"], found["bytes"] > 0) == (10, True)
    assert stored(cache) == [not 10 <= at < 20 for at in range(50)]
    for content in files_below(cache).values():
        assert TEXTS[15].encode()[-16:] not in content
        assert VECTORS[15].tobytes()[:8] not in content
    assert main(["compact", str(cache)]) == 0
    assert "0 rows and 0 B freed" in capsys.readouterr().out
    assert main(["verify", str(cache)]) == 0
    assert main(["ls", str(cache.parent)]) == 0
    assert "toy@1" in capsys.readouterr().out


def test_the_oldest_vectors_are_pruned(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(cache)]) == 2
    assert "Missing option '--max-size' or '--newest'" in capsys.readouterr().err
    (cache.parent / "keep.txt").write_text(TEXTS[3])
    words = ["prune", str(cache), "--newest", "30", "--keep", str(cache.parent / "keep.txt"), "--json"]
    assert main(words) == 0
    found = said(capsys, Pruned)
    assert stored(cache) == [at == 3 or at >= 20 for at in range(50)]
    assert (found["dropped"], found["left"]) == (19, 31)
    assert main(["prune", str(cache), "--max-size", "11kB", "--json"]) == 0
    assert 0 < said(capsys, Pruned)["bytes_on_disk"] <= 11_000
    assert stored(cache)[-1]


def test_a_whole_cache_is_deleted_and_nothing_beside_it(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddingCache(cache / "query", model="toy@1") as below:
        below.put(TEXTS, VECTORS)
    mine = ["a.tmp", "index-of-texts.md", "notes.md", "search-results.csv", "vectors.old.npy"]
    for name in mine:
        (cache / name).write_text("mine")
    before = files_below(cache)
    assert main(["rm", str(cache), "--dry-run"]) == 0
    assert "50 vectors would be deleted" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115, PTH123
    assert main(["rm", str(cache)]) == 130
    assert files_below(cache) == before
    assert main(["rm", str(cache), "--yes", "--json"]) == 0
    assert said(capsys, Removed)["rows"] == 50
    assert sorted(path.name for path in cache.iterdir()) == sorted([*mine, "query"])
    assert stored(cache / "query") == [True] * 50
    assert main(["rm", str(cache / "query"), "--yes"]) == 0
    assert not (cache / "query").exists()
    assert main(["rm", str(cache / "query"), "--yes"]) == 1
    assert "no cache at" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["compact", "prune", "rm"])
def test_they_fit_a_terminal_and_an_interrupt_says_what_is_true(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache.parent)
    more = {"compact": [], "prune": ["--newest", "40"], "rm": ["--texts", "gone.txt"]}[name]

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddingCache, {"rm": "delete"}.get(name, name), interrupted)
        status, screen = on_terminal(patched, lambda: main([name, "cache", *more]))
    assert (status, "run it again" in screen) == (130, True), screen
    assert stored(cache) == [True] * 50
    status, screen = on_terminal(monkeypatch, lambda: main([name, "cache", *more]))
    assert status == 0
    assert max(map(len, screen.splitlines())) <= 80
