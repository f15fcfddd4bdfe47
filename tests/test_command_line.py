"""The commands that look after caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dejavec import EmbeddingCache
from dejavec.cli import main

HEADER = 128


@pytest.fixture
def cache(tmp_path: Path, model: Any) -> Path:
    path = tmp_path / "cache"
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.encode(["a", "b", "c"], model)
    return path


def damage(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_verify_finds_a_sound_cache_sound(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(cache)]) == 0
    assert "3 rows, 3 keys, 0 replaced, 0 dead, 0 damaged" in capsys.readouterr().out


def test_verify_names_damaged_rows_and_repair_makes_them_misses(
    cache: Path, model: Any, bits_equal: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(cache / "vectors.npy", HEADER + 5)
    assert main(["verify", str(cache)]) == 1
    assert "damaged rows: 0" in capsys.readouterr().out
    assert main(["verify", "--repair", str(cache)]) == 0
    assert main(["verify", str(cache)]) == 0
    with EmbeddingCache(cache, model="toy@1") as again:
        assert len(again) == 2
        assert bits_equal(again.encode(["a", "b", "c"], model), model.vectors(["a", "b", "c"]))


def test_a_cache_that_no_longer_opens_is_repaired(cache: Path, model: Any, bits_equal: Any) -> None:
    (cache / "commit").write_bytes(b"")
    damage(cache / "vectors.npy", 20)
    assert main(["verify", str(cache)]) == 1
    assert main(["verify", "--repair", str(cache)]) == 0
    with EmbeddingCache(cache, model="toy@1", miss="raise") as again:
        assert bits_equal(again.encode(["a", "b", "c"], model), model.vectors(["a", "b", "c"]))


def test_a_directory_without_a_cache_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 1
    assert "no cache at" in capsys.readouterr().err
