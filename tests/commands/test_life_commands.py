"""The commands that change, merge and copy caches: what was asked for happens, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from comparing import files_below, flip_bit
from terminal import on_terminal

from dejavec import EmbeddingCache, _core
from dejavec.cli.compact import Compacted
from dejavec.cli.copying import Copied
from dejavec.cli.documents import schema_of
from dejavec.cli.main import main
from dejavec.cli.merging import Merged
from dejavec.cli.prune import Pruned
from dejavec.cli.rm import Removed
from dejavec.errors import CacheNotFoundError
from dejavec.keys.items import text_keys

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
    before = files_below(cache)
    assert main([*words, "--dry-run"]) == 0
    dry = said(capsys, Pruned)
    assert files_below(cache) == before
    assert main(words) == 0
    found = said(capsys, Pruned)
    assert (dry["dropped"], dry["left"]) == (found["dropped"], found["left"])
    assert abs(dry["bytes_on_disk"] - found["bytes_on_disk"]) < 400  # Locks, and the generation.
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


def test_a_cache_that_another_process_writes_is_not_deleted(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dejavec.cli.rm._PATIENCE", 0.0)
    monkeypatch.setattr("dejavec.cli.verify.LOCK_SECONDS", 0.0)
    before = files_below(cache)
    code = f"""
import sys
from dejavec import _core
_core.under_writers_lock({str(cache)!r}, lambda: (print("held", flush=True), sys.stdin.read()),
                         lock_timeout=1.0, allow_network=False)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        assert main(["rm", str(cache), "--yes"]) == 1
        said = capsys.readouterr().err
        assert f"was not free within 0 s (held by process {writer.pid})" in said
        assert said.endswith("; run it again when that process is done\n")
        assert said.count("\n") == 1
        assert main(["verify", "--repair", str(cache)]) == 1
        assert capsys.readouterr().err.endswith("; run it again when that process is done\n")
        writer.communicate()
    after = files_below(cache)
    assert {name: content for name, content in after.items() if not name.endswith("LOCK")} == {
        name: content for name, content in before.items() if not name.endswith("LOCK")
    }
    assert main(["rm", str(cache), "--yes"]) == 0
    assert not cache.exists()


def test_a_writer_of_a_deleted_cache_learns_it_and_leaves_nothing(cache: Path) -> None:
    store = _core.Store.open(str(cache), mode="a", durability="commit", lock_timeout=1.0, allow_network=False)
    store.append(text_keys(["more"]), [VECTORS[:1]], None)
    assert main(["rm", str(cache), "--yes"]) == 0
    with pytest.raises(CacheNotFoundError):
        store.append(text_keys(["even more"]), [VECTORS[:1]], None)
    assert not cache.exists()
    with EmbeddingCache(cache, model="toy@1", role="query") as writer:
        writer.put(["again"], VECTORS[:1])
    with EmbeddingCache(cache, mode="r") as again:
        assert len(again) == 1
        assert again.verify()["problems"] == []


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


