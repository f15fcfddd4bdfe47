"""Merging, deleting and sharing again, in any order: what was shared and not deleted is there, once."""

from __future__ import annotations

import os
import random
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_rows import CONTAINERS, TEXTS, cache, filled, objects_of, stored, values, vectors

from dejavec.cli.main import main
from dejavec.remote import push
from dejavec.remote.compaction import Compacted, compact_all
from dejavec.sharing import tidy

pytestmark = pytest.mark.filterwarnings("ignore:.*gets the texts of")

NOW = timedelta(0)
STEPS = int(os.environ.get("DEJAVEC_SHARING_STEPS", "60"))


def push_in_parts(tmp_path: Path, team: str, container: Any) -> None:
    with cache(tmp_path / "mine", container) as mine:
        for start in range(0, 120, 20):
            mine.put(TEXTS[start : start + 20], vectors(container, TEXTS[start : start + 20]))
            mine.push(team)


def commits(tmp_path: Path) -> int:
    return len(objects_of(tmp_path / "team", ".keys"))


def test_small_segments_become_one_and_go_after_the_grace_period(
    tmp_path: Path, team: str, container: Any
) -> None:
    push_in_parts(tmp_path, team, container)
    assert commits(tmp_path) == 6
    with cache(tmp_path / "early", container) as early:
        early.pull(team, vectors="on-demand")
        done = tidy(team)
        assert (done.merged, done.written, done.rows, done.removed) == (6, 1, 120, 0)
        again = tidy(team)
        assert (again.merged, again.written, again.removed) == (0, 0, 0)
        assert commits(tmp_path) == 7
        assert tidy(team, grace=NOW).removed == 6
        assert commits(tmp_path) == 1
        assert early.pull(team).rows == 120
        with cache(tmp_path / "late", container) as late:
            assert late.pull(team).rows == 120
            assert stored(late) == stored(early) == values(vectors(container, TEXTS))
    with cache(tmp_path / "mine", container) as mine:
        assert mine.push(team).rows == 0


