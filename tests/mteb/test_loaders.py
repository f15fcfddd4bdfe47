"""What reaches the model: the caller's own loader, or new ones over the items that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from datasets import Dataset, concatenate_datasets, interleave_datasets
from mteb_models import (
    FieldsModel,
    count_batches,
    dataset,
    encode,
    loader,
    minilm,
)
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
)

from dejavec import CachedEmbeddingWrapper, DejavecWarning

pytestmark = pytest.mark.usefixtures("never_asks")


class SeeingModel(FieldsModel):
    """Keeps the loaders it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.loaders: list[Any] = []

    def encode(self, inputs: Any, **arguments: Any) -> Any:
        self.loaders.append(inputs)
        return super().encode(inputs, **arguments)


class RowsOnly:
    """A data set that can do no more than be read."""

    features = ("text",)

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: int) -> dict[str, str]:
        return {"text": self.texts[position]}

    def __getitems__(self, positions: list[int]) -> list[dict[str, str]]:
        return [self[position] for position in positions]


def test_identifiers_and_labels_are_no_part_of_an_item(tmp_path: Path) -> None:
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    encode(wrapper, dataset(["a", "a"], id=["1", "2"], label=[0, 1]))
    assert model.calls == [["a"]]


def test_extra_fields_are_part_of_an_item(tmp_path: Path) -> None:
    model = FieldsModel()
    model.columns = ("text", "language")
    wrapper = CachedEmbeddingWrapper(model, tmp_path, extra_fields=["language"])
    rows = dataset(["a", "a"], language=["de", "en"])
    for _ in range(2):
        assert bits_equal(encode(wrapper, rows), encode_with_columns(rows, model.columns))
    assert wrapper.totals.misses == 2


def encode_with_columns(rows: Any, columns: Any) -> Any:
    model = FieldsModel()
    model.columns = columns
    return encode(model, rows)


def test_a_fresh_call_hands_over_the_callers_own_loader_and_arguments(tmp_path: Path) -> None:
    model = SeeingModel()
    inputs = loader(["a", "b", "c"])
    encode(CachedEmbeddingWrapper(model, tmp_path), inputs, normalize=True)
    assert model.loaders == [inputs]
    assert model.arguments == [{"normalize": True}]


def test_only_misses_are_handed_over_with_the_loaders_settings(tmp_path: Path) -> None:
    model = SeeingModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path, model_name="m@1")
    encode(wrapper, ["b"])
    inputs = loader(["a", "b", "c"], batch_size=2, worker_init_fn=torch.manual_seed)
    encode(wrapper, inputs, batch_size=2)
    seen = model.loaders[-1]
    assert model.calls[-1] == ["a", "c"]
    for name in ("batch_size", "collate_fn", "num_workers", "pin_memory", "worker_init_fn"):
        assert getattr(seen, name) == getattr(inputs, name)
    assert isinstance(seen.dataset, Dataset)


def test_batch_size_is_passed_only_if_given(tmp_path: Path) -> None:
    model = FieldsModel()
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    encode(wrapper, ["a"])
    encode(wrapper, ["b"], batch_size=3)
    assert model.arguments == [{}, {"batch_size": 3}]


def test_the_callers_loader_is_never_touched(tmp_path: Path) -> None:
    class Assigning(FieldsModel):
        def encode(self, inputs: Any, **arguments: Any) -> Any:
            inputs.collate_fn = inputs.collate_fn
            assert inputs.dataset.features
            return super().encode(inputs, **arguments)

    wrapper = CachedEmbeddingWrapper(Assigning(), tmp_path)
    encode(wrapper, ["a"])
    inputs = loader(["a", "b"])
    before = dict(vars(inputs))
    encode(wrapper, inputs)
    assert vars(inputs) == before


