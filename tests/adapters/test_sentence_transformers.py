"""The cached encoders return what the encoders of sentence-transformers return, and encode each text once."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import torch
from changing_models import Power, make_tiny_model
from mteb.mocks.mock_tasks import MockRetrievalTask, MockSTSTask
from mteb_models import bare_minilm
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder, util
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

from dejavec import DejavecWarning
from dejavec.identity.survey import survey
from dejavec.sentence_transformers import (
    CachedMultiVectorEncoder,
    CachedSentenceTransformer,
    CachedSparseEncoder,
)
from dejavec.support.json_file import read_record, update_record

TEXTS = [f"number {number}: {'a word ' * (number * 7 % 11)}" for number in range(40)]
INPUTS = {"texts": TEXTS, "one text": "one text", "a tuple": ("a", "b"), "an array": np.array(["a", "b"])}
KINDS: list[dict[str, Any]] = [
    {},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
]
VIEWS: list[dict[str, Any]] = [
    {},
    {"truncate_dim": 20},
    {"truncate_dim": 1000},
    {"normalize_embeddings": True},
    {"truncate_dim": 7, "normalize_embeddings": True},
    {"precision": "int8"},
    {"precision": "uint8", "truncate_dim": 24},
    {"precision": "binary", "normalize_embeddings": True},
    {"precision": "ubinary", "truncate_dim": 16},
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny sentence-transformer of 32 numbers."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(path)
    SentenceTransformer(modules=[Transformer(str(path)), Pooling(32)], device="cpu").save(str(path / "whole"))
    return path / "whole"


@pytest.fixture
def model(directory: Path) -> SentenceTransformer:
    """A tiny model whose prompts differ by role."""
    prompts = {"query": "query: ", "document": "", "other": "query: "}
    return SentenceTransformer(str(directory), device="cpu", prompts=prompts)


@pytest.fixture
def cached(model: SentenceTransformer, tmp_path: Path) -> Iterator[CachedSentenceTransformer]:
    with CachedSentenceTransformer(model, tmp_path / "cache") as encoder:
        yield encoder


def is_same(one: Any, other: Any) -> bool:
    """Return whether two results are equal to the bit, in dtype, kind and layout too."""
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(is_same, one, other))
    if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if isinstance(one, torch.Tensor):
        if one.layout != other.layout or one.device != other.device:
            return False
        if one.is_sparse:
            one, other = one.coalesce(), other.coalesce()
            pairs = [(one.indices(), other.indices()), (one.values(), other.values())]
        else:
            pairs = [(one, other)]
        # Other views of the bits do not exist for all dtypes.
        return all(
            torch.equal(left, right) and torch.equal(left.signbit(), right.signbit()) for left, right in pairs
        )
    return bool(one.tobytes() == other.tobytes())


class TestViews:
    """One stored vector has many views, each equal to the bit to what the model returns."""

    def test_every_view_has_the_bits_of_the_model_and_is_encoded_once(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        for view in VIEWS:
            for kind in KINDS:
                assert is_same(model.encode(TEXTS, **view, **kind), cached.encode(TEXTS, **view, **kind))
        assert (cached.totals.misses, cached.totals.confirmed) == (len(TEXTS), 0)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_the_views_of_other_dtypes_too(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer, dtype: str
    ) -> None:
        model.to(getattr(torch, dtype))
        for view, kind in zip(VIEWS, itertools.cycle(KINDS)):
            assert is_same(model.encode(TEXTS, **view, **kind), cached.encode(TEXTS, **view, **kind))
        assert (cached.totals.misses, cached.totals.confirmed) == (len(TEXTS), 0)

    def test_a_real_model_in_chunks_has_its_bits_in_every_dimension(self, tmp_path: Path) -> None:
        model, texts = bare_minilm(), TEXTS[:24]
        with CachedSentenceTransformer(model, tmp_path, chunk_rows=8) as cached:
            for dim in (384, 129, 16):
                settings = {"batch_size": 8, "truncate_dim": dim, "normalize_embeddings": True}
                assert is_same(model.encode(texts, **settings), cached.encode(texts, **settings))
            assert cached.totals.misses == len(texts)

    def test_sums_of_squares_do_not_depend_on_the_batch(self) -> None:
        # The views rely on this: on a CPU, a row is normalised alike in every batch.
        generator = torch.Generator().manual_seed(0)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            for dim in (1, 3, 8, 31, 64, 100, 384, 1023, 4096):
                rows = torch.randn(70, 4100, generator=generator).to(dtype)[:, :dim]
                whole = torch.nn.functional.normalize(rows, p=2, dim=1)
                for size in (1, 2, 7, 32):
                    parts = [torch.nn.functional.normalize(part, p=2, dim=1) for part in rows.split(size)]
                    assert torch.equal(torch.cat(parts), whole)
                again = torch.nn.functional.normalize(rows.contiguous(), p=2, dim=1)
                assert torch.equal(again, whole)

    def test_an_assigned_truncation_is_a_view_too(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        cached.encode(TEXTS)
        cached.truncate_dim = 8
        assert model.truncate_dim == 8
        assert is_same(model.encode(TEXTS), cached.encode(TEXTS))
        assert cached.totals.misses == len(TEXTS)

    @pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_every_form_of_input_is_taken(
        self,
        model: SentenceTransformer,
        cached: CachedSentenceTransformer,
        inputs: Any,
        kind: dict[str, bool],
    ) -> None:
        for _ in range(2):
            assert is_same(model.encode(inputs, **kind), cached.encode(inputs, **kind))

    @pytest.mark.parametrize("kind", KINDS, ids=str)
    def test_no_input_gives_what_the_model_gives(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer, kind: dict[str, bool]
    ) -> None:
        assert is_same(model.encode([], **kind), cached.encode([], **kind))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"precision": "int3"},
            {"precision": "int8"},
            {"batch_size": 0},
            {"unknown": 1},
            {"prompt_name": "x"},
        ],
        ids=str,
    )
    def test_errors_are_those_of_the_model(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer, wrong: dict[str, Any]
    ) -> None:
        messages = []
        for encoder in (model, cached):
            with pytest.raises(Exception, match=r".") as caught:
                encoder.encode("one text", **wrong)
            messages.append((type(caught.value), str(caught.value)))
        assert messages[0] == messages[1]

    def test_token_vectors_pass_through(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        found = cached.encode(TEXTS[:3], output_value="token_embeddings")
        assert is_same(model.encode(TEXTS[:3], output_value="token_embeddings"), found)
        assert cached.totals.items == 0


class TestChunks:
    """A chunk has the batches of the whole call, so a cut changes no bit."""

    @pytest.mark.parametrize("chunks", [{"chunk_rows": 8}, {"chunk_seconds": 1e-9}], ids=str)
    def test_chunks_change_no_bit(
        self, model: SentenceTransformer, tmp_path: Path, chunks: dict[str, Any]
    ) -> None:
        with CachedSentenceTransformer(model, tmp_path, **chunks) as cached:
            assert is_same(model.encode(TEXTS, batch_size=8), cached.encode(TEXTS, batch_size=8))

    def test_interleaved_batches_change_no_bit(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As with flash attention, which needs a GPU.
        monkeypatch.setattr(SentenceTransformer, "_can_flatten_inputs", lambda _: True)
        assert is_same(model.encode(TEXTS, batch_size=8), cached.encode(TEXTS, batch_size=8))

    def test_a_call_reads_the_model_twice_however_many_chunks_it_has(
        self, model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        walks: list[object] = []

        def counted(walked: object, **settings: Any) -> Any:
            walks.append(walked)
            return survey(walked, **settings)

        monkeypatch.setattr("dejavec.identity.observed.survey", counted)
        with CachedSentenceTransformer(model, tmp_path, chunk_rows=8) as cached:
            cached.encode(TEXTS, batch_size=8)
            assert len(walks) == 2
            cached.encode(TEXTS, batch_size=8)
            assert len(walks) == 3

    def test_a_failure_keeps_the_chunks_before_it(
        self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = SentenceTransformer(str(directory), device="cpu")
        forward = Pooling.forward
        calls: list[int] = []

        def failing(self: Any, features: Any, **settings: Any) -> Any:
            calls.append(len(calls))
            if len(calls) == 5:
                raise RuntimeError("out of memory")
            return forward(self, features, **settings)

        monkeypatch.setattr(Pooling, "forward", failing)
        with CachedSentenceTransformer(model, tmp_path, chunk_rows=8, confirm=0) as cached:
            with pytest.raises(RuntimeError, match="out of memory"):
                cached.encode(TEXTS, batch_size=8)
            found = cached.encode(TEXTS, batch_size=8)
            assert cached.totals.hits == 32
            assert is_same(model.encode(TEXTS, batch_size=8), found)


class TestRoles:
    """Prompts and tasks have caches of their own; a name stands for its text."""

    def test_roles_and_prompts_are_apart_and_equal_prompts_are_shared(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        calls: list[tuple[str, dict[str, Any], int]] = [
            ("encode", {}, 2),
            ("encode_query", {}, 4),
            ("encode_document", {}, 6),
            ("encode", {"prompt": "query: "}, 8),
            ("encode", {"prompt_name": "query"}, 8),
            ("encode", {"prompt_name": "other"}, 8),
            ("encode_query", {"prompt_name": "other"}, 8),
        ]
        for method, settings, encoded in calls:
            expected = getattr(model, method)(["a", "b"], **settings)
            assert is_same(expected, getattr(cached, method)(["a", "b"], **settings))
            assert cached.totals.misses == encoded, (method, settings)
        names = {path.name.partition("@")[0] for path in cached.cache_path.iterdir()}
        assert names == {"text", "query", "document"}

    def test_an_assigned_prompt_counts(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        cached.encode(["a"])
        cached.prompts, cached.default_prompt_name = {"x": "about: "}, "x"
        assert is_same(model.encode(["a"]), cached.encode(["a"]))
        assert cached.totals.misses == 2

    def test_a_shorter_sequence_counts(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        cached.encode(TEXTS)
        cached.max_seq_length = 4
        assert is_same(model.encode(TEXTS), cached.encode(TEXTS))


class TestChanges:
    """A model that changes gets no stale vector."""

    def test_an_evaluation_between_epochs_sees_the_trained_model(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        results = []
        for _ in range(3):
            results.append(cached.encode(TEXTS[:8]))
            assert is_same(model.encode(TEXTS[:8]), results[-1])
            model.train()
            loss = model(model.preprocess(TEXTS[:8]))["sentence_embedding"].square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert not np.array_equal(results[0], results[1])
        assert cached.totals.hits == 0

    def test_the_same_weights_are_served_again(
        self, directory: Path, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        before = cached.encode(TEXTS[:8])
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        cached.encode(TEXTS[:8])
        model.load_state_dict(state)
        assert is_same(before, cached.encode(TEXTS[:8]))
        assert cached.totals.misses == 16

    def test_a_module_that_is_appended_counts(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        cached.encode(TEXTS)
        model.append(Power(0.5))
        with pytest.warns(DejavecWarning, match="expected this model's vectors, found others"):
            found = cached.encode(TEXTS)
        assert is_same(model.encode(TEXTS), found)


class TestLazy:
    """A model by name is built at the first miss."""

    def open(self, directory: Path, path: Path) -> CachedSentenceTransformer:
        return CachedSentenceTransformer(str(directory), path, device="cpu")

    def is_built(self, encoder: CachedSentenceTransformer) -> bool:
        return encoder.__wrapped_model__().is_built

    def test_hits_build_nothing(self, model: SentenceTransformer, directory: Path, tmp_path: Path) -> None:
        with self.open(directory, tmp_path) as first:
            first.encode(TEXTS)
            first.encode_query(TEXTS)
            assert self.is_built(first)
        plain = SentenceTransformer(str(directory), device="cpu")
        with self.open(directory, tmp_path) as second:
            for view in VIEWS:
                for kind in KINDS:
                    assert is_same(plain.encode(TEXTS, **view, **kind), second.encode(TEXTS, **view, **kind))
            assert is_same(plain.encode_query(TEXTS), second.encode_query(TEXTS))
            found = second.encode(TEXTS, convert_to_tensor=True)
            assert is_same(plain.similarity(found, found), second.similarity(found, found))
            assert isinstance(second, SentenceTransformer)
            assert second.max_seq_length == plain.max_seq_length
            assert second.device == plain.device
            assert repr(second).startswith("CachedSentenceTransformer('")
            assert not self.is_built(second)
            assert is_same(plain.encode(["new"]), second.encode(["new"]))
            assert self.is_built(second)

    def test_other_files_are_another_model(self, directory: Path, tmp_path: Path) -> None:
        copied = tmp_path / "model"
        SentenceTransformer(str(directory), device="cpu").save(str(copied))
        with self.open(copied, tmp_path / "cache") as first:
            before = first.encode(TEXTS)
        changed = SentenceTransformer(str(copied), device="cpu")
        with torch.no_grad():
            next(changed.parameters()).mul_(1.5)
        changed.save(str(copied))
        with self.open(copied, tmp_path / "cache") as second:
            found = second.encode(TEXTS)
        assert is_same(changed.encode(TEXTS), found)
        assert not np.array_equal(before, found)

    def test_a_record_of_a_model_that_now_differs_does_not_count(
        self, directory: Path, tmp_path: Path
    ) -> None:
        with self.open(directory, tmp_path) as first:
            first.encode(TEXTS)
        ((key, entry),) = (read_record(tmp_path / "models.json") or {}).items()
        entry["facts"]["settings"]["max_seq_length"] = 4
        entry["state"] = "0" * 32
        update_record(tmp_path / "models.json", key, entry)
        with self.open(directory, tmp_path) as second:
            plain = SentenceTransformer(str(directory), device="cpu")
            assert is_same(plain.encode(TEXTS), second.encode(TEXTS))
            assert second.totals.misses == 0

    def test_a_model_that_is_built_in_a_call_can_be_trained(self, directory: Path, tmp_path: Path) -> None:
        with self.open(directory, tmp_path) as encoder:
            encoder.encode(["a"])
            encoder(encoder.preprocess(["a"]))["sentence_embedding"].sum().backward()

    def test_a_wrong_model_is_refused(self, model: SentenceTransformer, tmp_path: Path) -> None:
        with pytest.raises(
            TypeError, match="expected a SparseEncoder or its name, found SentenceTransformer"
        ):
            CachedSparseEncoder(model, tmp_path)
        with pytest.raises(TypeError, match="expected further arguments only with a name, found device"):
            CachedSentenceTransformer(model, tmp_path, device="cpu")


class TestUses:
    """A cached encoder is used wherever the model is."""

    def test_it_is_an_instance_of_the_class_and_has_its_modules(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        assert isinstance(cached, SentenceTransformer)
        assert isinstance(cached, CachedSentenceTransformer)
        assert not isinstance(cached, SparseEncoder)
        assert len(cached) == 2
        assert cached[0] is model[0]
        assert list(cached) == list(model)
        assert cached.tokenizer is model.tokenizer

    def test_utilities_return_the_same(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        for _ in range(2):
            assert util.paraphrase_mining(cached, TEXTS) == util.paraphrase_mining(model, TEXTS)
        found = [encoder.encode(TEXTS, convert_to_tensor=True) for encoder in (model, cached)]
        expected, hits = (util.semantic_search(vectors[:5], vectors) for vectors in found)
        assert expected == hits

    def test_evaluators_encode_once(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        scores = [number % 5 / 4 for number in range(20)]
        evaluator = EmbeddingSimilarityEvaluator(TEXTS[:20], TEXTS[20:], scores)
        expected = evaluator(model)
        assert cached.evaluate(evaluator) == expected
        assert cached.totals.misses == 40
        assert evaluator(cached) == expected
        assert cached.totals.misses == 40

    @pytest.mark.parametrize("task", [MockSTSTask, MockRetrievalTask])
    def test_mteb_takes_it(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer, task: Any
    ) -> None:
        def scores(encoder: Any) -> list[Any]:
            result = mteb.evaluate(encoder, task(), cache=None, co2_tracker=False)
            return [part.scores for part in result.task_results]

        expected = scores(model)
        assert scores(cached) == expected
        encoded = cached.totals.misses
        assert encoded > 0
        assert scores(cached) == expected
        assert cached.totals.misses == encoded

    @pytest.mark.parametrize(
        "carry", [lambda encoder: pickle.loads(pickle.dumps(encoder)), copy.copy, copy.deepcopy]
    )
    def test_it_travels(
        self, cached: CachedSentenceTransformer, carry: Callable[[Any], CachedSentenceTransformer]
    ) -> None:
        before = cached.encode(TEXTS)
        with carry(cached) as other:
            assert is_same(before, other.encode(TEXTS))
            assert other.totals.misses == 0

    def test_threads_encode_each_text_once(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        expected = model.encode(TEXTS)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: cached.encode(TEXTS), range(8)))
        assert all(is_same(expected, vectors) for vectors in found)
        with CachedSentenceTransformer(model, cached.cache_path / "alone") as alone:
            alone.encode(TEXTS)
        assert cached.totals.bytes == alone.totals.bytes

    def test_a_pool_fills_the_cache(self, directory: Path, tmp_path: Path) -> None:
        model = SentenceTransformer(str(directory), device="cpu")
        with CachedSentenceTransformer(model, tmp_path) as cached:
            pool = cached.start_multi_process_pool(["cpu"])
            try:
                expected = model.encode(TEXTS, pool=pool, normalize_embeddings=True)
                found = cached.encode(TEXTS, pool=pool, normalize_embeddings=True)
            finally:
                cached.stop_multi_process_pool(pool)
            assert is_same(expected, found)
            # The pool is stopped, so these are hits alone.
            assert is_same(expected, cached.encode(TEXTS, pool=pool, normalize_embeddings=True))
            assert is_same(expected, cached.encode(TEXTS, normalize_embeddings=True))
            assert cached.totals.misses == len(TEXTS)

    def test_duplicates_are_encoded_once(self, cached: CachedSentenceTransformer) -> None:
        found = cached.encode(["a", "b", "a"])
        assert is_same(found[0], found[2])
        assert (cached.totals.misses, cached.totals.duplicates) == (2, 1)


class Doubling(SentenceTransformer):
    """A model with an encode of its own, which calls the library's."""

    def encode(self, inputs: Any, **settings: Any) -> Any:
        return 2 * super().encode([f"about {text}" for text in inputs], **settings)


