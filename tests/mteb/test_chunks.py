"""Inside mteb, work is kept by time and no bit depends on it."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from mteb_models import (
    FieldsModel,
    bare_minilm,
    count_batches,
    encode,
    instruct_minilm,
    loader,
    minilm,
)
from warm_processes import run_python

from dejavec import CachedEmbeddingWrapper, DejavecWarning, NumpyCache

HERE = Path(__file__).parent
BATCH = 8

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("never_asks")]


def texts_with_ties(count: int) -> list[str]:
    """Different texts of five lengths, whose numbers of tokens differ: padding decides the last bits."""
    made = [f"{'%x ' % (number * 7919) * (1 + number % 7)}{'a' * number}" for number in range(count)]
    lengths = [12 + 6 * (number % 5) for number in range(count)]
    made = [text[:length].ljust(length, "b") for text, length in zip(made, lengths, strict=True)]
    made = [f"{number:3}{text}" for number, text in enumerate(made)]
    assert len(set(made)) == count
    assert len({len(text) for text in made}) == 5
    return made


TEXTS = texts_with_ties(60)


class StopError(Exception):
    pass


def stopped_after(model: Any, batches: int) -> Any:
    """Have a sentence-transformer fail after some batches."""
    module, forward = model.model[0], model.model[0].forward
    done: list[Any] = []

    def failing(*arguments: Any, **settings: Any) -> Any:
        if len(done) == batches:
            raise StopError
        done.append(True)
        return forward(*arguments, **settings)

    module.forward = failing
    return model


@pytest.fixture(scope="module", params=[minilm, instruct_minilm], ids=["sentence-transformers", "instruct"])
def make_model(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def uncached(make_model: Any) -> Any:
    return encode(make_model(), loader(TEXTS), batch_size=BATCH)


class TestSentenceTransformers:
    @pytest.mark.parametrize("chunk_seconds", [1e-9, 1e9, None])
    def test_chunks_by_time_change_no_bit(
        self, make_model: Any, uncached: Any, chunk_seconds: float | None, tmp_path: Path
    ) -> None:
        model = make_model()
        wrapper = CachedEmbeddingWrapper(model, tmp_path, chunk_seconds=chunk_seconds)
        sizes = count_batches(model)
        for _ in range(2):
            assert bits_equal(encode(wrapper, loader(TEXTS), batch_size=BATCH), uncached)
        assert sizes == [BATCH] * 7 + [4]

    @pytest.mark.parametrize("batches", [1, 3, 7])
    def test_an_interrupted_call_keeps_its_batches_and_goes_on_to_the_bits_equal(
        self, make_model: Any, uncached: Any, batches: int, tmp_path: Path
    ) -> None:
        wrapper = CachedEmbeddingWrapper(
            stopped_after(make_model(), batches), tmp_path, chunk_seconds=1e-9, model_name="m@1"
        )
        with pytest.raises(StopError):
            encode(wrapper, loader(TEXTS), batch_size=BATCH)
        wrapper.close()
        model = make_model()
        sizes = count_batches(model)
        with CachedEmbeddingWrapper(model, tmp_path, model_name="m@1") as wrapper:
            assert bits_equal(encode(wrapper, loader(TEXTS), batch_size=BATCH), uncached)
            assert wrapper.totals.hits == batches * BATCH
        assert sum(sizes) == len(TEXTS) - batches * BATCH

    def test_the_batch_size_of_the_library_counts_where_none_is_given(self, tmp_path: Path) -> None:
        model = minilm()
        expected = encode(model, loader(TEXTS, batch_size=5))
        sizes = count_batches(model)
        with CachedEmbeddingWrapper(model, tmp_path, chunk_seconds=1e-9) as wrapper:
            assert bits_equal(encode(wrapper, loader(TEXTS, batch_size=5)), expected)
        assert sizes == [32, 28]

    def test_where_attention_needs_no_padding_the_batches_are_interleaved_as_in_one_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = minilm()
        monkeypatch.setattr(type(model.model), "_can_flatten_inputs", lambda self: True)
        batches: list[list[str]] = []
        tokenize = model.model.preprocess

        def noting(inputs: Any, *arguments: Any, **settings: Any) -> Any:
            batches.append(sorted(inputs))
            return tokenize(inputs, *arguments, **settings)

        monkeypatch.setattr(model.model, "preprocess", noting)
        encode(model, loader(TEXTS), batch_size=BATCH)
        whole, batches[:] = list(batches), []
        with CachedEmbeddingWrapper(model, tmp_path, chunk_seconds=1e-9, model_name="m@1") as wrapper:
            encode(wrapper, loader(TEXTS), batch_size=BATCH)
        assert batches == whole

    def test_a_call_that_is_divided_among_processes_is_not_cut(self, tmp_path: Path) -> None:
        model = minilm()
        seen: list[int] = []
        with CachedEmbeddingWrapper(model, tmp_path, model_name="m@1") as wrapper:
            model.model._distributed_inference = lambda inputs, **_: (
                seen.append(len(inputs)) or np.ones((len(inputs), 4), np.float32)
            )
            encode(wrapper, loader(TEXTS), batch_size=BATCH)
        assert seen == [len(TEXTS)]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_signal_leaves_whole_batches_and_the_rest_has_the_bits_equal(
        self, number: signal.Signals, tmp_path: Path
    ) -> None:
        script = tmp_path / "script.py"
        code = f"""
            import os, sys
            sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent / "support")!r}]
            from mteb_models import encode, loader, minilm
            from test_chunks import BATCH, TEXTS
            from dejavec import CachedEmbeddingWrapper
            model = minilm()
            module, forward, done = model.model[0], model.model[0].forward, []
            def dying(*arguments, **settings):
                done.append(True)
                if len(done) == 4:
                    os.kill(os.getpid(), {int(number)})
                return forward(*arguments, **settings)
            module.forward = dying
            with CachedEmbeddingWrapper(model, sys.argv[1], chunk_seconds=1e-9, model_name="m@1") as wrapper:
                encode(wrapper, loader(TEXTS), batch_size=BATCH)
        """
        script.write_text(textwrap.dedent(code))
        status, _, messages = run_python(str(script), str(tmp_path / "cache"))
        assert status == -number, messages
        model = minilm()
        with CachedEmbeddingWrapper(model, tmp_path / "cache", model_name="m@1") as wrapper:
            found = encode(wrapper, loader(TEXTS), batch_size=BATCH)
            assert wrapper.totals.hits == 3 * BATCH
        assert bits_equal(found, encode(minilm(), loader(TEXTS), batch_size=BATCH))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(FieldsModel):
    """Works batch by batch, three seconds each; its vectors depend on the batch, as a padding model's."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.batches: list[list[str]] = []

    def work(self, texts: list[str]) -> np.ndarray:
        self.clock.now += 3.0
        self.batches.append(texts)
        longest = max(map(len, texts))
        return np.array([[len(text), longest, int(text[:3])] for text in texts], np.float32)

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.calls.append([])
        return np.concatenate([self.work(batch["text"]) for batch in inputs])


