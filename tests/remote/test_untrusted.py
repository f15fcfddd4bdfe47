"""Whatever lies in a bucket, a reader skips it with a reason, and never takes a wrong vector."""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_rows import CONTAINERS, TEXTS, cache, filled, objects_of, stored, values, vectors

from dejavec.errors import CacheNotFoundError
from dejavec.keys.items import text_keys
from dejavec.remote import commit, namespace, push, tombstones
from dejavec.remote.checksums import file_digest
from dejavec.remote.defects import DefectError
from dejavec.remote.names import SegmentName, TombstoneName, parse_segment_file
from dejavec.remote.namespace import Form
from dejavec.remote.segment import check_sizes, rows_of, segment_of, texts_of
from dejavec.remote.tombstones import Pairs
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Ragged

RUNS = int(os.environ.get("DEJAVEC_FUZZ_RUNS", "150"))
NAMESPACE = "ab" * 32
KEYS = text_keys(TEXTS[:6])
FORMS = {
    "dense": Form("dense", 3, "<f4", "float32"),
    "ragged": Form("ragged", 3, "<f4", "float32"),
    "sparse": Form("sparse", 3, "<f4", "float32"),
}
INDPTR = np.array([0, 1, 3, 3, 4, 6, 7])
ROWS: dict[str, Any] = {
    "dense": np.arange(18, dtype=np.float32).reshape(6, 3),
    "ragged": Ragged(np.arange(21, dtype=np.float32).reshape(7, 3), INDPTR),
    "sparse": Ragged(np.arange(7, dtype=np.float32), INDPTR, np.array([0, 1, 2, 0, 0, 1, 2], np.int32), 3),
}

changes = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=4)


def changed(content: bytes, where: list[tuple[int, int]], cut: int) -> bytes:
    whole = bytearray(content)
    for at, bits in where:
        if whole:
            whole[at % len(whole)] ^= bits
    return bytes(whole[: len(whole) - cut] if cut else whole)


def named(content: bytes, rows: int) -> SegmentName:
    """The name that a forger would give."""
    return SegmentName(hashlib.sha256(content).hexdigest(), rows)


@settings(max_examples=RUNS, deadline=None)
@given(st.text(max_size=120))
def test_any_name_is_one_or_none(name: str) -> None:
    for text in (name, f"seg/{name}", f"tomb/{name}", f"seg/{'0' * 64}-1.{name}", f"tomb/{'0' * 64}-{name}"):
        found, dead = parse_segment_file(text), TombstoneName.parse(text)
        assert found is None or found[0].file(found[1]) == text
        assert dead is None or dead.file == text


@settings(max_examples=RUNS, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 9))
def test_any_bytes_are_a_commit_or_a_defect(content: bytes, rows: int) -> None:
    for whole in (content, commit.MAGIC + b"\1\0\0\0" + content):
        with pytest.raises(DefectError):
            commit.parse(named(whole, rows), whole)


@pytest.mark.parametrize("kind", FORMS)
@settings(max_examples=RUNS, deadline=None)
@given(where=changes, cut=st.integers(0, 40), forged=st.booleans())
def test_a_changed_commit_is_a_defect_unless_it_was_forged_in_form(
    kind: str, where: list[tuple[int, int]], cut: int, forged: bool
) -> None:
    segment = segment_of(NAMESPACE, KEYS, ROWS[kind], list(TEXTS[:6]))
    content = segment.commit.to_bytes()
    assert np.array_equal(commit.parse(segment.commit.name, content).keys, KEYS)
    found = changed(content, where, cut)
    name = named(found, 6) if forged else segment.commit.name
    try:
        read = commit.parse(name, found)
        check_sizes(read, FORMS[kind])
    except DefectError:
        return
    if not forged:
        assert found == content
    assert len(read.keys) == len(read.checksums) == 6


@pytest.mark.parametrize("kind", FORMS)
@settings(max_examples=RUNS, deadline=None)
@given(where=changes, cut=st.integers(0, 40), which=st.integers(0, 5))
def test_changed_data_are_a_defect(kind: str, where: list[tuple[int, int]], cut: int, which: int) -> None:
    segment = segment_of(NAMESPACE, KEYS, ROWS[kind], list(TEXTS[:6]))
    contents = {part: header + bytes(data) for part, (header, data) in segment.files.items()}
    part = sorted(contents)[which % len(contents)]
    whole = contents[part]
    contents[part] = changed(whole, where, cut)
    try:
        rows, texts = rows_of(segment.commit, FORMS[kind], contents), texts_of(segment.commit, contents)
    except DefectError:
        assert contents[part] != whole
        return
    assert contents[part] == whole
    assert values(rows) == values(ROWS[kind])
    assert texts == TEXTS[:6]


