"""Calls with images, audio and video: every kind of data set is cached as the model reads it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import bits_equal
from datasets import Dataset, concatenate_datasets
from datasets import Image as ImageFeature
from media_samples import FEATURES, clips, image, needs_ffmpeg, stored, wav
from mteb._evaluators.image.imagetext_pairclassification_evaluator import _build_image_dataset
from mteb_models import FieldsModel, encode, meta
from torch.utils.data import DataLoader

from dejavec import CachedEmbeddingWrapper, DejavecWarning

pytestmark = pytest.mark.usefixtures("never_asks")


class Blind:
    """A model that looks at nothing, so that whatever is decoded was decoded by others."""

    def __init__(self) -> None:
        self.mteb_model_meta = meta()
        self.encoded = 0

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None
    ) -> Any:
        self.encoded += len(inputs.dataset)
        return np.ones((len(inputs.dataset), 4), np.float32)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        return embeddings1 @ embeddings2.T

    similarity_pairwise = similarity


def as_lists(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in batch] for name in batch[0]}


@pytest.mark.parametrize("name", FEATURES)
def test_a_warm_run_decodes_nothing_and_a_cold_run_only_for_the_model(name: str, tmp_path: Path) -> None:
    rows = stored(name, [b"no such format", None, b"nor this"], text=["a", "b", "c"])
    with pytest.raises((RuntimeError, ValueError, OSError)):
        rows[0]
    model = Blind()
    for _ in range(2):
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            encode(wrapper, rows)
    assert model.encoded == wrapper.totals.hits == 3


def test_a_file_that_is_gone_is_the_models_to_miss(tmp_path: Path) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
    with (
        pytest.warns(DejavecWarning, match="no key.*none that can be read"),
        pytest.raises(FileNotFoundError),
    ):
        encode(wrapper, stored("image", [tmp_path / "gone.png"]))


def pictures() -> Dataset:
    return Dataset.from_dict({"image": [image(shift) for shift in (0, 1, 2, 1)], "text": list("abcb")})


class OnlyItems:
    """A data set that can do no more than be read."""

    features = ("image", "text")

    def __init__(self, rows: Dataset) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        return self.rows[position]


class TestDataSets:
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda rows: rows, id="plain"),
            pytest.param(lambda rows: rows.select([2, 1]), id="select"),
            pytest.param(lambda rows: rows.shuffle(seed=1), id="shuffle"),
            pytest.param(lambda rows: rows.filter(lambda row: row["text"] > "a"), id="filter"),
            pytest.param(lambda rows: concatenate_datasets([rows, rows.select([0])]), id="concatenate"),
            pytest.param(lambda rows: rows.map(lambda row: {"image": row["image"].rotate(90)}), id="map"),
            pytest.param(lambda rows: rows.remove_columns("text"), id="image alone"),
            pytest.param(lambda rows: rows.with_format("torch"), id="torch"),
            pytest.param(lambda rows: rows.with_format("numpy"), id="numpy"),
            pytest.param(lambda rows: rows.with_format(None, columns=["image"]), id="hidden column"),
            pytest.param(
                lambda rows: rows.with_transform(
                    lambda batch: {"image": [picture.rotate(90) for picture in batch["image"]]}
                ),
                id="transform",
            ),
            pytest.param(lambda rows: rows.cast_column("image", ImageFeature(mode="L")), id="cast"),
            pytest.param(lambda rows: rows.cast_column("image", ImageFeature(decode=False)), id="undecoded"),
            pytest.param(lambda rows: rows.to_iterable_dataset(), id="stream"),
            pytest.param(list, id="list of dicts"),
            pytest.param(OnlyItems, id="without select"),
            pytest.param(lambda rows: _build_image_dataset(list(rows["image"])), id="mteb's own"),
        ],
    )
    def test_every_kind_is_read_as_the_model_reads_it(self, change: Any, tmp_path: Path) -> None:
        rows = change(pictures())

        def inputs() -> Any:
            return DataLoader(rows, batch_size=2, collate_fn=as_lists)

        expected = encode(FieldsModel(), inputs())
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, pictures().select([1]))
        for _ in range(2):
            assert bits_equal(encode(wrapper, inputs()), expected)
        again = FieldsModel()
        assert bits_equal(encode(CachedEmbeddingWrapper(again, tmp_path), inputs()), expected)
        assert again.calls == []

    def test_keys_of_decoded_media_keep_none_of_them_in_memory(self, tmp_path: Path) -> None:
        made: list[Any] = []

        class Fresh(OnlyItems):
            def __getitem__(self, position: int) -> Any:
                assert sum(reference() is not None for reference in made) <= 1
                picture = image(position)
                made.append(weakref.ref(picture))
                return {"image": picture}

        wrapper = CachedEmbeddingWrapper(Blind(), tmp_path)
        encode(wrapper, Fresh(Dataset.from_dict({"text": list("abcdefgh")})))
        assert len(made) == wrapper.totals.misses == 8

    def test_duplicates_are_encoded_once(self, tmp_path: Path) -> None:
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        encode(wrapper, pictures())
        assert (wrapper.totals.misses, wrapper.totals.duplicates) == (3, 1)

    def test_rows_that_a_model_changes_are_its_own(self, tmp_path: Path) -> None:
        class InPlace(FieldsModel):
            def encode(self, inputs: Any, **arguments: Any) -> Any:
                inputs.collate_fn = self.collate
                return np.stack([super(InPlace, self).encode(inputs, **arguments)] * 2, axis=1)[..., None]

            @staticmethod
            def collate(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
                for row in batch:
                    row["audio"] = row["audio"]["array"]
                return as_lists(batch)

        class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
            def __iter__(self) -> Any:
                return iter([{"audio": {"array": np.arange(n), "sampling_rate": 8}} for n in range(1, 5)])

        def inputs() -> Any:
            return DataLoader(Stream(), batch_size=2, collate_fn=as_lists)

        wrapper = CachedEmbeddingWrapper(InPlace(), tmp_path, chunk_rows=2)
        with pytest.warns(DejavecWarning, match="has no form that is kept"):
            found = encode(wrapper, inputs())
        assert bits_equal(found, encode(InPlace(), inputs()))

    def test_media_without_a_key_pass_through_with_one_warning(self, tmp_path: Path) -> None:
        class Sized(FieldsModel):
            def vector(self, item: Any, prompt_type: Any) -> np.ndarray:
                return super().vector({"text": item["image"]}, prompt_type)

        rows = [{"image": "a path"}, {"image": "another"}]
        wrapper = CachedEmbeddingWrapper(Sized(), tmp_path)
        expected = encode(Sized(), DataLoader(rows))
        with pytest.warns(DejavecWarning, match="no key.*found str"):
            assert bits_equal(encode(wrapper, DataLoader(rows)), expected)
        assert bits_equal(encode(wrapper, DataLoader(rows)), expected)


@needs_ffmpeg
@pytest.mark.parametrize(("name", "contents"), [("audio", lambda: [wav(0), wav(1)]), ("video", clips)])
@pytest.mark.parametrize("change", [None, "torch", "numpy", "stream", "list"])
def test_every_kind_of_data_set_is_read_as_the_model_reads_it(
    name: str, contents: Any, change: str | None, tmp_path: Path
) -> None:
    rows: Any = stored(name, [*contents(), None], text=["a", "b", "c"])
    if change in ("torch", "numpy"):
        rows = rows.with_format(change)
    elif change:
        rows = rows.to_iterable_dataset() if change == "stream" else list(rows)

    def inputs() -> Any:
        return DataLoader(rows, batch_size=2, collate_fn=as_lists)

    expected = encode(FieldsModel(), inputs())
    for hits in (0, 3):
        wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path)
        assert bits_equal(encode(wrapper, inputs()), expected)
        assert wrapper.totals.hits == hits
