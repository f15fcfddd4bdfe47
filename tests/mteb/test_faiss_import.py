"""Caches that mteb's FaissCache wrote are imported, but for the entries whose vectors it mixed up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
from comparing import files_below
from mteb.models.cache_wrappers.cache_backends import FaissCache as MtebFaissCache

import dejavec
from dejavec import EmbeddingCache
from dejavec.cli.main import main
from dejavec.mteb.migrate import importer
from dejavec.mteb.migrate.doubts import MIXED_ROWS, UNCOUNTED

VECTORS = np.arange(1, 25, dtype=np.float32).reshape(8, 3)


def vector(text: str) -> np.ndarray:
    return VECTORS[ord(text) - ord("a")]


def written_by_mteb(directory: Path, *batches: str) -> Path:
    """A cache to which mteb added batches of one-letter texts."""
    cache = MtebFaissCache(directory)
    for batch in batches:
        cache.add([{"text": text} for text in batch], np.array([vector(text) for text in batch]))
    cache.save()
    return directory


@pytest.mark.parametrize(
    ("batches", "sound"),
    [
        (["abcd"], "abcd"),
        (["ab", "cd"], "abcd"),
        (["abab"], "ab"),
        (["ab", "ba", "c"], "abc"),
        (["aab", "c"], "ac"),  # b is named row 2, which becomes c's
        (["ab", "acd", "e"], "abe"),
        (["aaaab"], "a"),
    ],
)
def test_an_entry_is_taken_if_and_only_if_its_row_is_its_vectors(
    batches: list[str], sound: str, tmp_path: Path
) -> None:
    old = written_by_mteb(tmp_path / "old", *batches)
    texts = sorted(set("".join(batches)))
    report = importer.import_cache(old, tmp_path / "new", "m@1", trust=True)
    assert report.taken == len(sound)
    assert report.left == ({MIXED_ROWS: len(texts) - len(sound)} if len(texts) > len(sound) else {})
    with EmbeddingCache(tmp_path / "new", model="m@1") as cache:
        found, held = cache.get(texts)
    assert [text for text, hit in zip(texts, found, strict=True) if hit] == list(sound)
    assert np.array_equal(held[found], np.array([vector(text) for text in sound]))


def test_more_rows_than_keys_make_a_cache_doubtful(tmp_path: Path) -> None:
    old = written_by_mteb(tmp_path / "old", "abc")
    index = faiss.read_index(str(old / "vectors.faiss"))
    index.add(VECTORS[:1])  # written before a crash that index.json did not see
    faiss.write_index(index, str(old / "vectors.faiss"))
    report = importer.import_cache(old, tmp_path / "new", "m@1")
    assert (report.taken, report.doubt, report.left) == (0, UNCOUNTED, {UNCOUNTED: 3})


def test_of_more_keys_than_rows_none_is_read_beyond_the_end(tmp_path: Path) -> None:
    old = written_by_mteb(tmp_path / "old", "abc")
    short = faiss.IndexFlatL2(3)
    short.add(VECTORS[:2])
    faiss.write_index(short, str(old / "vectors.faiss"))
    report = importer.import_cache(old, tmp_path / "new", "m@1", trust=True)
    assert (report.taken, report.doubt, report.left) == (2, UNCOUNTED, {MIXED_ROWS: 1})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def claim_many_rows(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:16] = (1 << 60).to_bytes(8, "little")
    path.write_bytes(content)


def other_index(path: Path) -> None:
    faiss.write_index(faiss.index_factory(3, "HNSW4"), str(path))


def without_bytes(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, lengthen, claim_many_rows, other_index, without_bytes])
def test_what_is_no_flat_index_of_its_size_is_refused_and_leaves_nothing(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    old = written_by_mteb(tmp_path / "old", "abc")
    damage(old / "vectors.faiss")
    with pytest.raises(dejavec.errors.CorruptCacheError, match=r"vectors\.faiss: expected"):
        importer.import_cache(old, tmp_path / "new", "m@1", trust=True)
    assert not (tmp_path / "new").exists()


def test_two_files_of_vectors_are_refused(tmp_path: Path) -> None:
    old = written_by_mteb(tmp_path / "old", "abc")
    (old / "vectors.npy").write_bytes(VECTORS[:3].tobytes())
    with pytest.raises(
        dejavec.errors.CorruptCacheError, match=r"found both, and nothing tells of which index\.json is"
    ):
        importer.import_cache(old, tmp_path / "new", "m@1", trust=True)


def test_what_faiss_cache_holds_is_exported_for_mteb(tmp_path: Path) -> None:
    from mteb.models.cache_wrappers.cache_backends import NumpyCache as MtebNumpyCache

    cache = dejavec.FaissCache(tmp_path / "ours")
    cache.add(["a", "b"], VECTORS[:2])
    cache.close()
    before = files_below(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "exported")]) == 0
    assert files_below(tmp_path / "ours") == before
    read = MtebNumpyCache(tmp_path / "exported")
    read.load()
    assert np.array_equal(read.get_vector({"text": "b"}), VECTORS[1])