def test_a_class_with_an_encode_of_its_own_is_cached_below_it(directory: Path, tmp_path: Path) -> None:
    model = Doubling(str(directory), device="cpu")
    with CachedSentenceTransformer(model, tmp_path) as cached:
        for _ in range(2):
            assert is_same(model.encode(TEXTS), cached.encode(TEXTS))
        assert cached.totals.misses == len(TEXTS)


class Pixels(torch.nn.Module):
    """Stands for a multimodal model: the vector is the first pixel of an image, or the length of a text."""

    modalities = ("text", "image", ("image", "text"))
    max_seq_length = None

    def preprocess(self, inputs: list[Any], **_: Any) -> dict[str, Any]:
        return {"sentence_embedding": torch.tensor([self.vector(item) for item in inputs])}

    def vector(self, item: Any) -> list[float]:
        if isinstance(item, dict):
            return [sum(numbers) for numbers in zip(*map(self.vector, item.values()), strict=True)]
        if isinstance(item, str) and item.endswith(".png"):
            item = Image.open(item)
        if isinstance(item, Image.Image):
            return [1.0, *map(float, item.getpixel((0, 0)))]
        return [0.0, float(len(item)), 1.0, 2.0]

    def forward(self, features: Any, **_: Any) -> Any:
        return features