class ReadsAll(Timed):
    """Reads the whole loader, sorts it, and computes then."""

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.calls.append([])
        texts = [text for batch in inputs for text in batch["text"]]
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        parts = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        rows = np.concatenate([self.work([texts[at] for at in part]) for part in parts])
        return rows[np.argsort(order)]


class PreparesEach(ReadsAll):
    """Prepares each batch for a second when it is read, and computes when all are read."""

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        def prepared() -> Any:
            for batch in inputs:
                self.clock.now += 2.0
                yield batch

        return super().encode(prepared(), **arguments)


class Preallocates(Timed):
    """Makes room for all items of the data set before it reads them."""

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.calls.append([])
        rows = np.empty((len(inputs.dataset), 3), np.float32)
        at = 0
        for batch in inputs:
            made = self.work(batch["text"])
            rows[at : at + len(made)] = made
            at += len(made)
        return rows


class Checks(Timed):
    """Fails if it got fewer items than there are."""

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        vectors = super().encode(inputs, **arguments)
        if len(vectors) != len(inputs.dataset):
            raise AssertionError("not all items came")
        return vectors


def wrapped(model: Timed, path: Path, **settings: Any) -> CachedEmbeddingWrapper:
    wrapper = CachedEmbeddingWrapper(model, path, model_name="m@1", **settings)
    wrapper._engine._pace.clock = model.clock
    return wrapper


def rows_at(path: Path) -> int:
    found = list(path.rglob("meta.json"))
    return len(NumpyCache(found[0].parent).vectors) if found else 0


