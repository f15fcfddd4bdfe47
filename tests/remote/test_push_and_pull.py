"""What was pushed is what others pull: every bit of it, once, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_rows import TEXTS, cache, filled, objects_of, stored, values, vectors

from dejavec import EmbeddingCache
from dejavec.errors import (
    CacheNotFoundError,
    DejavecWarning,
    IdentityMismatchError,
    StorageError,
    VectorsError,
)
from dejavec.keys.items import text_keys
from dejavec.remote import fetch, objects, push
from dejavec.remote.commit import parse
from dejavec.remote.fetch import take
from dejavec.remote.link import Link
from dejavec.remote.names import parse_segment_file
from dejavec.remote.namespace import namespace_of
from dejavec.remote.objects import Objects
from dejavec.remote.urls import place
from dejavec.sharing import pull as pull_into
from dejavec.sharing import push as push_from
from dejavec.storage.keyed_cache import KeyedCache


@pytest.fixture(autouse=True)
def many_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "SEGMENT_BYTES", 1500)


def test_a_pull_has_every_bit_of_what_was_pushed(tmp_path: Path, team: str, container: Any) -> None:
    with filled(tmp_path / "mine", container) as mine:
        pushed = mine.push(team)
        assert (pushed.rows, pushed.there, pushed.skipped) == (120, 0, [])
        assert pushed.segments > 1
        with cache(tmp_path / "yours", container) as yours:
            assert yours.pull(team).rows == 120
            ours, theirs = mine.get(TEXTS)[1], yours.get(TEXTS)[1]
            assert type(ours) is type(theirs)
            assert values(ours) == values(theirs) == values(vectors(container, TEXTS))
            assert yours.verify()["damaged"] == []
            again = yours.pull(team)
            assert (again.rows, again.there) == (0, 120)


def test_a_directory_without_a_cache_gets_one_with_the_identity(
    tmp_path: Path, team: str, container: Any
) -> None:
    filled(tmp_path / "mine", container, prompt="query: ", role="query").close()
    push_from(tmp_path / "mine", team)
    assert pull_into(team, tmp_path / "yours").rows == 120
    with EmbeddingCache(tmp_path / "yours", mode="r") as yours:
        assert (yours.model, yours.identity["prompt"]) == ("m@1", "query: ")
        assert stored(yours) == values(vectors(container, TEXTS))


def test_a_second_push_writes_nothing(tmp_path: Path, team: str, container: Any) -> None:
    with filled(tmp_path / "mine", container) as mine:
        mine.push(team)
        before = {path: path.stat().st_mtime_ns for path in objects_of(tmp_path / "team")}
        assert (mine.push(team).rows, mine.push(team).there) == (0, 120)
        assert {path: path.stat().st_mtime_ns for path in objects_of(tmp_path / "team")} == before
        shutil.rmtree(tmp_path / "mine" / ".remote")
        assert mine.push(team).rows == 0
        assert list(before) == objects_of(tmp_path / "team")


@pytest.mark.parametrize(
    "file", ["meta.json", "keys.bin", "vectors.npy", "commit", "index.json", "told.json"]
)
def test_a_damaged_index_is_made_again(tmp_path: Path, team: str, file: str) -> None:
    with filled(tmp_path / "mine") as mine:
        mine.push(team)
        for path in (tmp_path / "mine" / ".remote").rglob(file):
            path.write_bytes(b"\0" * 7 + path.read_bytes()[7:-9])
        mine.put(["text 500"], vectors("npy", ["text 500"]))
        mine.push(team)
        with cache(tmp_path / "yours") as yours:
            yours.pull(team)
            assert stored(yours) == values(vectors("npy", TEXTS))
            assert "text 500" in yours
            assert yours.stats()["rows"] == 121


def test_equal_rows_make_equal_objects(tmp_path: Path, container: Any) -> None:
    found = []
    for name in ("one", "other"):
        with filled(tmp_path / name, container) as made:
            made.push(f"file://{tmp_path}/to-{name}")
        found.append(
            {
                path.relative_to(tmp_path / f"to-{name}"): path.read_bytes()
                for path in objects_of(tmp_path / f"to-{name}")
            }
        )
    assert found[0] == found[1]


def test_overlapping_caches_are_a_union_and_the_local_vector_stays(
    tmp_path: Path, team: str, container: Any
) -> None:
    with filled(tmp_path / "one", container, TEXTS[:80]) as one:
        one.push(team)
    with filled(tmp_path / "other", container, TEXTS[40:], shift=100) as other:
        assert (other.push(team).rows, other.push(team).there) == (40, 80)
        assert other.pull(team).rows == 40
        right = values(vectors(container, TEXTS))
        late = values(vectors(container, TEXTS, shift=100))
        assert stored(other) == right[:40] + late[40:]
    with cache(tmp_path / "fresh", container) as fresh:
        fresh.pull(team)
        assert stored(fresh) == right[:80] + late[80:]


def test_all_who_pull_agree_whichever_segment_came_first(tmp_path: Path, team: str) -> None:
    """Two who did not know of each other pushed different vectors of the same texts."""
    for name, shift in (("one", 0), ("other", 1000)):
        with filled(tmp_path / name, shift=shift) as made:
            made.push(f"file://{tmp_path}/{name}-store")
    with cache(tmp_path / "early") as early:
        shutil.copytree(tmp_path / "one-store", tmp_path / "team")
        early.pull(team, vectors="on-demand")
        shutil.copytree(tmp_path / "other-store", tmp_path / "team", dirs_exist_ok=True)
        early.pull(team)
        with cache(tmp_path / "late") as late:
            late.pull(team)
            assert stored(early) == stored(late)
            assert set(map(str, stored(late))) & set(map(str, values(vectors("npy", TEXTS, 1000))))


def test_vectors_of_another_model_or_form_never_come(tmp_path: Path, team: str) -> None:
    filled(tmp_path / "mine").push(team)
    with EmbeddingCache(tmp_path / "other", model="m@2") as other:
        with pytest.raises(CacheNotFoundError, match="vectors of m@2 in this form, found those of m@1"):
            other.pull(team)
        other.put(TEXTS, vectors("npy", TEXTS, 5))
        assert other.push(team).rows == 120
        assert other.pull(team).rows == 0
    with cache(tmp_path / "wide") as wide:
        wide.put(TEXTS[:1], np.zeros((1, 4), np.float32))
        with pytest.raises(CacheNotFoundError):
            wide.pull(team)
        wide.push(team)
    with (
        cache(tmp_path / "empty") as empty,
        pytest.raises(IdentityMismatchError, match="dense <f4 of 4"),
    ):
        empty.pull(team)
    with pytest.raises(CacheNotFoundError, match=r"\(m@1\).*choose one"):
        pull_into(team, tmp_path / "new")
    with cache(tmp_path / "good") as good:
        good.put(TEXTS[:1], vectors("npy", TEXTS[:1]))
        good.pull(team)
        assert stored(good) == values(vectors("npy", TEXTS))


def test_a_moved_segment_of_another_namespace_is_skipped(tmp_path: Path, team: str) -> None:
    filled(tmp_path / "mine").push(team)
    with EmbeddingCache(tmp_path / "other", model="m@2") as other:
        other.put(TEXTS, vectors("npy", TEXTS, 5))
        other.push(f"file://{tmp_path}/theirs")
    (ours,) = (tmp_path / "team").iterdir()
    (theirs,) = (tmp_path / "theirs").iterdir()
    shutil.rmtree(ours / "seg")
    shutil.copytree(theirs / "seg", ours / "seg")
    with cache(tmp_path / "yours") as yours:
        pulled = yours.pull(team)
        assert (pulled.rows, {one.reason for one in pulled.skipped}) == (
            0,
            {"it belongs to another namespace"},
        )
        shutil.copy(theirs / "meta.json", ours / "meta.json")
        assert yours.pull(team).rows == 0
    with cache(tmp_path / "new") as new, pytest.raises(CacheNotFoundError):
        new.pull(team)


def test_vectors_of_no_named_model_are_not_shared(tmp_path: Path, team: str) -> None:
    with EmbeddingCache(tmp_path / "bare") as bare:
        bare.put(TEXTS, vectors("npy", TEXTS))
        with pytest.raises(VectorsError, match="expected a cache of a named model"):
            bare.push(team)
    with cache(tmp_path / "empty") as empty, pytest.raises(VectorsError, match="store some first"):
        empty.push(team)


def test_texts_are_shared_and_kept_only_if_both_ask_for_them(tmp_path: Path, container: Any) -> None:
    with filled(tmp_path / "mine", container, keep_texts=True) as mine:
        mine.push(f"file://{tmp_path}/without")
        with pytest.warns(DejavecWarning, match="can read them"):
            mine.push(f"file://{tmp_path}/with", texts=True)
    for store, asks, kept in (("without", True, False), ("with", False, False), ("with", True, True)):
        assert any(b"text 7" in path.read_bytes() for path in objects_of(tmp_path / store)) == (
            store == "with"
        )
        with cache(tmp_path / f"{store}-{asks}", container) as yours:
            yours.pull(f"file://{tmp_path}/{store}", texts=asks)
            assert stored(yours) == values(vectors(container, TEXTS))
            assert (sorted(filter(None, yours.texts().to_pylist())) == sorted(TEXTS)) == kept


def test_numpy_reads_the_objects(tmp_path: Path, team: str) -> None:
    filled(tmp_path / "mine").push(team)
    found: dict[bytes, Any] = {}
    for path in objects_of(tmp_path / "team", ".keys"):
        name, _ = parse_segment_file(f"seg/{path.name}") or pytest.fail("no name")
        commit = parse(name, path.read_bytes())
        rows = np.load(path.with_suffix(".vectors.npy"))
        found.update(zip([key.tobytes() for key in commit.keys], rows.tolist(), strict=True))
    right = zip([key.tobytes() for key in text_keys(TEXTS)], values(vectors("npy", TEXTS)), strict=True)
    assert found == dict(right)
    (meta,) = (tmp_path / "team").glob("*/meta.json")
    assert json.loads(meta.read_text())["model"] == "m@1"


def test_nothing_else_is_written_to_the_store(tmp_path: Path, team: str, container: Any) -> None:
    with filled(tmp_path / "mine", container, keep_texts=True) as mine:
        with pytest.warns(DejavecWarning):
            mine.push(team, texts=True)
        mine.delete(TEXTS[:3])
        mine.push(team)
    for path in objects_of(tmp_path / "team"):
        name = str(path.relative_to(tmp_path / "team").as_posix()).partition("/")[2]
        assert name == "meta.json" or name.startswith("tomb/") or parse_segment_file(name), name


def test_a_store_in_memory_lives_as_long_as_the_process(tmp_path: Path) -> None:
    filled(tmp_path / "mine").push("memory://a-team/models")
    with cache(tmp_path / "yours") as yours:
        assert yours.pull("memory://a-team/models").rows == 120
        with pytest.raises(CacheNotFoundError):
            yours.pull("memory://a-team/other")


def test_a_failed_push_leaves_whole_segments_and_goes_on(
    tmp_path: Path, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left = objects.Objects.put, [9]

    def failing(self: Any, name: str, parts: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StorageError("the store", expected="room", found="none")
        put(self, name, parts)

    with filled(tmp_path / "mine") as mine:
        monkeypatch.setattr(objects.Objects, "put", failing)
        with pytest.raises(StorageError):
            mine.push(team)
        monkeypatch.undo()
        monkeypatch.setattr(push, "SEGMENT_BYTES", 1500)
        with cache(tmp_path / "early") as early:
            assert 0 < early.pull(team).rows < 120
            assert all(
                row in (None, right)
                for row, right in zip(stored(early), values(vectors("npy", TEXTS)), strict=True)
            )
            mine.push(team)
            early.pull(team)
            assert stored(early) == values(vectors("npy", TEXTS))


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "a bit":
        content[len(content) // 2] ^= 4
    elif how == "cut":
        content = content[:-5]
    elif how == "empty":
        content = bytearray()
    elif how == "longer":
        content += b"\0"
    path.unlink()
    if how != "gone":
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["a bit", "cut", "longer", "gone"])
@pytest.mark.parametrize(
    ("container", "part"), [("npy", ".keys"), ("npy", ".npy"), ("sparse", ".npy"), ("ragged", "indptr.npy")]
)
def test_a_damaged_segment_is_skipped_and_named_and_the_rest_comes(
    tmp_path: Path, team: str, container: Any, how: str, part: str
) -> None:
    with filled(tmp_path / "mine", container) as mine:
        segments = mine.push(team).segments
        victim = objects_of(tmp_path / "team", part)[0]
        digest, _, rest = victim.name.partition("-")
        damage(victim, how)
        with cache(tmp_path / "yours", container) as yours:
            pulled = yours.pull(team)
            assert pulled.rows == 120 - int(rest.split(".")[0])
            assert segments > 1
            assert all(digest in one.name for one in pulled.skipped)
            assert len(pulled.skipped) == 1
            right = values(vectors(container, TEXTS))
            assert all(row in (None, good) for row, good in zip(stored(yours), right, strict=True))
            if how != "a bit" or part == ".keys":
                # What the listing shows, the next push mends with the same names.
                mine.push(team)
                yours.pull(team)
                assert stored(yours) == right


def test_foreign_objects_are_skipped_and_named(tmp_path: Path, team: str) -> None:
    filled(tmp_path / "mine").push(team)
    (namespace,) = (tmp_path / "team").iterdir()
    (namespace / "notes.txt").write_text("hello")
    (namespace / "seg" / ("0" * 64 + "-7.npy")).write_text("hello")
    (namespace / "tomb").mkdir()
    (namespace / "tomb" / ("0" * 64 + "-1.pairs")).write_bytes(b"\0" * 120)
    with cache(tmp_path / "yours") as yours:
        pulled = yours.pull(team)
        assert pulled.rows == 120
        assert sorted(one.name.rpartition("/")[2] for one in pulled.skipped) == [
            "0" * 64 + "-1.pairs",
            "0" * 64 + "-7.npy",
            "notes.txt",
        ]


def test_a_deletion_travels_and_a_row_that_is_shared_again_lives(
    tmp_path: Path, team: str, container: Any
) -> None:
    with filled(tmp_path / "mine", container) as mine, cache(tmp_path / "yours", container) as yours:
        mine.push(team)
        yours.pull(team)
        mine.delete(TEXTS[10:20])
        assert mine.pull(team).rows == 0, "a pull brings nothing back that was deleted here"
        assert mine.push(team).deleted == 10
        assert mine.push(team).deleted == 0
        assert yours.pull(team).deleted == 10
        right = values(vectors(container, TEXTS))
        assert stored(yours) == right[:10] + [None] * 10 + right[20:]
        with cache(tmp_path / "fresh", container) as fresh:
            assert fresh.pull(team).rows == 110
            assert stored(fresh) == stored(yours)
        mine.put(TEXTS, vectors(container, TEXTS))
        assert (mine.push(team).rows, yours.pull(team).rows) == (10, 10)
        assert yours.pull(team).deleted == 0
        assert stored(yours) == right


def test_a_whole_segment_that_was_deleted_is_shared_again_by_a_new_name(tmp_path: Path, team: str) -> None:
    with filled(tmp_path / "mine", texts=TEXTS[:5]) as mine:
        mine.push(team)
        for _ in range(3):
            mine.delete(TEXTS[:5])
            assert mine.push(team).deleted == 5
            with cache(tmp_path / "yours") as yours:
                assert len(yours) == 0 or yours.pull(team).deleted == 5
            mine.put(TEXTS[:5], vectors("npy", TEXTS[:5]))
            assert mine.push(team).rows == 5
            with cache(tmp_path / "yours") as yours:
                assert yours.pull(team).rows == 5


def test_a_deleted_text_that_is_encoded_again_before_the_push_gets_its_new_vector(
    tmp_path: Path, team: str
) -> None:
    with filled(tmp_path / "mine") as mine:
        mine.push(team)
        mine.delete(TEXTS[:4])
        mine.put(TEXTS[:4], vectors("npy", TEXTS[:4], 50))
        pushed = mine.push(team)
        assert (pushed.deleted, pushed.rows) == (4, 4)
    with cache(tmp_path / "yours") as yours:
        yours.pull(team)
        assert stored(yours) == values(vectors("npy", TEXTS[:4], 50)) + values(vectors("npy", TEXTS[4:]))


def test_a_deletion_spares_what_was_made_differently_here(tmp_path: Path, team: str) -> None:
    with filled(tmp_path / "mine") as mine, cache(tmp_path / "yours") as yours:
        mine.push(team)
        yours.pull(team)
        yours.put(TEXTS[:1], vectors("npy", TEXTS[:1], 7))
        mine.delete(TEXTS[:2])
        mine.push(team)
        assert yours.pull(team).deleted == 1
        assert stored(yours, TEXTS[:2]) == [*values(vectors("npy", TEXTS[:1], 7)), None]


def test_what_was_deleted_before_a_cache_was_shared_is_not_deleted_for_others(
    tmp_path: Path, team: str
) -> None:
    with filled(tmp_path / "mine") as mine:
        mine.push(team)
    with filled(tmp_path / "yours") as yours:
        yours.delete(TEXTS[:5])
        assert not (tmp_path / "yours" / ".remote").exists(), "nothing is noted in a cache that is not shared"
        yours.put(TEXTS[:1], vectors("npy", TEXTS[:1]))
        assert (yours.push(team).deleted, yours.pull(team).rows) == (0, 4)


def test_a_prune_deletes_nothing_for_others(tmp_path: Path, team: str) -> None:
    with filled(tmp_path / "mine") as mine:
        mine.push(team)
        mine.prune(drop_older_than=10)
        assert mine.push(team).deleted == 0
        assert mine.pull(team).rows == 110


@pytest.mark.parametrize("share", [3, 40, 100])
def test_rows_by_range_have_every_bit_and_few_bytes_more(
    tmp_path: Path, team: str, container: Any, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_WHOLE", 1 if share < 100 else 2)
    filled(tmp_path / "mine", container).push(team)
    wanted = TEXTS[:: 120 // share] if share < 100 else TEXTS
    with cache(tmp_path / "yours", container) as yours:
        assert yours.pull(team, vectors="on-demand").keys == 120
        assert len(yours) == 0
        identity = yours.identity
    with (
        KeyedCache(tmp_path / "yours", identity=identity, containers=(container,)) as local,
        Link(local, Objects(place(team)), namespace_of(local), kept=True) as link,
    ):
        link.index.sync()
        assert take(link.index, local, text_keys([*wanted, "no text"])).rows == len(wanted)
    with cache(tmp_path / "yours", container) as yours:
        assert stored(yours, wanted) == values(vectors(container, wanted))


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/prefix",
        "s3://bucket/../other",
        "s3://bucket//other",
        "s3://bucket/a\\b",
        "s3://bucket/a?X-Amz-Signature=secret",
        "az://account",
        "hf://datasets/a/b",
        "hf://buckets/a",
        "http://example.org/x",
        "file://host/x",
        "file:///a/../b",
        "embeddings",
        "s3://",
    ],
)
def test_an_address_with_credentials_or_tricks_is_refused_without_saying_them(
    tmp_path: Path, url: str
) -> None:
    with filled(tmp_path / "mine") as mine, pytest.raises(ValueError, match="expected") as raised:
        mine.push(url)
    assert "secret" not in str(raised.value)