def test_a_reader_whose_segments_are_removed_goes_on_with_the_large_one(
    tmp_path: Path, team: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dejavec.remote import fetch

    push_in_parts(tmp_path, team, "npy")
    tidy(team)
    read, left = fetch.read_whole, [2]

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            tidy(team, grace=NOW)
        return read(*arguments, **settings)

    monkeypatch.setattr(fetch, "read_whole", interrupted)
    with cache(tmp_path / "yours") as yours:
        assert yours.pull(team).rows == 120
        assert stored(yours) == values(vectors("npy", TEXTS))


def test_a_deletion_of_a_row_that_was_merged_meanwhile_counts(
    tmp_path: Path, team: str, container: Any
) -> None:
    """The tombstone names the small segment; the large one says that its row came from there."""
    push_in_parts(tmp_path, team, container)
    aside = tmp_path / "aside"
    with cache(tmp_path / "mine", container) as mine:
        mine.delete(TEXTS[:3])
        mine.push(team)
    (tombstone,) = objects_of(tmp_path / "team", ".pairs")
    tombstone.rename(aside)
    tidy(team)
    aside.rename(tombstone)
    tidy(team, grace=NOW)
    with cache(tmp_path / "yours", container) as yours:
        yours.pull(team)
        assert stored(yours) == [None] * 3 + values(vectors(container, TEXTS[3:]))


def test_what_was_deleted_is_not_copied_and_goes(tmp_path: Path, team: str) -> None:
    push_in_parts(tmp_path, team, "npy")
    with cache(tmp_path / "mine") as mine:
        mine.delete(TEXTS[:25])
        mine.push(team)
    assert tidy(team).rows == 95
    assert tidy(team, grace=NOW).removed == 6
    assert commits(tmp_path) == 1


def bytes_in(store: Path, part: bytes) -> bool:
    return any(part in path.read_bytes() for path in objects_of(store))


def test_the_bytes_of_a_deleted_row_go_from_a_large_segment_too(
    tmp_path: Path, team: str, container: Any
) -> None:
    gone, left = TEXTS[77], [text for text in TEXTS if text != TEXTS[77]]
    row = np.array([77, 77, 77] if container == "ragged" else [77, 1, 77 % 3], np.float32).tobytes()
    with filled(tmp_path / "mine", container, keep_texts=True) as mine:
        mine.push(team, texts=True)
        assert bytes_in(tmp_path / "team", row)
        assert bytes_in(tmp_path / "team", gone.encode())
        mine.delete([gone])
        mine.push(team)
    segment_bytes = 100
    assert compact_all(team, segment_bytes=segment_bytes).rows == 119
    assert compact_all(team, segment_bytes=segment_bytes, grace=NOW).removed == 1
    assert not bytes_in(tmp_path / "team", row)
    assert not bytes_in(tmp_path / "team", gone.encode())
    assert compact_all(team, segment_bytes=segment_bytes, grace=NOW) == Compacted()
    with cache(tmp_path / "yours", container) as yours:
        yours.pull(team, texts=True)
        assert stored(yours, left) == values(vectors(container, left))
        assert sorted(filter(None, yours.texts().to_pylist())) == sorted(left)


def test_texts_stay_with_their_rows_when_segments_are_merged(
    tmp_path: Path, team: str, container: Any
) -> None:
    with cache(tmp_path / "mine", container, keep_texts=True) as mine:
        for start in range(0, 120, 20):
            mine.put(TEXTS[start : start + 20], vectors(container, TEXTS[start : start + 20]))
            mine.push(team, texts=True)
    assert tidy(team).merged == 6
    assert tidy(team, grace=NOW).removed == 6
    with cache(tmp_path / "yours", container) as yours:
        yours.pull(team, texts=True)
        assert sorted(filter(None, yours.texts().to_pylist())) == sorted(TEXTS)


def test_a_segment_with_texts_is_not_replaced_by_one_without(tmp_path: Path, team: str) -> None:
    for name, texts, is_told in (("one", TEXTS[:30], True), ("other", TEXTS, False)):
        with filled(tmp_path / name, texts=texts, keep_texts=is_told) as made:
            made.push(f"file://{tmp_path}/{name}-store", texts=is_told)
        shutil.copytree(tmp_path / f"{name}-store", tmp_path / "team", dirs_exist_ok=True)
    tidy(team, grace=NOW)
    assert all(bytes_in(tmp_path / "team", text.encode()) for text in TEXTS[:30])
    with filled(tmp_path / "third", keep_texts=True) as made:
        made.push(f"file://{tmp_path}/third-store", texts=True)
    shutil.copytree(tmp_path / "third-store", tmp_path / "team", dirs_exist_ok=True)
    assert tidy(team, grace=NOW).removed == 2
    assert all(bytes_in(tmp_path / "team", text.encode()) for text in TEXTS)


def test_a_segment_with_deleted_and_differing_rows_is_copied_once(tmp_path: Path, team: str) -> None:
    for name, shift in (("one", 0), ("other", 1000)):
        with filled(tmp_path / name, shift=shift, texts=TEXTS[:30]) as made:
            made.push(f"file://{tmp_path}/{name}-store")
        shutil.copytree(tmp_path / f"{name}-store", tmp_path / "team", dirs_exist_ok=True)
        with cache(tmp_path / name) as made:
            made.push(team)
            made.delete([TEXTS[3 + shift // 1000]])
            made.push(team)
    assert tidy(team).written == 2
    for _ in range(3):
        assert tidy(team, grace=NOW).written == 0


def test_nothing_is_removed_while_a_list_of_deleted_rows_cannot_be_read(tmp_path: Path, team: str) -> None:
    push_in_parts(tmp_path, team, "npy")
    with cache(tmp_path / "mine") as mine:
        mine.delete(TEXTS[:3])
        mine.push(team)
    (tombstone,) = objects_of(tmp_path / "team", ".pairs")
    content = tombstone.read_bytes()
    tombstone.write_bytes(bytes(len(content)))
    tidy(team)
    assert tidy(team, grace=NOW).removed == 0
    tombstone.write_bytes(content)
    tidy(team)
    assert tidy(team, grace=NOW).removed > 0


def test_half_uploaded_files_go_after_the_grace_period(tmp_path: Path, team: str) -> None:
    push_in_parts(tmp_path, team, "npy")
    objects_of(tmp_path / "team", ".keys")[0].unlink()
    assert tidy(team).swept == 0
    assert tidy(team, grace=NOW).swept == 1
    with cache(tmp_path / "mine") as mine:
        assert mine.push(team).rows == 20


def test_different_vectors_of_one_text_both_stay_so_that_nobodys_changes(tmp_path: Path, team: str) -> None:
    for name, shift in (("one", 0), ("other", 1000)):
        with filled(tmp_path / name, shift=shift, texts=TEXTS[:30]) as made:
            made.push(f"file://{tmp_path}/{name}-store")
        shutil.copytree(tmp_path / f"{name}-store", tmp_path / "team", dirs_exist_ok=True)
    found = []
    for number in range(3):
        with cache(tmp_path / f"yours-{number}") as yours:
            yours.pull(team)
            found.append(stored(yours, TEXTS[:30]))
        tidy(team, grace=NOW)
    assert found[0] == found[1] == found[2]


def test_the_command_says_what_it_did(tmp_path: Path, team: str, capsys: pytest.CaptureFixture[str]) -> None:
    push_in_parts(tmp_path, team, "npy")
    before = objects_of(tmp_path / "team")
    assert main(["tidy", team, "--dry-run"]) == 0
    assert "6 small segments would be merged into 1, 120 vectors" in capsys.readouterr().out
    assert objects_of(tmp_path / "team") == before
    assert main(["tidy", team]) == 0
    assert main(["tidy", team, "--grace", "0"]) == 0
    assert "6 replaced segments and 0 half-uploaded files removed" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(int(os.environ.get("DEJAVEC_SHARING_SEEDS", "3"))))
def test_any_sequence_of_sharing_keeps_what_was_shared_and_not_deleted(
    tmp_path: Path, team: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three caches put, delete, push, pull and tidy. A model of sets says what a fresh reader must find."""
    monkeypatch.setattr(push, "SEGMENT_BYTES", 400)
    draw = random.Random(seed)
    container = draw.choice(CONTAINERS)
    texts = TEXTS[:25]
    shared: set[str] = set()
    opened = [
        cache(tmp_path / f"cache-{number}", container, durability="close", keep_texts=number == 1)
        for number in range(3)
    ]
    here: list[set[str]] = [set() for _ in opened]
    deleted: list[set[str]] = [set() for _ in opened]
    known = [False for _ in opened]
    right = dict(zip(texts, values(vectors(container, texts)), strict=True))
    for _ in range(STEPS):
        at = draw.randrange(3)
        some = draw.sample(texts, draw.randrange(1, 6))
        action = draw.choice(["put", "put", "delete", "push", "push", "pull", "tidy"])
        mine = opened[at]
        if action == "put":
            mine.put(some, vectors(container, some))
            here[at] |= set(some)
        elif action == "delete" and here[at]:
            mine.delete(some)
            here[at] -= set(some)
            if known[at]:
                deleted[at] |= set(some)
        elif action == "push" and mine.dim is not None:
            mine.push(team, texts=at == 1)
            shared -= deleted[at]
            shared |= here[at]
            deleted[at], known[at] = set(), True
        elif action == "pull" and objects_of(tmp_path / "team") and mine.dim is not None:
            mine.pull(team)
            known[at] = True
            got = {text for text, row in zip(texts, stored(mine, texts), strict=True) if row is not None}
            assert got >= (shared - deleted[at])
            assert not got & deleted[at] - here[at]
            here[at] = got
        elif action == "tidy" and objects_of(tmp_path / "team"):
            compact_all(
                team, grace=draw.choice([NOW, timedelta(days=1)]), segment_bytes=draw.choice([400, 4000])
            )
        for text, row in zip(texts, stored(mine, texts), strict=True):
            assert row in (None, right[text])
    for made in opened:
        made.close()
    if shared:
        with cache(tmp_path / "fresh", container) as fresh:
            fresh.pull(team)
            got = {text for text, row in zip(texts, stored(fresh, texts), strict=True) if row is not None}
            assert got == shared
            assert fresh.stats()["rows"] == len(fresh) == len(shared)