class TestChunks:
    def test_chunks_are_whole_batches_and_committed_one_by_one(self, tmp_path: Path) -> None:
        texts = [f"text {number}" for number in range(20)]

        class Failing(FieldsModel):
            def output(self, rows: list[np.ndarray]) -> Any:
                if len(self.calls) == 3:
                    raise MemoryError
                return super().output(rows)

        failing = Failing()
        wrapper = CachedEmbeddingWrapper(failing, tmp_path, model_name="m@1", chunk_rows=10)
        with pytest.raises(MemoryError):
            encode(wrapper, texts, batch_size=4)
        assert [len(call) for call in failing.calls] == [8, 8, 4]
        model = FieldsModel()
        found = encode(
            CachedEmbeddingWrapper(model, tmp_path, model_name="m@1", chunk_rows=10), texts, batch_size=4
        )
        assert model.calls == [texts[16:]]
        assert bits_equal(found, encode(FieldsModel(), texts))

    def test_a_chunk_has_at_least_one_batch(self, tmp_path: Path) -> None:
        model = FieldsModel()
        encode(CachedEmbeddingWrapper(model, tmp_path, chunk_rows=1), list("abcdefg"), batch_size=3)
        assert model.calls == [["a", "b", "c"], ["d", "e", "f"], ["g"]]

    @pytest.mark.slow
    def test_sentence_transformers_batches_are_the_same_in_chunks(self, tmp_path: Path) -> None:
        # Texts of equal length have different numbers of tokens: each batch's padding decides the last bits.
        texts = [("%x " % (number * 977)) * (1 + number % 9) + "a" * number for number in range(72)]
        texts = [
            text[: 24 + 12 * (number % 2)].ljust(36, "b")[: 36 - 6 * (number % 3)]
            for number, text in enumerate(texts)
        ]
        assert len({len(text) for text in texts}) == 3
        assert len(set(texts)) == len(texts)
        model = minilm()
        expected = encode(model, texts, batch_size=8)
        for chunk_rows in (8, 24):
            wrapper = CachedEmbeddingWrapper(model, tmp_path / str(chunk_rows), chunk_rows=chunk_rows)
            sizes = count_batches(model)
            for _ in range(2):
                assert bits_equal(encode(wrapper, texts, batch_size=8), expected)
            assert sum(sizes) == len(texts)
            assert set(sizes[:-1]) == {8}


class TestOrder:
    def test_a_shuffling_loader_is_asked_once_and_gives_the_order_it_would_have_given(
        self, tmp_path: Path
    ) -> None:
        def shuffled() -> Any:
            return loader(
                list("abcdefgh"), batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(7)
            )

        uncached = encode(FieldsModel(), shuffled())
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, ["c", "h"])
        for _ in range(3):
            assert bits_equal(encode(wrapper, shuffled()), uncached)

    def test_an_unseeded_shuffling_loader_pairs_texts_and_vectors_rightly(self, tmp_path: Path) -> None:
        model = SeeingModel()
        found = encode(CachedEmbeddingWrapper(model, tmp_path), loader(list("abcdefgh"), shuffle=True))
        assert bits_equal(found, encode(FieldsModel(), model.calls[0]))

    def test_passing_through_neither_draws_again_nor_reads_a_stream_again(self, tmp_path: Path) -> None:
        class Deep(FieldsModel):
            def output(self, rows: list[np.ndarray]) -> Any:
                return np.stack([rows, rows], axis=1)[..., None]

        class Once(IterableDataset):  # type: ignore[misc]
            def __init__(self) -> None:
                self.rows = iter([{"text": text} for text in "abcde"])

            def __iter__(self) -> Any:
                return self.rows

        def shuffled(texts: list[Any]) -> Any:
            return loader(texts, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(7))

        wrapper = CachedEmbeddingWrapper(Deep(), tmp_path, chunk_rows=3)
        texts = list("abcdefgh")
        with pytest.warns(DejavecWarning, match="has no form that is kept"):
            assert bits_equal(encode(wrapper, shuffled(texts)), encode(Deep(), shuffled(texts)))
        found = encode(wrapper, DataLoader(Once(), batch_size=2))
        assert bits_equal(found, encode(Deep(), DataLoader(Once(), batch_size=2)))

    def test_drop_last(self, tmp_path: Path) -> None:
        def dropping() -> Any:
            return loader(list("abcdefgh"), batch_size=3, drop_last=True)

        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, ["b"])
        for _ in range(2):
            assert bits_equal(encode(wrapper, dropping()), encode(FieldsModel(), dropping()))

    def test_a_batch_sampler_of_the_callers(self, tmp_path: Path) -> None:
        def sampled() -> Any:
            rows = dataset(list("abcdefgh"))
            sampler = RandomSampler(rows, replacement=True, generator=torch.Generator().manual_seed(1))
            return DataLoader(rows, batch_sampler=BatchSampler(sampler, 3, drop_last=False))

        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        for _ in range(2):
            assert bits_equal(encode(wrapper, sampled()), encode(FieldsModel(), sampled()))


