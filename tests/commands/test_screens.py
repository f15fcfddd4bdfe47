"""Each command in a terminal of 80 columns, in a pipe and as JSON, on empty, tiny and damaged caches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
from comparing import files_below, flip_bit
from terminal import on_terminal

from dejavec import EmbeddingCache, _core
from dejavec.cli import progress
from dejavec.cli.documents import schema_of
from dejavec.cli.main import main, program
from dejavec.cli.verb import Verb

TEXTS = ["first", "second", "third"]
IDENTITY = {
    "model": {
        "name": "an-organisation/a-model-with-a-rather-long-name",
        "revision": "0123456789" * 4,
    },
    "prompt": {"text": "Represent this sentence for searching relevant passages: "},
    "role": "document",
}


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """A directory with an empty, a tiny and a damaged cache."""
    for name, texts in (("empty", []), ("a/rather/long/path/of/directories/tiny", TEXTS), ("damaged", TEXTS)):
        with EmbeddingCache(tmp_path / "caches" / name, identity=IDENTITY, keep_texts=True) as cache:
            cache.put(texts, np.arange(4.0 * len(texts), dtype=np.float32).reshape(-1, 4))
    (tmp_path / "caches" / "texts.txt").write_text("first\nanother\n")
    flip_bit(tmp_path / "caches" / "damaged" / "vectors.npy", 128 + 5)
    return tmp_path / "caches"


def command(name: str) -> Verb:
    found = program.get_command(click.Context(program), name)
    assert isinstance(found, Verb)
    return found


COMMANDS: dict[str, tuple[list[str], int]] = {
    "ls": (["{caches}"], 0),
    "info": (["{caches}/a/rather/long/path/of/directories/tiny"], 0),
    "verify": (["{caches}"], 1),
    "export": (["{caches}/a/rather/long/path/of/directories/tiny", "out.npz", "--dry-run"], 0),
    "import": (["{caches}/a/rather/long/path/of/directories/tiny", "into", "--dry-run"], 0),
    "merge": (["{caches}/a/rather/long/path/of/directories/tiny", "into", "--dry-run"], 0),
    "copy": (["{caches}/a/rather/long/path/of/directories/tiny", "into", "--dry-run"], 0),
    "plan": (["{caches}/a/rather/long/path/of/directories/tiny", "{caches}/texts.txt", "--rate", "9/s"], 0),
}
"""Words after each command that only reads, and its exit status."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_fits_a_terminal_of_80_columns(
    name: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(caches.parent)
    words = [word.format(caches="caches") for word in COMMANDS[name][0]]
    status, screen = on_terminal(monkeypatch, lambda: main([name, *words]))
    assert status == COMMANDS[name][1], screen
    assert screen
    if name not in (
        "verify",
        "import",
        "export",
        "copy",
    ):  # These name whole paths; an identity is shown as it is, too.
        assert max(map(len, screen.partition("identity")[0].splitlines())) <= 80, screen


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_of_the_form_that_the_page_has_and_says_the_same_in_a_terminal(
    name: str, caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_below(caches)
    arguments = [name, *(word.format(caches=caches) for word in COMMANDS[name][0]), "--json"]
    assert main(arguments) == COMMANDS[name][1]
    printed = capsys.readouterr().out
    document = command(name).document
    assert document is not None
    jsonschema.validate(json.loads(printed), schema_of(document))
    _, screen = on_terminal(monkeypatch, lambda: main(arguments), errors=False)
    assert json.loads(screen) == json.loads(printed)
    assert files_below(caches) == before


def test_a_narrow_table_loses_columns_and_never_a_number(
    caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(caches)
    _, wide = on_terminal(monkeypatch, lambda: main(["ls"]), 200)
    assert wide.split()[:10] == [
        *("cache", "model", "role", "prompt", "rows", "dim", "dtype", "container", "size", "written")
    ]
    _, narrow = on_terminal(monkeypatch, lambda: main(["ls"]), 50)
    headings, *lines = narrow.splitlines()
    assert max(map(len, narrow.splitlines())) <= 50
    assert headings.split()[:3] == ["cache", "model", "rows"]
    assert [line.split()[2] for line in lines[:3]] == ["3", "3", "0"]
    assert "…" in lines[0]


def test_a_command_for_many_caches_checks_all_of_them(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (caches / "damaged" / "meta.json").unlink()
    assert main(["verify", str(caches), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["caches"]
    assert [(Path(cache["path"]).name, cache["sound"]) for cache in found] == [
        ("tiny", True),
        ("damaged", False),
        ("empty", True),
    ]
    assert "meta.json" in found[1]["error"]


def test_repair_mends_what_it_can(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--repair", str(caches), "--json"]) == 0
    found = {Path(cache["path"]).name: cache for cache in json.loads(capsys.readouterr().out)["caches"]}
    assert (found["damaged"]["repaired"], found["damaged"]["keys_left"]) == (True, 2)
    assert not found["tiny"]["repaired"]
    assert main(["verify", str(caches)]) == 0


def test_a_dry_run_of_a_repair_changes_nothing(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(caches)
    assert main(["verify", "--repair", "--dry-run", str(caches / "damaged")]) == 1
    assert "would be repaired; 1 rows would become misses" in capsys.readouterr().out
    assert files_below(caches) == before


@pytest.mark.parametrize("check", [_core.verify, partial(_core.repair, lock_timeout=60.0)])
def test_a_check_or_a_repair_says_how_far_it_is_within_a_cache(
    check: Callable[..., dict[str, Any]], caches: Path
) -> None:
    go_on = threading.Event()

    def slow(rows: _core.Progress) -> dict[str, Any]:
        found = check(str(caches / "a/rather/long/path/of/directories/tiny"), progress=rows)
        assert (rows.checked, rows.rows) == (3, 3)
        assert go_on.wait(60)
        return found

    parts: list[float] = []

    def advance(part: float) -> None:
        parts.append(part)
        go_on.set()

    assert progress.counted(slow, advance)["rows"] == 3
    assert parts == [1.0, 0.0]


def test_progress_is_on_a_terminal_alone(
    caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["verify", str(caches)])
    assert "/s" not in "".join(capsys.readouterr())
    _, screen = on_terminal(monkeypatch, lambda: main(["verify", str(caches)]))
    assert "verify" in screen
    assert " of " in screen


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_the_commands(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_DEJAVEC_COMPLETE={shell}_complete" in script
    monkeypatch.setenv("_DEJAVEC_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "dejavec ver")
    monkeypatch.setenv("COMP_CWORD", "ver" if shell == "fish" else "1")
    main([])
    assert "verify" in capsys.readouterr().out


def test_each_command_says_whether_it_prints_json() -> None:
    context = click.Context(program)
    without = {name for name in program.list_commands(context) if command(name).document is None}
    assert without == {"run", "completion"}


def test_every_usage_names_what_is_read_and_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    for name in program.list_commands(click.Context(program)):
        assert main([name, "--help"]) == 0
        help_text = capsys.readouterr().out
        assert max(map(len, help_text.splitlines())) <= 80, name
        assert "Usage: dejavec" in help_text


@pytest.mark.parametrize("words", [["ls", "--no-such"], ["info"], ["ls", "a", "b"], ["no-such-command"]])
def test_a_wrong_call_is_status_2_and_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Usage: dejavec" in capsys.readouterr().err


def interrupted(*args: Any, **named: Any) -> Any:
    raise KeyboardInterrupt


def test_an_interrupt_of_a_check_ends_it_at_once(
    caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dejavec._core.verify", interrupted)
    assert main(["verify", str(caches)]) == 130
    said = "dejavec: interrupted; an interrupted repair is completed by the next one\n"
    assert capsys.readouterr().err == said