class TestMedia:
    """Images count by their content. A text may be the path of one, which is no key."""

    @pytest.fixture
    def cached(self, tmp_path: Path) -> Iterator[CachedSentenceTransformer]:
        model = SentenceTransformer(modules=[Pixels()], device="cpu")
        with CachedSentenceTransformer(model, tmp_path / "cache", confirm=0) as encoder:
            yield encoder

    def test_images_and_mixtures_are_encoded_once(self, cached: CachedSentenceTransformer) -> None:
        colours = [Image.new("RGB", (2, 2), (number, 2, 3)) for number in range(3)]
        for _ in range(2):
            assert cached.encode(colours).tolist() == [[1, number, 2, 3] for number in range(3)]
            assert cached.encode([{"image": colours[1]}]).tolist() == [[1, 1, 2, 3]]
            assert cached.encode([{"image": colours[0], "text": "a"}]).tolist() == [[1, 1, 3, 5]]
            assert cached.encode("a text").tolist() == [0, 6, 1, 2]
        assert cached.totals.misses == 5

    def test_the_path_of_an_image_passes_through(
        self, cached: CachedSentenceTransformer, tmp_path: Path
    ) -> None:
        path = tmp_path / "image.png"
        Image.new("RGB", (2, 2), (10, 0, 0)).save(path)
        with pytest.warns(DejavecWarning, match="a text is the path or the address of a file"):
            assert cached.encode([str(path)]).tolist() == [[1, 10, 0, 0]]
        Image.new("RGB", (2, 2), (20, 0, 0)).save(path)
        assert cached.encode([str(path)]).tolist() == [[1, 20, 0, 0]]
        assert cached.encode([{"image": str(path)}]).tolist() == [[1, 20, 0, 0]]
        assert cached.totals.items == 0


