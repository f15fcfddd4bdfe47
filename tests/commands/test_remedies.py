"""What an error advises works: each command that a message quotes runs as it is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import flip_bit

from dejavec import DejavecWarning, EmbeddingCache, TextVectorMap
from dejavec.cli.main import main
from dejavec.errors import DejavecError
from dejavec.storage.keyed_cache import KeyedCache

ROOT = Path(__file__).parents[2]
TEXTS = [f"text {number}" for number in range(20)]
MODEL = "toy@1"


def vectors(texts: list[str]) -> Any:
    return np.array([[float(len(text)), hash(text) % 97, 1, 2] for text in texts], np.float32)


def opened(path: Path) -> object:
    return EmbeddingCache(path, model=MODEL).get(TEXTS)


def repaired(path: Path) -> object:
    return EmbeddingCache(path, model=MODEL).put(["another"], vectors(["another"]))


def cut_keys(path: Path) -> None:
    os.truncate(path / "keys.bin", 64 + 40 * 15)


def damage_slots(path: Path) -> None:
    (path / "commit").write_bytes(bytes(8192))


def lose_the_commit(path: Path) -> None:
    (path / "commit").unlink()


def damage_most_rows(path: Path) -> None:
    damage_slots(path)
    os.truncate(path / "keys.bin", 64 + 40 * 2)


def of_mteb(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "index.json").write_text("{}")
    (path / "dimension").write_text("4")
    (path / "vectors.npy").write_bytes(bytes(16))


def forgeable(path: Path) -> None:
    path.chmod(0o777)


MISHAPS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "a short file": (cut_keys, opened),
    "damaged slots": (damage_slots, opened),
    "no commit record": (lose_the_commit, opened),
    "a cache that mteb wrote": (of_mteb, opened),
    "the same, opened as mteb does": (of_mteb, TextVectorMap),
    "a directory that anybody writes": (forgeable, opened),
}


def run(command: str) -> None:
    """Run a command in a shell where ``dejavec`` is installed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def quoted(message: str) -> str:
    """The one command that a message quotes."""
    (command,) = re.findall("`([^`]+)`", message)
    return str(command)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    path = tmp_path / "a cache, isn't it"
    with EmbeddingCache(path, model=MODEL) as cache:
        cache.put(TEXTS, vectors(TEXTS))
    return path


@pytest.mark.parametrize("mishap", list(MISHAPS))
def test_a_command_that_an_error_quotes_runs_as_printed_and_helps(filled: Path, mishap: str) -> None:
    happens, use = MISHAPS[mishap]
    happens(filled)
    with pytest.raises((DejavecError, DejavecWarning)) as raised:
        use(filled)
    run(quoted(str(raised.value)))
    if happens is of_mteb:
        filled = Path(f"{filled}-imported")
        assert not filled.exists() or not len(TextVectorMap(filled).vectors)
    else:
        EmbeddingCache(filled, model=MODEL).close()
        assert main(["verify", str(filled)]) == 0


def test_a_repair_that_is_refused_quotes_the_command_that_forces_it(filled: Path) -> None:
    damage_most_rows(filled)
    with pytest.raises(DejavecError) as raised:
        opened(filled)
    refused = subprocess.run(
        [sys.executable, "-m", "dejavec", "verify", "--repair", str(filled)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert quoted(str(raised.value)) in quoted(refused.stderr).replace("--force ", "")
    run(quoted(refused.stderr))
    assert main(["verify", str(filled)]) == 0


def test_the_command_that_verify_prints_runs_as_printed(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(filled / "vectors.npy", 128 + 5)
    assert main(["verify", str(filled)]) == 1
    run(capsys.readouterr().out.partition("repair it with: ")[2].strip())
    assert main(["verify", str(filled)]) == 0


def test_a_row_that_stays_damaged_names_a_command_that_runs(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache(filled, model=MODEL)

    def always_damaged(keys: Any, rows: Any, out: Any = None, *, as_returned: bool = False) -> Any:
        return np.zeros((len(rows), 4), np.float32), list(range(len(rows)))

    monkeypatch.setattr(KeyedCache, "gather", lambda self, *args, **named: always_damaged(*args, **named))
    with pytest.raises(DejavecError, match="damaged again") as raised:
        cache.encode(TEXTS, vectors)
    cache.close()
    run(quoted(str(raised.value)))


def test_the_extras_that_messages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = "\n".join(path.read_text() for path in (ROOT / "python").rglob("*.py"))
    named = set(re.findall(r"pip install (?:--upgrade )?'dejavec\[(.+?)\]'", sources))
    assert named
    assert named <= set(extras)
