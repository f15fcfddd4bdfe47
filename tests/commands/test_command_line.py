"""The commands that look after caches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal, files_below

from dejavec import EmbeddingCache
from dejavec.cli.main import main
from dejavec.storage.summary import size_text

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
    cache: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(cache / "vectors.npy", HEADER + 5)
    assert main(["verify", str(cache)]) == 1
    assert "damaged rows: 0" in capsys.readouterr().out
    assert main(["verify", "--repair", str(cache)]) == 0
    assert main(["verify", str(cache)]) == 0
    with EmbeddingCache(cache, model="toy@1") as again:
        assert len(again) == 2
        assert bits_equal(again.encode(["a", "b", "c"], model), model.vectors(["a", "b", "c"]))


def test_verify_names_every_damaged_row_and_encoding_heals_them_after_a_repair(
    tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path, texts = tmp_path / "cache", [f"text {number}" for number in range(5_000)]
    with EmbeddingCache(path, model="toy@1") as cache:
        cache.encode(texts, model)
    damaged = {0, 1, 63, 1_000, 4_095, 4_096, 4_998, 4_999}
    for row in damaged:
        # By turns in the vector, the key and the checksum.
        file, offset = ((path / "vectors.npy", HEADER + row * 16), (path / "keys.bin", 64 + row * 40),
                        (path / "keys.bin", 64 + row * 40 + 39))[row % 3]  # fmt: skip
        damage(file, offset)
    with EmbeddingCache(path, model="toy@1") as cache:
        assert set(cache.verify()["damaged"]) == damaged
    assert main(["verify", str(path)]) == 1
    assert f"damaged rows: {', '.join(map(str, sorted(damaged)))}" in capsys.readouterr().out
    assert main(["verify", "--repair", str(path)]) == 0
    assert main(["verify", str(path)]) == 0
    model.calls.clear()
    with EmbeddingCache(path, model="toy@1") as cache:
        assert np.flatnonzero(~cache.get(texts)[0]).tolist() == sorted(damaged)
        assert bits_equal(cache.encode(texts, model), model.vectors(texts))
        assert model.encoded == [texts[row] for row in sorted(damaged)]
        assert cache.get(texts)[0].all()
        assert cache.verify()["damaged"] == []


def test_a_repair_that_would_give_most_rows_up_says_so_and_wants_to_be_forced(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache(tmp_path / "other", model="toy@1") as other:
        other.put(["x", "y", "z"], np.ones((3, 4), np.float32))
    keys = (tmp_path / "other" / "keys.bin").read_bytes()
    (cache / "keys.bin").write_bytes(keys)
    capsys.readouterr()
    assert main(["verify", "--repair", str(cache)]) == 1
    said = capsys.readouterr().err
    assert "nothing was changed" in said
    assert "--force" in said
    assert "misses" in said
    assert (cache / "keys.bin").read_bytes() == keys
    assert main(["verify", "--repair", "--force", str(cache)]) == 0
    assert main(["verify", str(cache)]) == 0


def test_a_cache_that_no_longer_opens_is_repaired(cache: Path, model: Any) -> None:
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


def test_ls_tells_of_each_cache_whose_it_is_and_how_large(
    tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    prompt = {"text": "find:\n\x1b[31m"}
    for path, identity in (
        ("Task/query", {"model": {"name": "org/a", "revision": commit}, "role": "query", "prompt": prompt}),
        ("Task/query@0123456789ab", {"model": {"weights": "ab" * 32}, "role": "query"}),
        ("bare", None),
    ):
        with EmbeddingCache(tmp_path / path, identity=identity) as cache:
            cache.encode(["a", "b", "c"], model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "meta.json").write_text("{}")

    assert main(["ls", str(tmp_path)]) == 0
    headings, *lines, total = capsys.readouterr().out.splitlines()
    assert headings.split() == [
        *("cache", "model", "role", "prompt", "rows", "dim", "dtype", "container", "size", "written")
    ]
    sizes = [sum(file.stat().st_size for file in (tmp_path / path).iterdir()) for path in (
        "Task/query", "Task/query@0123456789ab", "bare"
    )]  # fmt: skip
    cells = [re.split(r"\s{2,}", line) for line in lines]
    rest = [["3", "4", "float32", "npy", size_text(size), "now"] for size in sizes]
    assert cells == [
        ["Task/query", "org/a@0123456789ab", "query", r"'find:\n\x1b[31m'", *rest[0]],
        ["Task/query@0123456789ab", "(no name) weights abababababab", "query", *rest[1]],
        ["bare", "(none named)", *rest[2]],
    ]
    assert total == f"3 caches, 9 rows, {size_text(sum(sizes))}"

    assert main(["ls", str(tmp_path / "bare")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(".  ")


def test_ls_names_what_does_not_open_beside_the_rest(
    cache: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmbeddingCache(cache.parent / "sound") as sound:
        sound.encode(["a"], model)
    (cache / "keys.bin").write_bytes(b"")
    assert main(["ls", str(cache.parent)]) == 1
    output = capsys.readouterr().out
    assert "sound" in output
    assert f"does not open: {cache}" in output


def test_ls_where_there_is_no_cache_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory, message in (
        (tmp_path, "expected a cache, found none"),
        (tmp_path / "none", "No such file"),
    ):
        assert main(["ls", str(directory)]) == 1
        assert re.match(f"dejavec: {directory}: .*{message}", capsys.readouterr().err)


def test_stats_prints_counts_and_identity_and_changes_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(cache)
    assert main(["stats", str(cache)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert (first, lines[0]) == (str(cache), "numpy float32 vectors in the container npy")
    start = lines.index("identity")
    counts = dict(re.split(r"\s{2,}", line.strip()) for line in lines[:start] if line.startswith("  "))
    assert (counts["rows"], counts["keys"], counts["dim"], counts["row bytes"]) == ("3", "3", "4", "16 B")
    assert json.loads("\n".join(lines[start + 1 :])) == {"model": {"name": "toy", "revision": "1"}}
    assert files_below(cache) == before
