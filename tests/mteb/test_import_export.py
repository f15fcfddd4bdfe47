"""Caches that mteb wrote come over without a wrong vector, and ours go back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from comparing import bits_equal, files_below, flip_bit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
from mteb.mocks.mock_tasks.classification import MockClassificationTask
from mteb.models.cache_wrappers.cache_backends.numpy_cache import NumpyCache as MtebNumpyCache
from mteb.models.cache_wrappers.cache_wrapper import CachedEmbeddingWrapper as MtebWrapper
from mteb_models import (
    DIM,
    DOCUMENT,
    QUERY,
    FieldsModel,
    count_batches,
    dataset,
    encode,
    evaluate,
    minilm,
)

from dejavec import CachedEmbeddingWrapper, DejavecError, DejavecWarning, EmbeddingCache, TextVectorMap
from dejavec.cli.main import main
from dejavec.errors import (
    CacheNotFoundError,
    CorruptCacheError,
    ForeignDirectoryError,
    IdentityMismatchError,
    StorageError,
    VectorsError,
)
from dejavec.mteb.migrate.doubts import DOCUMENTS, MEDIA, MIXED, PREPARED, QUERIES, SHARED, UNKNOWN, doubt
from dejavec.mteb.migrate.exporter import export
from dejavec.mteb.migrate.importer import (
    ELSEWHERE,
    NONFINITE,
    OTHER_SETTINGS,
    ZEROS,
    import_cache,
    import_old,
    import_tree,
)
from dejavec.mteb.migrate.old_files import open_old_cache

MODEL = "tests/model@1"
TEXTS = ["a b", "c d e", "", "\U0001f600", "x" * 300]
STS = MockSTSTask.metadata
KNOWN = "STSBenchmark"
"""A task of mteb's registry whose texts have no role."""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def vectors_of(count: int, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


def write_old(
    directory: Path, texts: list[str], vectors: np.ndarray, more: dict[str, int] | None = None
) -> Path:
    """Write the files that mteb writes, with rows behind those in use."""
    directory.mkdir(parents=True)
    spare = np.zeros((10, vectors.shape[1]), np.float32)
    (directory / "vectors.npy").write_bytes(np.concatenate([vectors, spare]).tobytes())
    (directory / "dimension").write_text(str(vectors.shape[1]))
    index = {sha(text): row for row, text in enumerate(texts)} | (more or {})
    (directory / "index.json").write_text(json.dumps(index, indent=2))
    return directory