@pytest.mark.parametrize("on_conflict", ["first", "last"])
def test_a_dry_run_of_a_merge_says_what_the_merge_does(
    on_conflict: str, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dejavec.transfer.pieces._BYTES", 500)
    sources = []
    different: tuple[tuple[str, Any, Any], ...] = (
        ("second", "faiss-l2", VECTORS[20:]),
        ("third", "npy", np.concatenate([-VECTORS[25:30], VECTORS[30:]])),
    )
    for name, container, vectors in different:
        texts = [*TEXTS, *(f"new {number}" for number in range(20))][50 - len(vectors) + 15 :][: len(vectors)]
        with EmbeddingCache(
            cache.parent / name, model="toy@1", role="query", container=container, keep_texts=True
        ) as source:
            source.put(texts, vectors)
        sources.append(str(cache.parent / name))
    flip_bit(cache / "vectors.npy", 128 + 64 * 40 + 3)
    before = files_below(cache.parent)
    words = ["merge", *sources, str(cache), "--on-conflict", on_conflict, "--json"]
    assert main([*words, "--dry-run"]) == 0
    said_before = said(capsys, Merged)
    assert files_below(cache.parent) == before
    assert main(words) == 0
    merged = said(capsys, Merged)
    assert merged == said_before
    assert merged["added"] == 15
    assert merged["replaced"] == (1 if on_conflict == "first" else len(merged["conflicts"]) + 1)
    assert {conflict["text"] for conflict in merged["conflicts"]} >= set(TEXTS[45:50])
    with EmbeddingCache(cache, mode="r") as opened:
        assert len(opened) == 65
        assert opened.verify()["keys"] == 65


def test_caches_are_merged_into_a_new_one_and_conflicts_are_listed(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddingCache(cache.parent / "other", model="toy@1", role="query") as other:
        other.put([*TEXTS[:20], "new"], np.concatenate([-VECTORS[:20], VECTORS[:1]]))
    monkeypatch.chdir(cache.parent)
    assert main(["merge", "cache", "other", "into", "--dry-run"]) == 0
    assert "into: 51 vectors would be added" in capsys.readouterr().out
    assert not Path("into").exists()
    status, screen = on_terminal(monkeypatch, lambda: main(["merge", "cache", "other", "into"]))
    assert status == 0
    assert max(map(len, screen.splitlines())) <= 80
    assert "into: 51 vectors added" in screen
    assert "20 texts have different vectors; the first ones count:" in screen
    assert "and 10 more: --json lists all" in screen
    assert stored(Path("into")) == [True] * 50
    with EmbeddingCache("into", mode="r") as opened:
        assert opened.texts([0]).to_pylist() == TEXTS[:1]
        assert opened.identity == EmbeddingCache(cache, mode="r").identity


def test_caches_of_other_models_and_forms_are_not_merged(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache(cache.parent / "model", model="toy@2", role="query") as other:
        other.put(["a"], VECTORS[:1])
    with EmbeddingCache(cache.parent / "form", model="toy@1", role="query") as other:
        other.put(["a"], VECTORS[:1, :8])
    into = str(cache.parent / "into")
    for name, message in (("model", "toy"), ("form", "dense vectors of 8 numbers, float32")):
        assert main(["merge", str(cache), str(cache.parent / name), into]) == 1
        assert message in capsys.readouterr().err
        assert not Path(into).exists()
    assert main(["merge", str(cache), str(cache)]) == 1
    assert "expected another directory than SRC" in capsys.readouterr().err
    assert main(["merge", str(cache.parent / "none"), into]) == 1
    assert "no cache at" in capsys.readouterr().err
    assert main(["merge", str(cache)]) == 2


def test_a_cache_is_copied_whole_or_not_at_all(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["copy", str(cache), str(cache.parent / "copy"), "--json"]
    before = files_below(cache.parent)
    assert main([*words, "--dry-run"]) == 0
    assert said(capsys, Copied)["rows"] == 50
    assert files_below(cache.parent) == before

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dejavec.storage.keyed_cache.KeyedCache.append", interrupted)
        assert main(words) == 130
    assert "nothing was copied; run it again" in capsys.readouterr().err
    assert files_below(cache.parent) == before
    assert main(words) == 0
    found = said(capsys, Copied)
    assert (found["rows"], found["dtype"], found["container"]) == (50, "float32", "npy")
    assert stored(cache.parent / "copy") == [True] * 50
    assert EmbeddingCache(cache.parent / "copy", mode="r").texts().to_pylist() == TEXTS
    assert main(words) == 1
    assert "expected no such directory, or an empty one" in capsys.readouterr().err


def test_a_copy_is_smaller_by_name(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cache.parent)
    words = ["copy", "cache", "copy", "--dtype", "float16", "--container", "npy", "--no-texts"]
    status, screen = on_terminal(monkeypatch, lambda: main(words))
    assert status == 0, screen
    assert screen.splitlines()[-1].startswith("copy: 50 vectors, float16, npy, ")
    with EmbeddingCache("copy", model="toy@1", role="query", store_dtype="float16") as copy:
        found, vectors = copy.get(TEXTS)
        assert found.all()
        assert (vectors == VECTORS.astype(np.float16)).all()
        assert set(copy.texts().to_pylist()) == {None}
    assert main(["copy", "cache", "sparse", "--container", "sparse"]) == 1
    assert "leave container out" in capsys.readouterr().err
    flip_bit(cache / "vectors.npy", 128 + 5)
    for more in ([], ["--dry-run"]):
        assert main(["copy", "cache", "again", *more]) == 1
        assert "repair it first" in capsys.readouterr().err
        assert not Path("again").exists()
