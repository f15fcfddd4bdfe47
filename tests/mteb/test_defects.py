"""What goes wrong with mteb's own cache, and not with this one: the rows of the table in docs/mteb.md."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import bits_equal, flip_bit
from datasets import Dataset
from media_samples import image, stored
from mteb._create_dataloaders import create_dataloader
from mteb._evaluators.image.imagetext_pairclassification_evaluator import _build_image_dataset
from mteb.models.cache_wrappers.cache_backends import FaissCache
from mteb_models import DIM, DOCUMENT, QUERY, TASK, FieldsModel, dataset, encode, loader, meta
from torch.utils.data import DataLoader

import dejavec
from dejavec import CachedEmbeddingWrapper, DejavecWarning

TEXTS = ["a b c", "d", "e f", "g h i j", "k l"]
COUNTERS = Path("/proc/self/io")
needs_counters = pytest.mark.skipif(not COUNTERS.exists(), reason="the system does not count what is read")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("never_asks")]
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="a fork of this process may not be usable")


def found(wrapper: CachedEmbeddingWrapper, rows: Any, **arguments: Any) -> Any:
    """The vectors of a call, which are those of the model."""
    vectors = encode(wrapper, rows, **arguments)
    assert bits_equal(vectors, encode(FieldsModel(), rows, **arguments))
    return vectors


# 1. It prepares the data of each call a second time.

TITLES = {"id": ["1", "2", "3"], "title": ["T", "", "U"], "text": ["one", "two", "one"]}
QUERIES = {"id": ["1", "2"], "text": ["what", "what"], "instruction": ["be brief", "be long"]}
CONVERSATIONS = {
    "id": ["1", "2"],
    "text": [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
        [{"role": "user", "content": "hi; assistant: ho"}],
    ],
}


@pytest.mark.parametrize(
    ("columns", "prompt_type"), [(TITLES, DOCUMENT), (QUERIES, QUERY), (CONVERSATIONS, QUERY)]
)
def test_prepared_data_are_never_prepared_again(columns: Any, prompt_type: Any, tmp_path: Path) -> None:
    def prepared() -> Any:
        return create_dataloader(Dataset.from_dict(columns), task_metadata=TASK, prompt_type=prompt_type)

    uncached = encode(FieldsModel(), prepared(), prompt_type=prompt_type)
    half = prepared()
    half = loader(half.dataset.select([1]), collate_fn=half.collate_fn)
    for name, first in (("full", prepared()), ("half", half)):
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path / name)
        encode(wrapper, first, prompt_type=prompt_type)
        assert bits_equal(encode(wrapper, prepared(), prompt_type=prompt_type), uncached)


# 2. It fails where a data set cannot select rows, or loses a column when it is prepared again.


def test_a_data_set_that_cannot_select_rows_is_cached(tmp_path: Path) -> None:
    def inputs(shifts: tuple[int, ...]) -> Any:
        rows = _build_image_dataset([image(shift) for shift in shifts])
        assert not hasattr(rows, "select")
        return DataLoader(rows, batch_size=1, collate_fn=lambda batch: {"image": [batch[0]["image"]]})

    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    encode(wrapper, inputs((1,)))
    for _ in range(2):
        assert bits_equal(encode(wrapper, inputs((0, 1, 2))), encode(FieldsModel(), inputs((0, 1, 2))))
    assert [len(call) for call in model.calls] == [1, 2]


def test_no_column_is_lost_between_the_task_and_the_model(tmp_path: Path) -> None:
    videos = [{"bytes": b"video", "path": None}, {"bytes": b"another", "path": None}]
    rows = [
        {"video": video, "audio": {"bytes": b"audio", "path": None}, "text": text}
        for video, text in zip(videos, "ab", strict=True)
    ]
    task = TASK.model_copy(update={"category": "v2a"})

    def inputs(items: list[Any]) -> Any:
        return DataLoader(items, collate_fn=lambda batch: {name: [batch[0][name]] for name in batch[0]})

    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
    arguments = {"task_metadata": task, "prompt_type": DOCUMENT}
    encode(wrapper, inputs(rows[:1]), **arguments)
    for _ in range(2):
        expected = encode(FieldsModel(), inputs(rows), **arguments)
        assert bits_equal(encode(wrapper, inputs(rows), **arguments), expected)


# 3. Its FaissCache returns another row after a duplicate.


@pytest.mark.parametrize("backend", [FaissCache, dejavec.FaissCache, dejavec.NumpyCache])
def test_a_duplicate_moves_no_other_row(backend: Any, tmp_path: Path) -> None:
    for _ in range(2):
        with CachedEmbeddingWrapper(FieldsModel(), tmp_path, backend) as wrapper:
            found(wrapper, ["a", "b", "a", "c", "d", "c", "e"])
            found(wrapper, ["e", "f", "f", "g"])


# 4. It encodes duplicates each time.


def test_duplicates_are_encoded_once(tmp_path: Path) -> None:
    model = FieldsModel()
    found(CachedEmbeddingWrapper(model, tmp_path), ["b", "a", "b", "a", "c"])
    assert model.calls == [["b", "a", "c"]]


# 5. A failure at 90 % of an encode keeps nothing.


def test_a_failure_at_ninety_percent_keeps_the_ninety_percent(tmp_path: Path) -> None:
    class Failing(FieldsModel):
        def output(self, rows: list[np.ndarray]) -> Any:
            if len(self.calls) == 10:
                raise MemoryError
            return super().output(rows)

    texts = [f"text {number}" for number in range(100)]
    with pytest.raises(MemoryError):
        encode(
            CachedEmbeddingWrapper(Failing(), tmp_path, model_name="m@1", chunk_rows=10), texts, batch_size=10
        )
    model = FieldsModel()
    found(CachedEmbeddingWrapper(model, tmp_path, model_name="m@1"), texts)
    assert model.calls == [texts[90:]]


# 6. float16 comes back as float32 on the second run, float64 loses bits, tensors become arrays.

KINDS = [
    *(("numpy", dtype) for dtype in ("float16", "float32", "float64", "int8", "uint8", "bool")),
    *(("torch", dtype) for dtype in ("float16", "bfloat16", "float32", "float64", "int8", "bool")),
]


@pytest.mark.parametrize(("library", "dtype"), KINDS)
def test_array_kind_and_dtype_are_the_models(library: str, dtype: str, tmp_path: Path) -> None:
    uncached = encode(FieldsModel(library=library, dtype=dtype), TEXTS)
    model = FieldsModel(library=library, dtype=dtype)
    for _ in range(2):
        assert bits_equal(encode(CachedEmbeddingWrapper(model, tmp_path), TEXTS), uncached)
    encode(CachedEmbeddingWrapper(model, tmp_path), ["z"])
    vectors = encode(CachedEmbeddingWrapper(model, tmp_path), ["y", *TEXTS])
    assert bits_equal(vectors[1:], uncached)
    assert model.calls == [TEXTS, ["z"], ["y"]]


# 7. Another model, revision, prompt or argument on the same path gets the first one's vectors.


class WideModel(FieldsModel):
    """The vectors of the others, and more."""

    def output(self, rows: list[np.ndarray]) -> Any:
        return np.concatenate([super().output(rows)] * 2, axis=1)


@pytest.mark.parametrize(
    ("make_other", "arguments"),
    [
        pytest.param(lambda: FieldsModel(name="tests/other"), {}, id="model"),
        pytest.param(lambda: FieldsModel(revision="b" * 40), {}, id="revision"),
        pytest.param(lambda: WideModel(name="tests/wide"), {}, id="dimension"),
        pytest.param(FieldsModel, {"prompt_type": QUERY}, id="role"),
        pytest.param(FieldsModel, {"task_metadata": TASK.model_copy(update={"prompt": "?"})}, id="prompt"),
        pytest.param(FieldsModel, {"normalize_embeddings": True}, id="argument"),
    ],
)
def test_whatever_changes_vectors_has_vectors_of_its_own(
    make_other: Callable[[], FieldsModel], arguments: dict[str, Any], tmp_path: Path
) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
        found(wrapper, TEXTS)
    other, expected = make_other(), encode(make_other(), TEXTS, **arguments)
    for _ in range(2):
        with CachedEmbeddingWrapper(other, tmp_path) as wrapper, warnings.catch_warnings():
            warnings.simplefilter("ignore", DejavecWarning)
            assert bits_equal(encode(wrapper, TEXTS, **arguments), expected)
    assert other.calls == [TEXTS]


def test_one_models_vectors_of_another_dimension_are_a_clear_error(tmp_path: Path) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path, model_name="tests/model@1") as wrapper:
        found(wrapper, TEXTS)
    with (
        CachedEmbeddingWrapper(WideModel(), tmp_path, model_name="tests/model@1") as wrapper,
        pytest.raises(dejavec.errors.VectorsError, match=f"expected dimension {DIM}, found {2 * DIM}"),
    ):
        encode(wrapper, ["z"])


# 8. Two processes on one path mix rows up; damage is served, or nothing opens any more; surrogates raise.


def encode_in_parts(path: Path, texts: list[str], seed: int, together: Any) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), path) as wrapper:
        together.wait()
        for part in np.array_split(np.random.default_rng(seed).permutation(len(texts)), 8):
            found(wrapper, [texts[position] for position in part])


@needs_fork
def test_processes_on_one_path_never_mix_up_rows(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(240)]
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)
    children = [
        context.Process(target=encode_in_parts, args=(tmp_path, texts, seed, together)) for seed in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    model = FieldsModel()
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        found(wrapper, texts)
    assert model.calls == []
    assert len(np.load(tmp_path / TASK.name / "vectors.npy")) == len(texts)


def test_a_flipped_bit_is_never_served(tmp_path: Path) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
        encode(wrapper, TEXTS)
    row_bytes = DIM * 4
    flip_bit(tmp_path / TASK.name / "vectors.npy", 128 + 2 * row_bytes + 5)
    model = FieldsModel()
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        found(wrapper, TEXTS)
    assert model.calls == [TEXTS[2:3]]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("meta.json", "restore it from a copy"),
        ("commit", "verify --repair"),
        ("keys.bin", "verify --repair"),
        ("vectors.npy", "verify --repair"),
    ],
)
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_one_clear_sentence_before_the_model_runs(
    name: str, remedy: str, kept: float, tmp_path: Path
) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
        encode(wrapper, TEXTS)
    file = tmp_path / TASK.name / name
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * kept))
    model = FieldsModel()
    with (
        CachedEmbeddingWrapper(model, tmp_path) as wrapper,
        pytest.raises(dejavec.errors.CorruptCacheError, match=f"{file.parent}.*expected.*found.*{remedy}"),
    ):
        encode(wrapper, TEXTS)
    assert model.calls == []


def test_a_truncated_index_costs_nothing_but_time(large_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(large_cache, tmp_path / "cache")
    (index,) = (tmp_path / "cache").rglob("index-*.idx")
    with index.open("r+b") as opened:
        opened.truncate(index.stat().st_size // 2)
    model = NumberedModel()
    with CachedEmbeddingWrapper(model, tmp_path / "cache") as wrapper:
        assert bits_equal(encode(wrapper, numbered(ROWS)), vectors_of(range(ROWS)))
    assert model.encoded == 0


def test_a_lone_surrogate_is_a_text(tmp_path: Path) -> None:
    model = FieldsModel()
    for _ in range(2):
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            found(wrapper, DataLoader([{"text": "\ud800"}, {"text": "\udfff"}]))
    assert model.calls == [["\ud800", "\udfff"]]


# 9. The name of a task may lead out of the cache directory.


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "..", ".", "", "a\0b", "nul", "COM1.txt", "x" * 300, "\udc80", "a\\b", "C:x"],
)
def test_a_task_name_never_leaves_the_cache_directory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "cache"
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, path)
    for _ in range(2):
        encode(wrapper, ["a"], task_metadata=TASK.model_copy(update={"name": name}))
    assert model.calls == [["a"]]
    (stored_at,) = path.rglob("vectors.npy")
    assert stored_at.parent.parent == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["cache"]


# 10. After `kill -9` at a bad moment the cache cannot be opened.


def encode_and_tell(path: Path, texts: list[str], told: Any) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), path)
    for start in range(0, len(texts), 4):
        encode(wrapper, texts[start : start + 4])
        told.send(start + 4)


@needs_fork
def test_what_was_returned_before_a_kill_is_held_after_it(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(4_000)]
    context = multiprocessing.get_context("fork")
    for calls in (1, 2, 9, 17, 30):
        heard, told = context.Pipe(duplex=False)
        child = context.Process(target=encode_and_tell, args=(tmp_path, texts, told))
        child.start()
        told.close()
        for _ in range(calls):
            done = heard.recv()
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        while heard.poll():
            try:
                done = heard.recv()
            except EOFError:
                break
        model = FieldsModel()
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            found(wrapper, texts[:done])
        assert model.calls == []


class NarrowModel(FieldsModel):
    """Its vectors need less space than their keys."""

    def output(self, rows: list[np.ndarray]) -> Any:
        return super().output(rows)[:, :1]


def encode_with_files_of_at_most(length: int, path: Path, make_model: Any, calls: list[list[str]]) -> None:
    # The system ends a process that makes a file longer than this: in the middle of a write.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
    wrapper = CachedEmbeddingWrapper(make_model(), path)
    for texts in calls:
        encode(wrapper, texts)


def end_in_a_write(length: int, path: Path, make_model: Any, calls: list[list[str]]) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=encode_with_files_of_at_most, args=(length, path, make_model, calls)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGXFSZ


@needs_fork
@pytest.mark.parametrize("held", [0, 100])
@pytest.mark.parametrize(("make_model", "name"), [(FieldsModel, "vectors.npy"), (NarrowModel, "keys.bin")])
@pytest.mark.parametrize("over", [0, 1, 39, 40, 41, 95, 96, 97, 2_000])
def test_an_end_in_the_middle_of_rows_loses_only_that_call(
    held: int, make_model: Any, name: str, over: int, tmp_path: Path
) -> None:
    texts = [f"text {number}" for number in range(held + 100)]
    if held:
        with CachedEmbeddingWrapper(make_model(), tmp_path) as wrapper:
            encode(wrapper, texts[:held])
    file = tmp_path / TASK.name / name
    end_in_a_write((file.stat().st_size if held else 0) + over, tmp_path, make_model, [texts])
    model = make_model()
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        assert bits_equal(encode(wrapper, texts), encode(make_model(), texts))
    assert model.calls == [texts[held:]]


@needs_fork
@pytest.mark.parametrize("written", [0, 1, 32, 63])
def test_an_end_in_the_middle_of_a_commit_loses_only_that_call(written: int, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(12)]
    with CachedEmbeddingWrapper(NarrowModel(), tmp_path) as wrapper:
        encode(wrapper, texts[:10])
    # Of two commits that follow one another, one is written to the second block of 4096 bytes.
    end_in_a_write(4_096 + written, tmp_path, NarrowModel, [texts[10:11], texts[11:]])
    model = NarrowModel()
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        assert bits_equal(encode(wrapper, texts), encode(NarrowModel(), texts))
    assert model.calls in ([texts[10:]], [texts[11:]])


# 11. Titles, bodies and instructions are no part of its key, nor are most frames of a video.


def test_items_that_differ_in_any_field_have_different_keys(tmp_path: Path) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
    rows = dataset(
        ["a b c"] * 5, title=["a b", "a", "a", "", "a"], body=["c", "b c", "b c", "a b c", "b c"],
        instruction=["x", "x", "y", "x", "x"], query=["q"] * 5,
    )  # fmt: skip
    found(wrapper, rows)
    assert wrapper.totals.duplicates == 1


def test_videos_that_differ_in_one_byte_have_different_keys(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    others = [content[:place] + b"?" + content[place + 1 :] for place in (0, 5_000, len(content) - 1)]
    model = NumberedModel()
    with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
        encode(wrapper, stored("video", [content, *others, content], text=list("12341")))
    assert (wrapper.totals.misses, wrapper.totals.duplicates) == (4, 1)


# 12. A fully cached call takes seconds and several times the memory of its result, and so does each save.

ROWS = 70_000
"""More than an index has to be written for."""

WIDTH = 192


class NumberedModel:
    """Knows the vector of each text by the number that it is."""

    def __init__(self) -> None:
        self.mteb_model_meta = meta("tests/numbered")
        self.encoded = 0

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None
    ) -> Any:
        numbers = [int(text) for text in inputs.dataset["text"]]
        self.encoded += len(numbers)
        return vectors_of(numbers)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return embeddings1 @ embeddings2.T

    similarity_pairwise = similarity


def vectors_of(numbers: Any) -> np.ndarray:
    return np.add.outer(np.array(numbers, np.float32), np.arange(WIDTH, dtype=np.float32) / WIDTH)


def numbered(count: int) -> Any:
    return loader(list(map(str, range(count))))


@pytest.fixture(scope="module")
def large_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "cache"
    with CachedEmbeddingWrapper(NumberedModel(), path) as wrapper:
        encode(wrapper, numbered(ROWS))
    return path


def counted(name: str, of: Path = COUNTERS) -> int:
    """A number that the system counts of this process."""
    line = next(line for line in of.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def test_a_warm_call_does_no_work_in_python_for_each_item(large_cache: Path) -> None:
    calls = []
    model = NumberedModel()
    with CachedEmbeddingWrapper(model, large_cache) as wrapper:
        for count in (100, 1_000, 10_000):
            inputs = numbered(count)
            encode(wrapper, inputs)
            calls.append(0)

            def count_calls(frame: Any, event: str, argument: Any) -> None:
                calls[-1] += 1

            sys.setprofile(count_calls)
            try:
                encode(wrapper, inputs)
            finally:
                sys.setprofile(None)
    assert model.encoded == 0
    assert max(calls) - min(calls) < 100, calls


@needs_counters
def test_a_warm_call_needs_little_more_memory_than_its_result(large_cache: Path) -> None:
    status, inputs = Path("/proc/self/status"), numbered(ROWS)
    with CachedEmbeddingWrapper(NumberedModel(), large_cache) as wrapper:
        encode(wrapper, numbered(1))
        Path("/proc/self/clear_refs").write_text("5")  # The peak from now on.
        before = counted("VmRSS", status)
        result = encode(wrapper, inputs)
        assert result[:, 0].sum() > 0
        kibibytes = counted("VmHWM", status) - before
    assert kibibytes * 1024 < 1.5 * result.nbytes


@needs_counters
def test_a_cache_is_opened_without_reading_its_keys_or_vectors(large_cache: Path) -> None:
    status, inputs = Path("/proc/self/status"), numbered(2)
    before = counted("rchar"), counted("VmRSS", status)
    with CachedEmbeddingWrapper(NumberedModel(), large_cache) as wrapper:
        encode(wrapper, inputs)
        read, kibibytes = counted("rchar") - before[0], counted("VmRSS", status) - before[1]
    assert read < ROWS
    assert kibibytes * 1024 < ROWS * 40 / 2


@needs_counters
def test_a_new_item_in_a_large_cache_writes_little_more_than_itself(large_cache: Path) -> None:
    with CachedEmbeddingWrapper(NumberedModel(), large_cache) as wrapper:
        encode(wrapper, numbered(1))
        before = counted("wchar")
        for number in range(1, 9):
            encode(wrapper, loader([str(-number)]))
        written = counted("wchar") - before
    assert wrapper.totals.misses == 8
    assert written < 8 * 16_384