def state(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of change of every file, and of the directories."""
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in [directory, *sorted(directory.rglob("*"))]
    }


def random_encoder() -> Any:
    return mteb.get_model("mteb/baseline-random-encoder")


def named(task: Any, name: str) -> Any:
    """Give mteb's mock data the name of a task that the registry knows."""
    task.metadata = task.metadata.model_copy(update={"name": name})
    return task


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Where old caches lie."""
    return tmp_path / "old"


@pytest.fixture
def unchanged(old: Path) -> Iterator[Callable[[], None]]:
    """Call it once the old caches are there: what follows must not change them."""
    before: list[dict[str, tuple[bytes, int]]] = []
    yield lambda: before.append(state(old))
    assert before
    assert state(old) == before[0]


# Whole trees, of a wrapper


@pytest.mark.parametrize("made", [MockSTSTask, MockClassificationTask])
def test_a_tree_that_mteb_wrote_answers_for_the_model(
    made: Any, old: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    expected = evaluate(random_encoder(), made())
    assert evaluate(MtebWrapper(random_encoder(), old), made()) == expected
    unchanged()
    with CachedEmbeddingWrapper(random_encoder(), tmp_path / "new", model_name="random@2") as wrapper:
        (report,) = import_tree(old, wrapper, tasks=[made()])
        assert report.taken == len(open_old_cache(report.source)) > 0
        assert not report.left
        assert report.doubt is report.refused is None
        assert evaluate(wrapper, made()) == expected
        assert wrapper.totals.misses == 0
        assert wrapper.totals.hits > 0


@pytest.mark.parametrize(
    "kind", [("numpy", "float32"), ("torch", "float32"), ("torch", "float16"), ("torch", "bfloat16")]
)
def test_imported_vectors_come_as_the_model_returns_them(
    kind: tuple[str, str], old: Path, tmp_path: Path
) -> None:
    model = FieldsModel(library=kind[0], dtype=kind[1])
    encode(MtebWrapper(model, old), TEXTS, task_metadata=STS)
    expected = encode(model, TEXTS, task_metadata=STS)
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    (report,) = import_tree(old, wrapper, tasks=[MockSTSTask()])
    assert report.taken == len(TEXTS)
    model.calls.clear()
    again = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    assert bits_equal(encode(again, TEXTS, task_metadata=STS), expected)
    assert model.calls == []
    assert bits_equal(encode(again, [*TEXTS, "new"], task_metadata=STS)[:-1], expected)
    assert model.calls == [["new"]]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"revision": "b" * 40}},
        {"call": {"normalize_embeddings": True}},
        {"call": {"prompt_type": QUERY}},
    ],
    ids=str,
)
def test_nothing_but_the_asserted_call_gets_imported_vectors(
    change: dict[str, Any], old: Path, tmp_path: Path
) -> None:
    encode(MtebWrapper(FieldsModel(), old), TEXTS, task_metadata=STS)
    import_tree(old, CachedEmbeddingWrapper(FieldsModel(), tmp_path / "new"), tasks=[MockSTSTask()])
    model = FieldsModel(**change.get("model", {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DejavecWarning)
        wrapper = CachedEmbeddingWrapper(model, tmp_path / "new")
        encode(wrapper, TEXTS, task_metadata=STS, **change.get("call", {}))
    assert model.calls == [TEXTS]


def test_arguments_that_the_old_run_had_are_part_of_the_call(old: Path, tmp_path: Path) -> None:
    encode(MtebWrapper(FieldsModel(), old), TEXTS, task_metadata=STS, normalize_embeddings=True)
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    import_tree(old, wrapper, tasks=[MockSTSTask()], arguments={"normalize_embeddings": True})
    model.calls.clear()
    encode(wrapper, TEXTS, task_metadata=STS, normalize_embeddings=True)
    assert model.calls == []
    with pytest.warns(DejavecWarning, match="expected no arguments, found arguments"):
        encode(wrapper, TEXTS, task_metadata=STS)
    assert model.calls == [TEXTS]


@pytest.mark.slow
def test_a_sentence_transformers_vectors_belong_to_the_prompt_that_it_resolves(
    old: Path, tmp_path: Path
) -> None:
    model = minilm(model_prompts={"STS": "Compare: "})
    expected = encode(model, TEXTS, task_metadata=STS)
    encode(MtebWrapper(model, old), TEXTS, task_metadata=STS)
    (report,) = import_tree(
        old,
        CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1"),
        tasks=[MockSTSTask()],
        progress=False,
    )
    assert report.prompts == [{"text": "Compare: "}]
    sizes = count_batches(model)
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    assert bits_equal(encode(wrapper, TEXTS, task_metadata=STS), expected)
    assert sizes == []
    model.model_prompts["STS"] = "Other: "
    with pytest.warns(DejavecWarning, match="expected prompt"):
        encode(wrapper, TEXTS, task_metadata=STS)
    assert sum(sizes) == len(TEXTS)


def test_queries_and_documents_are_taken_only_on_trust(
    old: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    expected = evaluate(FieldsModel(), MockRetrievalTask())
    mteb_scores = evaluate(MtebWrapper(FieldsModel(), old), MockRetrievalTask())
    assert mteb_scores != expected, "mteb no longer prepares twice: its caches are as good as any"
    unchanged()
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    reports = import_tree(old, wrapper, tasks=[MockRetrievalTask()])
    assert [report.taken for report in reports] == [0, 0]
    assert [report.left for report in reports] == [{DOCUMENTS: 2}, {QUERIES: 2}]
    assert not list((tmp_path / "new").iterdir())
    reports = import_tree(old, wrapper, tasks=[MockRetrievalTask()], trust=True)
    assert [report.taken for report in reports] == [2, 2]
    # Even so, the wrapper never looks for a document with a title, whose vector is wrong, under that key.
    assert evaluate(wrapper, MockRetrievalTask()) == expected


def test_on_trust_documents_without_titles_are_hits(old: Path, tmp_path: Path) -> None:
    encode(MtebWrapper(FieldsModel(), old), dataset(["a"], id=["1"]), prompt_type=DOCUMENT)
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    import_tree(old, wrapper, tasks=[MockRetrievalTask()], trust=True)
    model.calls.clear()
    encode(wrapper, dataset(["a"], id=["1"]), prompt_type=DOCUMENT)
    assert model.calls == []


def test_a_directory_without_roles_serves_both_on_trust(old: Path, tmp_path: Path) -> None:
    vectors = vectors_of(2, DIM)
    write_old(old / MockRetrievalTask.metadata.name, ["a", "b"], vectors)
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new", model_name="tests/model@1")
    (report,) = import_tree(old, wrapper, tasks=[MockRetrievalTask()])
    assert report.left == {MIXED: 2}
    (report,) = import_tree(old, wrapper, tasks=[MockRetrievalTask()], trust=True)
    assert [path.name for path in report.targets] == ["query", "document"]
    model.calls.clear()
    for role in (QUERY, DOCUMENT):
        assert bits_equal(encode(wrapper, ["a", "b"], prompt_type=role), vectors)
    assert model.calls == []


def test_only_texts_without_a_role_are_certain() -> None:
    assert doubt(MockSTSTask(), None) is None
    assert doubt(MockRetrievalTask(), None) == MIXED
    assert doubt(MockRetrievalTask(), "query") == QUERIES
    assert doubt(MockRetrievalTask(), "document") == DOCUMENTS
    assert doubt(MockSTSTask(), "document") == PREPARED
    assert doubt(mteb.get_task("TERRa.V2"), None) == MIXED


def test_what_no_call_would_look_for_is_left_out(old: Path, tmp_path: Path) -> None:
    model = FieldsModel(experiment_kwargs={"layer": 3})
    encode(MtebWrapper(model, old), TEXTS, task_metadata=STS)
    encode(MtebWrapper(FieldsModel(), old), TEXTS, task_metadata=STS)
    write_old(old / "No such task", ["a"], vectors_of(1, DIM))
    write_old(old / STS.name / "deeper" / STS.name, ["a"], vectors_of(1, DIM))
    write_old(old / "CIFAR10", ["a"], vectors_of(1, DIM))
    wrapper = CachedEmbeddingWrapper(model, tmp_path / "new")
    reports = {
        str(report.source.relative_to(old)): report
        for report in import_tree(old, wrapper, tasks=[MockSTSTask()], trust=True)
    }
    count = len(TEXTS)
    assert reports.pop(f"{STS.name}/experiments/layer_3").taken == count
    assert {name: report.left for name, report in reports.items()} == {
        STS.name: {OTHER_SETTINGS: count},
        "No such task": {UNKNOWN: 1},
        f"{STS.name}/deeper/{STS.name}": {ELSEWHERE: 1},
        "CIFAR10": {MEDIA: 1},
    }


class ReadsSubset(FieldsModel):
    def encode(self, inputs: Any, **arguments: Any) -> Any:
        return super().encode(inputs, **arguments)


def test_models_that_see_more_than_the_directories_tell_are_refused(old: Path, tmp_path: Path) -> None:
    encode(MtebWrapper(FieldsModel(), old), TEXTS, task_metadata=STS)
    new = tmp_path / "new"
    tasks = [MockSTSTask()]
    with pytest.raises(IdentityMismatchError, match="hf_subset"):
        import_tree(old, CachedEmbeddingWrapper(ReadsSubset(), new), tasks=tasks)
    with pytest.raises(IdentityMismatchError, match="rest of their call"):
        import_tree(old, CachedEmbeddingWrapper(FieldsModel(), new, call_dependent=True), tasks=tasks)
    with pytest.raises(VectorsError, match="quantised"):
        import_tree(old, CachedEmbeddingWrapper(FieldsModel(), new), arguments={"precision": "int8"})
    for dtype in ("float64", "int8"):
        with pytest.raises(VectorsError, match=dtype):
            import_tree(old, CachedEmbeddingWrapper(FieldsModel(dtype=dtype), new), tasks=tasks)
    assert not list(new.iterdir())


def test_vectors_that_the_model_cannot_have_made_are_refused(old: Path, tmp_path: Path) -> None:
    write_old(old / STS.name, ["a", "b"], vectors_of(2, DIM))
    for number, model in enumerate(
        [FieldsModel(library="torch", dtype="bfloat16"), FieldsModel(dtype="float16")]
    ):
        wrapper = CachedEmbeddingWrapper(model, tmp_path / f"new{number}")
        (report,) = import_tree(old, wrapper, tasks=[MockSTSTask()])
        assert report.refused is not None
        assert f"dtype {model.dtype}" in report.refused
        assert report.taken == 0
        assert not list(wrapper.cache_path.iterdir())
    (old / STS.name).rename(old / "away")
    write_old(old / STS.name, ["a"], vectors_of(1, DIM + 1))
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path / "new")
    refused = {report.refused for report in import_tree(old, wrapper, tasks=[MockSTSTask()])}
    said = f"expected dimension {DIM}, as this model's, found {DIM + 1}; name the model that made it"
    assert refused == {None, f"{old / STS.name}: {said}"}


def test_a_damaged_cache_does_not_keep_others_from_being_taken(
    old: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    for made in (MockSTSTask, MockClassificationTask):
        encode(MtebWrapper(FieldsModel(), old), TEXTS, task_metadata=made.metadata)
    (old / STS.name / "dimension").write_text("many")
    unchanged()
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path / "new")
    reports = import_tree(old, wrapper, tasks=[MockSTSTask(), MockClassificationTask()])
    assert [(report.taken, report.refused is None) for report in reports] == [(len(TEXTS), True), (0, False)]
    assert not (tmp_path / "new" / STS.name).exists()


# Single caches


def test_a_single_cache_that_mteb_wrote_reads_back_equal(
    old: Path, tmp_path: Path, unchanged: Callable[[], None]
) -> None:
    evaluate(MtebWrapper(random_encoder(), old), named(MockSTSTask(), KNOWN))
    source, new = old / KNOWN, tmp_path / "new"
    task = MockSTSTask()
    task.load_data()
    texts = sorted({text for name in ("sentence1", "sentence2") for text in task.dataset["test"][name]})
    theirs = MtebNumpyCache(source)
    theirs.load()
    expected = np.array([theirs.get_vector({"text": text}) for text in texts])
    theirs.close()
    unchanged()
    report = import_cache(source, new, MODEL)
    assert (report.taken, report.left, report.doubt) == (len(texts), {}, None)
    with EmbeddingCache(new, model=MODEL) as cache:
        found, vectors = cache.get(texts)
        assert found.all()
        assert bits_equal(vectors, expected)
        assert cache.verify()["damaged"] == []
    ours = TextVectorMap(new).load(name=KNOWN)
    assert all(bits_equal(ours.get_vector(text), row) for text, row in zip(texts, expected, strict=True))
    with pytest.raises(IdentityMismatchError):
        EmbeddingCache(new, model="tests/other@1")


def test_a_single_cache_of_unknown_origin_is_taken_only_on_trust(old: Path, tmp_path: Path) -> None:
    write_old(old, TEXTS, vectors_of(len(TEXTS)))
    report = import_cache(old, tmp_path / "new", MODEL)
    assert (report.taken, report.left) == (0, {UNKNOWN: len(TEXTS)})
    assert not (tmp_path / "new").exists()
    report = import_cache(old, tmp_path / "new", MODEL, trust=True)
    assert (report.taken, report.left, report.doubt) == (len(TEXTS), {}, UNKNOWN)


def test_importing_again_goes_on_and_replaces_nothing(old: Path, tmp_path: Path) -> None:
    vectors = vectors_of(len(TEXTS))
    write_old(old / KNOWN, TEXTS, vectors)
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS[1:2], np.ones((1, 3), np.float32))
    for taken in (len(TEXTS) - 1, 0):
        report = import_cache(old / KNOWN, tmp_path / "new", MODEL)
        assert (report.taken, report.held) == (taken, len(TEXTS) - taken)
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        vectors[1] = 1
        assert bits_equal(cache.get(TEXTS)[1], vectors)
        assert len(cache) == len(TEXTS)


def test_placeholders_and_nonfinite_vectors_are_never_taken(old: Path, tmp_path: Path) -> None:
    vectors = vectors_of(5)
    vectors[1] = 0
    vectors[2, 0], vectors[3, 2] = np.nan, -np.inf
    write_old(old, TEXTS, vectors)
    report = import_cache(old, tmp_path / "new", MODEL, trust=True)
    assert (report.taken, report.left) == (2, {ZEROS: 1, NONFINITE: 2})
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        assert cache.get(TEXTS)[0].tolist() == [True, False, False, False, True]


def test_keys_of_images_audio_and_video_are_counted_and_left_out(old: Path, tmp_path: Path) -> None:
    media = {sha("a") + sha("image"): 2, "0" * 192: 3, "f" * 256: 4}
    write_old(old / KNOWN, ["a", "b"], vectors_of(5), media)
    for trust in (False, True):
        report = import_cache(old / KNOWN, tmp_path / f"new{trust}", MODEL, trust=trust)
        assert (report.taken, report.left) == (2, {MEDIA: 3})


def test_rows_named_twice_make_a_cache_doubtful_and_are_never_taken(old: Path, tmp_path: Path) -> None:
    write_old(old / KNOWN, TEXTS, vectors_of(5), {sha("other"): 3})
    report = import_cache(old / KNOWN, tmp_path / "new", MODEL)
    assert (report.taken, report.left) == (0, {SHARED: 6})
    report = import_cache(old / KNOWN, tmp_path / "new", MODEL, trust=True)
    assert (report.taken, report.left) == (4, {SHARED: 2})
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        assert cache.get([*TEXTS, "other"])[0].tolist() == [True, True, True, False, True, False]


def rewrite_index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        path = directory / "index.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return rewrite


def replaced(name: str, content: bytes | str) -> Callable[[Path], None]:
    text = content if isinstance(content, bytes) else content.encode()

    def replace(directory: Path) -> None:
        (directory / name).write_bytes(text)

    return replace


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda directory: os.truncate(directory / name, length)


def removed(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def swapped(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def swap(directory: Path) -> None:
        (directory / name).unlink()
        make(directory / name)

    return swap


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "index cut short": (
        cut("index.json", 250),
        "index.json: expected a key and a row, found the end of the file",
    ),
    "index empty": (cut("index.json", 0), "index.json: expected a JSON object"),
    "index no JSON": (replaced("index.json", "\0\1\2"), "index.json: expected a JSON object"),
    "index no object": (replaced("index.json", "[1, 2]"), "index.json: expected a JSON object"),
    "index nested": (
        replaced("index.json", '{"a": {"b": ' * 100_000),
        "index.json: expected a key and a row",
    ),
    "more after the end": (
        lambda directory: (directory / "index.json").open("a").write("x") and None,
        "expected the end of the file, found 'x'",
    ),
    "key no hex": (rewrite_index(lambda index: {"g" * 64: 0}), "lower-case hexadecimal"),
    "key in capitals": (rewrite_index(lambda index: {"A" * 64: 0}), "lower-case hexadecimal"),
    "key too short": (rewrite_index(lambda index: index | {"ab": 0}), r"found 'ab' \(2 characters\)"),
    "key too long": (rewrite_index(lambda index: {"a" * 320: 0}), r"\(320 characters\)"),
    "key of one and a half digests": (rewrite_index(lambda index: {"a" * 96: 0}), r"\(96 characters\)"),
    "key twice": (
        replaced("index.json", f'{{"{sha("a")}": 0, "{sha("b")}": 1, "{sha("a")}": 2}}'),
        f"expected each key once, found {sha('a')} twice",
    ),
    "row negative": (rewrite_index(lambda index: index | {sha("x"): -1}), "expected row numbers, found '-1'"),
    "row a fraction": (rewrite_index(lambda index: {sha("x"): 0.5}), "expected row numbers, found '0.5'"),
    "row a truth value": (
        rewrite_index(lambda index: {sha("x"): True}),
        "expected row numbers, found 'true'",
    ),
    "row a text": (rewrite_index(lambda index: {sha("x"): "1"}), "expected a key and a row"),
    "row none": (rewrite_index(lambda index: {sha("x"): None}), "expected row numbers, found 'null'"),
    "row huge": (replaced("index.json", f'{{"{sha("x")}": {"9" * 5000}}}'), "index.json: expected"),
    "row behind the end": (
        rewrite_index(lambda index: index | {sha("x"): 15}),
        "expected rows below 15, .* 15",
    ),
    "vectors cut short": (
        cut("vectors.npy", 2 * 12),
        "expected rows below 2, as vectors.npy has, found row 4",
    ),
    "vectors no whole rows": (cut("vectors.npy", 100), "expected rows of 12 bytes, .*found 100 bytes"),
    "vectors empty": (cut("vectors.npy", 0), "expected rows below 0"),
    "vectors with a header": (
        lambda directory: np.save(directory / "vectors.npy", np.ones((41, 3), np.float32)),
        "found the header of a NumPy file",
    ),
    "vectors missing": (removed("vectors.npy"), "vectors.npy: expected a file, found No such file"),
    "vectors a pipe": (
        swapped("vectors.npy", os.mkfifo),
        "vectors.npy: expected a file, found something else",
    ),
    "index a pipe": (swapped("index.json", os.mkfifo), "index.json: expected a file, found something else"),
    "index a directory": (swapped("index.json", Path.mkdir), "index.json: expected a file"),
    "index missing": (removed("index.json"), "index.json: expected a file, found No such file"),
    "dimension missing": (removed("dimension"), "dimension: expected a file, found No such file"),
    "dimension no number": (replaced("dimension", "None"), "expected a number from 1 to 65536, found 'None'"),
    "dimension zero": (replaced("dimension", "0"), "expected a number from 1 to 65536, found '0'"),
    "dimension huge": (replaced("dimension", "9" * 5000), "expected a number from 1 to 65536"),
    "dimension negative": (replaced("dimension", "-3"), "expected a number from 1 to 65536, found '-3'"),
    "dimension of others": (replaced("dimension", "4096"), "expected rows of 16384 bytes"),
    "FAISS instead": (
        lambda directory: (directory / "vectors.npy").rename(directory / "vectors.faiss") and None,
        "expected the header of a flat index of FAISS",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_refused_in_one_sentence_and_leaves_nothing(
    damage: tuple[Callable[[Path], None], str], old: Path, tmp_path: Path
) -> None:
    write_old(old, TEXTS, vectors_of(len(TEXTS)))
    damage[0](old)
    names = sorted(old.iterdir())
    with pytest.raises(CorruptCacheError, match=damage[1]) as caught:
        import_cache(old, tmp_path / "new", MODEL, trust=True)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert not (tmp_path / "new").exists()
    assert sorted(old.iterdir()) == names


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    index=st.dictionaries(st.sampled_from([sha(str(number)) for number in range(50)]), st.integers(0, 39)),
    indent=st.sampled_from([None, 0, 2, 7]),
)
def test_every_index_that_mteb_may_write_is_read(
    index: dict[str, int], indent: int | None, tmp_path: Path
) -> None:
    (tmp_path / "index.json").write_text(json.dumps(index, indent=indent))
    (tmp_path / "dimension").write_text("3\n")
    (tmp_path / "vectors.npy").write_bytes(vectors_of(40).tobytes())
    read = open_old_cache(tmp_path)
    assert {key.tobytes().hex(): row for key, row in zip(read.keys, read.rows.tolist(), strict=True)} == index


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(start=st.integers(0, 400), length=st.integers(0, 400), bytes_=st.binary(max_size=40))
def test_any_other_bytes_are_an_error_or_an_index(
    start: int, length: int, bytes_: bytes, tmp_path: Path
) -> None:
    sound = json.dumps({sha(text): row for row, text in enumerate(TEXTS)}, indent=2).encode()
    text = sound[:start] + bytes_ + sound[start + length :]
    (tmp_path / "index.json").write_bytes(text)
    (tmp_path / "dimension").write_text("3")
    (tmp_path / "vectors.npy").write_bytes(vectors_of(5).tobytes())
    try:
        read = open_old_cache(tmp_path)
    except CorruptCacheError:
        return
    entries = {key.tobytes().hex(): row for key, row in zip(read.keys, read.rows.tolist(), strict=True)}
    assert entries.items() <= json.loads(text).items()


def test_a_large_index_and_scattered_rows_are_read_in_blocks(old: Path, tmp_path: Path) -> None:
    texts = [str(number) for number in range(30_000)]
    vectors = vectors_of(60_000, 160)
    write_old(old, [], vectors, {sha(text): 59_998 - 2 * row for row, text in enumerate(texts)})
    assert (old / "index.json").stat().st_size > 2 << 20
    assert vectors.nbytes > 2 * (16 << 20)
    assert import_cache(old, tmp_path / "new", MODEL, trust=True).taken == len(texts)
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        assert bits_equal(cache.get(texts)[1], vectors[59_998::-2])


def test_one_directory_in_the_other_is_refused(old: Path, tmp_path: Path) -> None:
    write_old(old / KNOWN, ["a"], vectors_of(1))
    for new in (old / KNOWN, old / KNOWN / "new", old, tmp_path):
        with pytest.raises(ForeignDirectoryError, match="only read"):
            import_cache(old / KNOWN, new, MODEL)
    with pytest.raises(ForeignDirectoryError, match="only read"):
        import_tree(old, CachedEmbeddingWrapper(FieldsModel(), old))


def test_where_there_is_nothing_to_import_it_says_so(old: Path, tmp_path: Path) -> None:
    old.mkdir()
    for source in (old, tmp_path / "missing"):
        with pytest.raises(DejavecError, match=re.escape(str(source))):
            import_old(source, tmp_path / "new", MODEL)
    with pytest.raises(CacheNotFoundError, match="found none"):
        import_tree(old, CachedEmbeddingWrapper(FieldsModel(), tmp_path / "new"))
    write_old(old / KNOWN, [], vectors_of(0))
    assert import_cache(old / KNOWN, tmp_path / "other", MODEL).taken == 0
    assert not (tmp_path / "other").exists()


# The commands


def test_the_command_that_the_error_names_works(old: Path, tmp_path: Path) -> None:
    write_old(old / KNOWN, TEXTS, vectors_of(len(TEXTS)))
    for opens in (lambda: EmbeddingCache(old / KNOWN, model=MODEL), lambda: TextVectorMap(old / KNOWN)):
        with pytest.raises(ForeignDirectoryError) as caught:
            opens()
        (command,) = re.findall("`(.*)`", str(caught.value))
        words = shlex.split(command)
        assert words[:2] == ["dejavec", "import"]
        assert words[3] == f"{old / KNOWN}-imported"
        command = ["import", words[2], str(tmp_path / "new"), "--model", MODEL]
        before = files_below(tmp_path)
        assert main([*command, "--dry-run"]) == 0
        assert files_below(tmp_path) == before
        assert main(command) == 0
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        assert cache.get(TEXTS)[0].all()


def test_the_command_imports_a_tree_for_the_model_as_mteb_loads_it(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(random_encoder(), named(MockSTSTask(), KNOWN))
    evaluate(MtebWrapper(random_encoder(), old), named(MockSTSTask(), KNOWN))
    evaluate(MtebWrapper(random_encoder(), old), named(MockRetrievalTask(), "NFCorpus"))
    command = ["import", str(old), str(tmp_path / "new"), "--model", "mteb/baseline-random-encoder@2"]
    assert main([*command, "--dry-run"]) == 0
    assert f"{old / KNOWN}: 4 vectors would be imported to" in capsys.readouterr().out
    assert not files_below(tmp_path / "new")
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{old / KNOWN}: 4 vectors imported to {tmp_path / 'new' / KNOWN}" in printed
    assert f"2 left out: {DOCUMENTS}; --trust takes them" in printed
    assert "You answer for the imported vectors: mteb/baseline-random-encoder@2 made them" in printed
    wrapper = CachedEmbeddingWrapper(random_encoder(), tmp_path / "new")
    assert evaluate(wrapper, named(MockSTSTask(), KNOWN)) == expected
    assert wrapper.totals.misses == 0
    assert 0 < wrapper.totals.confirmed <= 16  # The model is asked whether it made the imported vectors.


def test_the_command_fails_if_a_cache_was_refused(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_old(old / KNOWN, ["a"], vectors_of(1, 32))
    (old / KNOWN / "index.json").write_text("{")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DejavecWarning)
        command = ["import", str(old), str(tmp_path / "new"), "--model", "mteb/baseline-random-encoder@2"]
        status = main([*command, "--trust"])
    assert status == 1
    assert "nothing imported" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["no revision", "no/such-model@1", "no revision@", "@1"])
def test_the_command_says_which_model_it_wants(model: str, old: Path, tmp_path: Path) -> None:
    write_old(old / KNOWN, ["a"], vectors_of(1))
    with pytest.raises(DejavecError, match=re.escape(model)):
        import_old(old, tmp_path / "new", model)
    assert not (tmp_path / "new").exists()


# Export


def read_by_mteb(directory: Path, texts: list[str]) -> np.ndarray:
    cache = MtebNumpyCache(directory)
    cache.load()
    try:
        return np.array([cache.get_vector({"text": text}) for text in texts])
    finally:
        cache.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "bool"])
def test_what_is_exported_is_read_by_mteb(dtype: str, tmp_path: Path) -> None:
    vectors = (vectors_of(5) * 50).astype(dtype)
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS, vectors)
    (report,) = export(tmp_path / "new", tmp_path / "out")
    assert (report.written, report.dtype) == (5, dtype)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dimension",
        "index.json",
        "vectors.npy",
    ]
    assert bits_equal(read_by_mteb(tmp_path / "out", TEXTS), vectors.astype(np.float32))
    # As the TextVectorMap of mteb 1.x maps it.
    mapped = np.memmap(tmp_path / "out" / "vectors.npy", dtype="float32", mode="r+").reshape(-1, 3)
    assert bits_equal(np.array(mapped), vectors.astype(np.float32))


def test_mteb_goes_on_with_an_export(tmp_path: Path) -> None:
    model = FieldsModel()
    expected = encode(model, [*TEXTS, "new"], task_metadata=STS)
    with CachedEmbeddingWrapper(model, tmp_path / "new") as wrapper:
        encode(wrapper, TEXTS, task_metadata=STS)
    export(tmp_path / "new", tmp_path / "out")
    model.calls.clear()
    for _ in range(2):
        theirs = MtebWrapper(model, tmp_path / "out")
        assert bits_equal(encode(theirs, [*TEXTS, "new"], task_metadata=STS), expected)
        theirs.close()
    assert model.calls == [["new"]]


def test_bfloat16_is_exported_exactly(tmp_path: Path) -> None:
    import torch

    tensor = torch.from_numpy(vectors_of(5)).bfloat16()
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS, tensor)
    (report,) = export(tmp_path / "new", tmp_path / "out")
    assert report.dtype == "bfloat16"
    assert bits_equal(read_by_mteb(tmp_path / "out", TEXTS), tensor.float().numpy())


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_numbers_that_float32_may_not_hold_are_refused(dtype: str, tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS, (vectors_of(5) * 50).astype(dtype))
    with pytest.raises(VectorsError, match=dtype):
        export(tmp_path / "new", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_only_the_newest_sound_vectors_are_exported(tmp_path: Path) -> None:
    vectors = vectors_of(5)
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS, vectors)
        cache.put(TEXTS[:1], vectors[:1] + 1)
    flip_bit(tmp_path / "new" / "vectors.npy", 128 + 2 * 12)
    (report,) = export(tmp_path / "new", tmp_path / "out")
    assert (report.written, report.replaced, report.damaged, report.dead) == (4, 1, 1, 0)
    vectors[0] += 1
    rest = [0, 1, 3, 4]
    assert bits_equal(read_by_mteb(tmp_path / "out", [TEXTS[row] for row in rest]), vectors[rest])
    assert sha(TEXTS[2]) not in json.loads((tmp_path / "out" / "index.json").read_text())
    from dejavec import _core

    _core.repair(str(tmp_path / "new"), lock_timeout=1.0)
    (report,) = export(tmp_path / "new", tmp_path / "again")
    assert (report.written, report.replaced, report.damaged, report.dead) == (4, 1, 0, 1)


def test_there_and_back_again_is_the_same(old: Path, tmp_path: Path) -> None:
    write_old(old, TEXTS, vectors_of(5))
    import_cache(old, tmp_path / "new", MODEL, trust=True)
    export(tmp_path / "new", tmp_path / "out")
    for name in ("index.json", "dimension"):
        assert (tmp_path / "out" / name).read_bytes() == (old / name).read_bytes()
    used = (tmp_path / "out" / "vectors.npy").read_bytes()
    assert (old / "vectors.npy").read_bytes().startswith(used)
    assert len(used) == 5 * 12


def test_a_tree_is_exported_without_what_mteb_has_no_place_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    with CachedEmbeddingWrapper(FieldsModel(), new) as wrapper:
        for role in (None, QUERY, DOCUMENT):
            encode(wrapper, TEXTS, prompt_type=role)
    with pytest.warns(DejavecWarning), CachedEmbeddingWrapper(FieldsModel(revision="b" * 40), new) as wrapper:
        encode(wrapper, TEXTS)
    before = files_below(tmp_path)
    assert main(["export", str(new), str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("5 vectors would go to") == 3
    assert files_below(tmp_path) == before
    assert main(["export", str(new), str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("5 vectors") == 3
    assert printed.count("left out: mteb keeps one cache") == 1
    found = sorted(str(path.parent.relative_to(out)) for path in out.rglob("index.json"))
    name = MockRetrievalTask.metadata.name
    assert found == [name, f"{name}/document", f"{name}/query"]


def test_a_target_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS, vectors_of(5))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("")
    (tmp_path / "file").write_text("")
    for target in (out, tmp_path / "file", tmp_path / "new", tmp_path / "new" / "out"):
        before = state(tmp_path)
        with pytest.raises(ForeignDirectoryError, match="choose another"):
            export(tmp_path / "new", target)
        assert state(tmp_path) == before
    (out / "mine").unlink()
    assert export(tmp_path / "new", out)[0].written == 5
    with pytest.raises(CacheNotFoundError):
        export(tmp_path / "out", tmp_path / "other")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put([str(number) for number in range(2000)], vectors_of(2000, 64))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        with pytest.raises(StorageError, match="could not be written"):
            export(tmp_path / "new", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_empty_cache_is_exported_as_a_directory_that_mteb_fills(tmp_path: Path) -> None:
    with EmbeddingCache(tmp_path / "new", model=MODEL) as cache:
        cache.put(TEXTS[:1], vectors_of(1))
    with (tmp_path / "new" / "vectors.npy").open("r+b") as file:
        file.seek(128)
        file.write(b"\1" * 12)
    (report,) = export(tmp_path / "new", tmp_path / "out")
    assert (report.written, report.damaged) == (0, 1)
    theirs = MtebNumpyCache(tmp_path / "out")
    with pytest.warns(UserWarning, match="No existing files"):
        theirs.load()
    theirs.add([{"text": "a"}], vectors_of(1))
    theirs.save()
    theirs.close()
    assert bits_equal(read_by_mteb(tmp_path / "out", ["a"]), vectors_of(1))
