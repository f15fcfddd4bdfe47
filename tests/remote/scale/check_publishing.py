"""`dejavec publish`: one commit has the whole cache, people's words in the card stay, anybody pulls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import REPOSITORY, hub
from shared_rows import TEXTS, cache, filled, stored, values, vectors

URL = f"hf://datasets/{REPOSITORY}"
TOKEN = "hf_" + "x" * 34


def run(address: str, home: Path, *words: object) -> Any:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
    }
    command = [sys.executable, "-m", "dejavec", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("container", ["npy", "ragged"])
def test_a_published_cache_is_one_commit_that_anybody_pulls(tmp_path: Path, container: Any) -> None:
    with (
        filled(tmp_path / "mine", container, prompt="query: ", role="query") as mine,
        hub() as (address, there),
    ):
        before = sorted(path.name for path in (tmp_path / "mine").iterdir())
        done = run(address, tmp_path / "home", "publish", tmp_path / "mine", URL, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["rows"], found["commit"]) == (120, there.newest)
        assert len(there.commits) == 2
        assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == before
        readme = there.files("main")["README.md"].decode()
        assert readme.startswith("---\nlicense: mit\n---\nOurs.")
        assert "| vectors | `120` |" in readme
        assert f"Bearer {TOKEN}" in there.tokens

        first = there.newest
        mine.delete(TEXTS[:20])
        done = run(address, tmp_path / "home", "publish", tmp_path / "mine", URL)
        assert "100 vectors published" in done.stdout, done.stderr
        readme = there.files("main")["README.md"].decode()
        assert readme.count("| vectors |") == 1
        assert "| vectors | `100` |" in readme
        assert len([name for name in there.files("main") if name.endswith(".keys")]) == 1

        for url, right in (
            (URL, [None] * 20 + values(vectors(container, TEXTS[20:]))),
            (f"{URL}@{first}", values(vectors(container, TEXTS))),
        ):
            target = tmp_path / url.rpartition("/")[2]
            done = run(address, tmp_path / "home", "pull", url, target)
            assert done.returncode == 0, done.stderr
            with cache(target, container, prompt="query: ", role="query") as got:
                assert stored(got) == right
        done = run(address, tmp_path / "home", "ls", URL)
        assert "1 shared, 100 rows" in done.stdout, done.stderr


def test_a_repository_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    filled(tmp_path / "mine").close()
    with hub() as (address, _):
        done = run(address, tmp_path / "home", "publish", tmp_path / "mine", "hf://datasets/nobody/none")
        assert done.returncode == 1
        assert "could not be read" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        done = run(address, tmp_path / "home", "push", tmp_path / "mine", URL)
        assert done.returncode != 0
        assert "dejavec publish" in done.stderr
        done = run(address, tmp_path / "home", "publish", tmp_path / "mine", URL, "--dry-run")
        assert "120 vectors would be published" in done.stdout