class TestOtherModels:
    def test_one_that_works_batch_by_batch_is_committed_by_time(self, tmp_path: Path) -> None:
        kept: list[int] = []

        class Watched(Timed):
            def work(self, texts: list[str]) -> np.ndarray:
                kept.append(rows_at(tmp_path))
                return super().work(texts)

        expected = encode(Timed(Clock()), loader(TEXTS, BATCH))
        model = Watched(Clock())
        assert bits_equal(encode(wrapped(model, tmp_path), loader(TEXTS, BATCH)), expected)
        assert kept == [0, 0, 0, 0, 32, 32, 32, 32]
        assert [len(batch) for batch in model.batches] == [BATCH] * 7 + [4]

    def test_one_that_is_interrupted_goes_on_at_the_next_batch(self, tmp_path: Path) -> None:
        class Failing(Timed):
            def work(self, texts: list[str]) -> np.ndarray:
                if len(self.batches) == 6:
                    raise StopError
                return super().work(texts)

        with pytest.raises(StopError):
            encode(wrapped(Failing(Clock()), tmp_path), loader(TEXTS, BATCH))
        model = Timed(Clock())
        found = encode(wrapped(model, tmp_path), loader(TEXTS, BATCH))
        assert bits_equal(found, encode(Timed(Clock()), loader(TEXTS, BATCH)))
        assert sum(map(len, model.batches)) == len(TEXTS) - 32

    def test_one_that_reads_all_first_gets_one_call_and_one_notice(self, tmp_path: Path) -> None:
        model = ReadsAll(Clock())
        wrapper = wrapped(model, tmp_path)
        with pytest.warns(DejavecWarning, match=r"reads all of its input .*chunk_seconds=10") as warned:
            found = encode(wrapper, loader(TEXTS, BATCH))
        assert len(warned) == 1
        encode(wrapper, loader([f"{text}!" for text in TEXTS], BATCH))  # Another warning would be an error.
        assert Path(warned[0].filename).name == "mteb_models.py"
        assert len(model.calls) == 2
        assert bits_equal(found, encode(ReadsAll(Clock()), loader(TEXTS, BATCH)))

    def test_without_chunk_seconds_there_is_no_notice(self, tmp_path: Path) -> None:
        encode(wrapped(ReadsAll(Clock()), tmp_path, chunk_seconds=None), loader(TEXTS, BATCH))

    @pytest.mark.parametrize("kind", [PreparesEach, Preallocates, Checks])
    def test_one_that_must_not_be_cut_is_asked_again_as_a_whole(
        self, kind: type[Timed], tmp_path: Path
    ) -> None:
        model = kind(Clock())
        with pytest.warns(DejavecWarning, match="reads all of its input"):
            found = encode(wrapped(model, tmp_path), loader(TEXTS, BATCH))
        assert bits_equal(found, encode(kind(Clock()), loader(TEXTS, BATCH)))
        assert len(model.calls) == 2

    def test_a_slow_loader_is_no_slow_model(self, tmp_path: Path) -> None:
        model = ReadsAll(Clock())

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            model.clock.now += 7.0
            return {"text": [row["text"] for row in rows]}

        with pytest.warns(DejavecWarning, match="reads all of its input"):
            encode(wrapped(model, tmp_path), loader(TEXTS, BATCH, collate_fn=collate))
        assert len(model.calls) == 1

    def test_its_loader_has_all_settings_of_the_callers(self, tmp_path: Path) -> None:
        seen: list[Any] = []

        class Seeing(Timed):
            def encode(self, inputs: Any, **arguments: Any) -> Any:
                seen.append(inputs)
                assert len(inputs) == len(given)
                return super().encode(inputs, **arguments)

        given = loader(TEXTS, BATCH, worker_init_fn=torch.manual_seed)
        encode(wrapped(Seeing(Clock()), tmp_path, chunk_seconds=1e9), given)
        assert isinstance(seen[0], type(given))
        for name in ("dataset", "batch_size", "collate_fn", "num_workers", "worker_init_fn", "sampler"):
            assert getattr(seen[0], name) is getattr(given, name)
        assert type(given).__iter__ is not type(seen[0]).__iter__

    def test_vectors_of_a_cut_call_that_cannot_be_cached_pass_through_whole(self, tmp_path: Path) -> None:
        class Deep(Timed):
            def encode(self, inputs: Any, **arguments: Any) -> Any:
                return super().encode(inputs, **arguments)[:, None, None]

        with pytest.warns(DejavecWarning):
            found = encode(wrapped(Deep(Clock()), tmp_path), loader(TEXTS, BATCH))
        assert bits_equal(found, encode(Deep(Clock()), loader(TEXTS, BATCH)))


def test_a_bare_model_is_cached_by_time_too(tmp_path: Path) -> None:
    model = bare_minilm()
    with CachedEmbeddingWrapper(model, tmp_path, chunk_seconds=1e-9) as wrapper:
        found = encode(wrapper, loader(TEXTS), batch_size=BATCH)
    assert bits_equal(found, encode(minilm(), loader(TEXTS), batch_size=BATCH))