class TestDataSets:
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda rows: rows.select([3, 1, 2]), id="select"),
            pytest.param(lambda rows: rows.select(range(1, 4)), id="contiguous"),
            pytest.param(lambda rows: rows.shuffle(seed=1), id="shuffle"),
            pytest.param(lambda rows: rows.filter(lambda row: row["text"] != "b"), id="filter"),
            pytest.param(lambda rows: rows.sort("text", reverse=True), id="sort"),
            pytest.param(lambda rows: rows.shard(2, 1), id="shard"),
            pytest.param(lambda rows: rows.shuffle(seed=1).flatten_indices(), id="flatten_indices"),
            pytest.param(lambda rows: concatenate_datasets([rows, rows.select([0])]), id="concatenate"),
            pytest.param(
                lambda rows: concatenate_datasets([rows.shuffle(seed=1), rows.select([3, 1])]),
                id="concatenate rearranged",
            ),
            pytest.param(
                lambda rows: concatenate_datasets(
                    [rows.select([4, 3, 2, 1, 0]), Dataset.from_dict({"body": list("12345")})], axis=1
                ),
                id="concatenate columns",
            ),
            pytest.param(lambda rows: interleave_datasets([rows, rows.select([3, 2])]), id="interleave"),
            pytest.param(lambda rows: rows.rename_column("title", "body"), id="rename"),
            pytest.param(lambda rows: rows.map(lambda row: {"text": row["text"] + "!"}), id="map"),
            pytest.param(lambda rows: rows.with_format("torch"), id="torch"),
            pytest.param(lambda rows: rows.with_format("numpy"), id="numpy"),
            pytest.param(lambda rows: rows.with_format(None, columns=["text"]), id="hidden column"),
            pytest.param(
                lambda rows: rows.with_format("numpy", columns=["title"], output_all_columns=True),
                id="all columns",
            ),
            pytest.param(
                lambda rows: rows.with_transform(
                    lambda batch: {"text": [text * 2 for text in batch["text"]]}
                ),
                id="transform",
            ),
            pytest.param(
                lambda rows: rows.with_transform(lambda batch: {**batch, "instruction": batch["title"]}),
                id="transform that adds",
            ),
            pytest.param(lambda rows: rows.to_iterable_dataset(), id="stream"),
            pytest.param(
                lambda rows: rows.to_iterable_dataset(num_shards=2).shuffle(seed=3, buffer_size=3),
                id="shuffled stream",
            ),
            pytest.param(lambda rows: [{"text": text} for text in rows["text"]], id="list of dicts"),
            pytest.param(lambda rows: Subset(rows, [3, 1, 1]), id="torch's subset"),
            pytest.param(lambda rows: ConcatDataset([rows, rows.select([1])]), id="torch's concatenation"),
            pytest.param(lambda rows: RowsOnly(list(rows["text"])), id="without select"),
        ],
    )
    def test_every_kind_is_read_as_the_model_reads_it(self, change: Any, tmp_path: Path) -> None:
        rows = change(dataset(list("abcde"), title=list("vwxyz")))

        def inputs() -> Any:
            return DataLoader(rows, batch_size=2)

        expected = encode(FieldsModel(), inputs())
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, dataset(["b", "bb"]))
        for _ in range(2):
            assert bits_equal(encode(wrapper, inputs()), expected)
        again = FieldsModel()
        assert bits_equal(encode(CachedEmbeddingWrapper(again, tmp_path), inputs()), expected)
        assert again.calls == []

    @pytest.mark.parametrize("texts", [[""], ["a\0", "a"], ["e\u0301", "\u00e9"], ["x" * 10_000_000]])
    def test_unusual_texts_are_texts(self, texts: list[str], tmp_path: Path) -> None:
        rows = [{"text": text} for text in texts]
        for _ in range(2):
            found = encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path), DataLoader(rows))
            assert bits_equal(found, encode(FieldsModel(), DataLoader(rows)))

    def test_an_empty_call_is_the_models_to_answer(self, tmp_path: Path) -> None:
        rows = dataset(["a"]).select([])
        found = encode(CachedEmbeddingWrapper(FieldsModel(), tmp_path), rows)
        assert bits_equal(found, encode(FieldsModel(), rows))

    def test_items_without_a_key_go_to_the_model(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        with (
            pytest.warns(DejavecWarning, match="an item has no key"),
            pytest.raises(ValueError, match="Found None in batch for key 'text'"),
        ):
            encode(wrapper, ["a", None])

    def test_a_data_set_without_text_goes_to_the_model(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        with pytest.warns(DejavecWarning, match="no text, image, audio or video"), pytest.raises(KeyError):
            encode(wrapper, Dataset.from_dict({"label": [1, 2]}))

    def test_a_loader_with_workers(self, tmp_path: Path) -> None:
        texts = list("abcdefgh")
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, texts[::2])
        found = encode(wrapper, loader(texts, batch_size=2, num_workers=1))
        assert bits_equal(found, encode(FieldsModel(), texts))


def test_results_are_the_callers_own(tmp_path: Path) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
    first = encode(wrapper, ["a", "b"])
    kept = first.copy()
    first[:] = np.nan
    assert bits_equal(encode(wrapper, ["a", "b"]), kept)