class TestPassedThrough:
    """What cannot be cached goes to the model, with one warning."""

    def test_an_encode_that_is_replaced_on_the_object(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        model.encode = lambda inputs, **_: np.ones((len(inputs), 2))
        with pytest.warns(DejavecWarning, match="the model has an encode of its own"):
            assert cached.encode(["a"]).tolist() == [[1.0, 1.0]]

    def test_inputs_without_a_key(
        self, model: SentenceTransformer, cached: CachedSentenceTransformer
    ) -> None:
        pairs = [("a", "b"), ("c", "d")]
        with pytest.warns(DejavecWarning, match="an input has no key"):
            found = cached.encode(pairs)
        assert is_same(model.encode(pairs), found)

    def test_an_image_fails_as_in_the_model(self, cached: CachedSentenceTransformer) -> None:
        with pytest.raises(ValueError, match="image"):
            cached.encode([Image.new("RGB", (2, 2))])


SPARSE: list[dict[str, Any]] = [
    {},
    {"convert_to_sparse_tensor": False},
    {"convert_to_tensor": False},
    {"convert_to_tensor": False, "convert_to_sparse_tensor": False},
    {"save_to_cpu": True},
]


@pytest.mark.parametrize("inputs", [TEXTS[:20], "one text", []], ids=["texts", "one text", "none"])
def test_sparse_vectors_have_the_bits_of_the_model(inputs: Any, directory: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sparse = SparseAutoEncoder(input_dim=32, hidden_dim=64, k=16, k_aux=8)
    model = SparseEncoder(modules=[*SentenceTransformer(str(directory)), sparse], device="cpu")
    with CachedSparseEncoder(model, tmp_path, chunk_rows=8) as cached:
        for further in ({}, {"max_active_dims": 8}):
            for view in SPARSE:
                settings = {"batch_size": 8, **further, **view}
                assert is_same(model.encode(inputs, **settings), cached.encode(inputs, **settings))
        assert cached.totals.misses == 2 * (len(inputs) if isinstance(inputs, list) else 1)
        assert is_same(model.encode_query(inputs), cached.encode_query(inputs))


@pytest.mark.parametrize("inputs", [TEXTS[:20], "one text", []], ids=["texts", "one text", "none"])
def test_token_vectors_have_the_bits_of_the_model(inputs: Any, directory: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MultiVectorEncoder(str(directory), device="cpu")
    with CachedMultiVectorEncoder(model, tmp_path, chunk_rows=8) as cached:
        for further in ({}, {"normalize_embeddings": True}, {"task": "query"}):
            for view in ({}, {"convert_to_numpy": True}):
                settings = {"batch_size": 8, **further, **view}
                assert is_same(model.encode(inputs, **settings), cached.encode(inputs, **settings))
        assert cached.totals.misses == 3 * (len(inputs) if isinstance(inputs, list) else 1)


def test_lazy_sparse_and_token_encoders_build_nothing_for_hits(directory: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sparse = SparseAutoEncoder(input_dim=32, hidden_dim=64, k=16, k_aux=8)
    SparseEncoder(modules=[*SentenceTransformer(str(directory)), sparse], device="cpu").save(
        str(tmp_path / "sparse")
    )
    MultiVectorEncoder(str(directory), device="cpu").save(str(tmp_path / "tokens"))
    kinds: list[tuple[Any, str]] = [(CachedSparseEncoder, "sparse"), (CachedMultiVectorEncoder, "tokens")]
    for kind, name in kinds:
        results = []
        for _ in range(2):
            with kind(str(tmp_path / name), tmp_path / f"{name} cache", device="cpu") as encoder:
                results.append(encoder.encode(TEXTS[:4]))
                built = encoder.__wrapped_model__().is_built
        assert is_same(*results)
        assert not built