@pytest.mark.parametrize("kind", FORMS)
@settings(max_examples=RUNS, deadline=None)
@given(where=changes, which=st.integers(0, 5))
def test_forged_data_are_rows_in_form_or_a_defect(
    kind: str, where: list[tuple[int, int]], which: int
) -> None:
    """The digests are those of the forged bytes, so only the form can tell."""
    segment = segment_of(NAMESPACE, KEYS, ROWS[kind], list(TEXTS[:6]))
    contents = {part: header + bytes(data) for part, (header, data) in segment.files.items()}
    part = sorted(contents)[which % len(contents)]
    contents[part] = changed(contents[part], where, 0)
    files = {
        name: replace(file, digest=file_digest(contents[name][:128], contents[name][128:]))
        for name, file in segment.commit.files.items()
    }
    forged = replace(segment.commit, files=files)
    try:
        rows = rows_of(forged, FORMS[kind], contents)
        texts = texts_of(forged, contents)
    except DefectError:
        return
    assert len(rows) == len(texts) == 6
    if isinstance(rows, Ragged):
        assert (rows.lengths >= 0).all()
        assert rows.indptr[-1] == len(rows.data)
        assert rows.indices is None or (rows.indices.min() >= 0 and rows.indices.max() < 3)


@settings(max_examples=RUNS, deadline=None)
@given(where=changes, cut=st.integers(0, 80), forged=st.booleans(), random_bytes=st.binary(max_size=200))
def test_a_changed_tombstone_is_a_defect_or_pairs(
    where: list[tuple[int, int]], cut: int, forged: bool, random_bytes: bytes
) -> None:
    digests = np.zeros((6, 32), np.uint8)
    content = Pairs(KEYS, digests, np.arange(6, dtype=np.uint64)).to_bytes(NAMESPACE)
    name = tombstones.name_of(content)
    assert len(tombstones.parse(name, NAMESPACE, content)) == 6
    for found in (changed(content, where, cut), random_bytes):
        called = TombstoneName(named(found, 1).digest, 6) if forged else name
        try:
            assert len(tombstones.parse(called, NAMESPACE, found)) == 6
        except DefectError:
            assert found != content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=RUNS, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["format", "identity", "form", "output", "proven", "mixed"]), json_values, max_size=6
    ),
    st.binary(max_size=60),
)
def test_any_description_of_a_namespace_is_right_or_a_defect(entries: dict[str, Any], noise: bytes) -> None:
    right = namespace.Namespace({"model": {"name": "m"}}, FORMS["dense"], Output("numpy", "float32"))
    whole = json.loads(right.to_bytes())
    assert namespace.parse(right.name, right.to_bytes()) == right
    for content in (json.dumps({**whole, **entries}).encode(), noise, b"[" * 20_000):
        try:
            found = namespace.parse(right.name, content)
        except DefectError:
            continue
        assert found.form == right.form
        assert found.identity == right.identity


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_reader_of_a_scrambled_store_skips_and_never_takes_a_wrong_vector(
    tmp_path: Path, container: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "SEGMENT_BYTES", 900)
    filled(tmp_path / "mine", container).push(f"file://{tmp_path}/team")
    right = values(vectors(container, TEXTS))
    originals = {path: path.read_bytes() for path in objects_of(tmp_path / "team")}
    draw = random.Random(7)
    taken = 0
    for number in range(max(6, RUNS // 15)):
        for path in draw.sample(sorted(originals), 3):
            content = bytearray(originals[path])
            action = draw.randrange(5)
            if action == 0:
                path.unlink(missing_ok=True)
            elif action == 1:
                path.write_bytes(content[: draw.randrange(len(content))])
            elif action == 2:
                path.write_bytes(draw.randbytes(len(content)))
            elif action == 3:
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
                path.write_bytes(content)
            else:
                path.write_bytes(draw.choice(sorted(originals.values())))
        with cache(tmp_path / f"yours-{number}", container) as yours:
            try:
                taken += yours.pull(f"file://{tmp_path}/team").rows
            except CacheNotFoundError:
                continue  # Its meta.json is gone.
            if len(yours):
                assert all(row in (None, good) for row, good in zip(stored(yours), right, strict=True))
        for path, whole in originals.items():
            path.write_bytes(whole)
    assert taken
