"""Images, audio and video have keys of all that a model sees of them, and of nothing else."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, Video, concatenate_datasets
from datasets import Image as ImageFeature
from media_samples import FEATURES, PIXELS, clips, differ, image, needs_ffmpeg, png, stored, wav
from PIL import Image

from dejavec import NumpyCache
from dejavec.errors import ItemError
from dejavec.keys.items import TEXT_FIELDS, dataset_keys, field_keys, item_keys, text_keys
from dejavec.keys.media import media_digest, media_digests, stored_digests


class TestStored:
    @pytest.mark.parametrize("name", FEATURES)
    def test_the_key_is_that_of_the_bytes_and_of_how_they_are_decoded(self, name: str) -> None:
        labels = {
            "image": "stored Image {}",
            "audio": "stored Audio {}",
            "video": 'stored Video {"dimension_order":"NCHW","seek_mode":"exact"}',
        }

        def combined(field: str, content: bytes) -> bytes:
            head = bytes([0xFF, 1, len(field)]) + field.encode() + (5).to_bytes(8, "little")
            return hashlib.sha256(head + hashlib.sha256(content).digest()).digest()

        inner = bytes([0xFF, 1, len(labels[name])]) + labels[name].encode() + (5).to_bytes(8, "little")
        inner = hashlib.sha256(inner + hashlib.sha256(b"bytes").digest()).digest()
        outer = bytes([0xFF, 1, len(name)]) + name.encode() + (5).to_bytes(8, "little") + inner
        assert dataset_keys(stored(name, [b"bytes"])).tobytes() == hashlib.sha256(outer).digest()

    @pytest.mark.parametrize(
        "features",
        [
            [ImageFeature(), ImageFeature(mode="L"), ImageFeature(mode="RGB"), ImageFeature(decode=False)],
            [
                Audio(),
                Audio(sampling_rate=8),
                Audio(num_channels=1),
                Audio(stream_index=1),
                Audio(decode=False),
            ],
            [Video(), Video(stream_index=1), Video(dimension_order="NHWC"), Video(decode=False)],
        ],
        ids=FEATURES,
    )
    def test_each_way_of_decoding_is_part_of_the_key(self, features: list[Any]) -> None:
        name = type(features[0]).__name__.lower()
        assert differ(*(dataset_keys(stored(name, [b"bytes"], feature)) for feature in features))

    def test_how_fast_or_where_bytes_are_decoded_is_no_part_of_the_key(self) -> None:
        rows = [stored("video", [b"a"], feature) for feature in (Video(), Video(num_ffmpeg_threads=4))]
        one, other = map(dataset_keys, rows)
        assert np.array_equal(one, other)

    def test_the_medium_is_part_of_the_key(self) -> None:
        assert differ(*(dataset_keys(stored(name, [b"a"])) for name in FEATURES))

    def test_without_bytes_the_files_content_counts_and_never_its_path(self, tmp_path: Path) -> None:
        one, other, changed = (tmp_path / name for name in ("one", "other", "changed"))
        one.write_bytes(png(image()))
        other.write_bytes(png(image()))
        changed.write_bytes(png(image(1)))
        keys = dataset_keys(stored("image", [one, other, png(image()), changed, one]))
        assert (keys == keys[0]).all(axis=1).tolist() == [True, True, True, False, True]
        before = dataset_keys(stored("image", [one]))
        one.write_bytes(png(image(2)))
        assert differ(before, dataset_keys(stored("image", [one])))

    def test_neither_bytes_nor_path_is_no_content(self) -> None:
        rows = Dataset.from_dict({"image": [{"bytes": b"a", "path": None}, {"bytes": None, "path": None}]})
        with pytest.raises(ItemError, match="found neither"):
            dataset_keys(rows.cast_column("image", ImageFeature()))

    @pytest.mark.parametrize(
        "rearranged",
        [
            lambda rows: rows,
            lambda rows: rows.select(range(2, 6)),
            lambda rows: rows.select([6, 1, 1, 4]),
            lambda rows: rows.select([]),
            lambda rows: rows.shuffle(seed=3),
            lambda rows: rows.shuffle(seed=3).select(range(1, 5)),
            lambda rows: rows.shuffle(seed=5).flatten_indices(),
            lambda rows: rows.filter(lambda row: row["text"] > "b"),
        ],
    )
    def test_a_rearranged_data_set_has_the_keys_of_its_rows(
        self, rearranged: Callable[[Any], Any], tmp_path: Path
    ) -> None:
        file = tmp_path / "file"
        file.write_bytes(png(image(9)))
        parts = [
            stored("image", [png(image(1)), None, file], text=list("abc")),
            stored("image", [png(image(2)), png(image(1)), None, file, png(image(3))], text=list("defgh")),
        ]
        rows = rearranged(concatenate_datasets(parts))
        assert stored_digests(rows, "image") is not None
        encoded = rows.cast_column("image", ImageFeature(decode=False))
        files = [row["image"] and (row["image"]["bytes"] or row["image"]["path"]) for row in encoded]
        expected = [
            dataset_keys(stored("image", [content], text=[text]))
            for content, text in zip(files, encoded["text"], strict=True)
        ]
        assert np.array_equal(dataset_keys(rows), np.concatenate(expected or [np.empty((0, 32), np.uint8)]))


class TestDecoded:
    def test_everything_that_changes_an_images_meaning_is_part_of_its_key(self) -> None:
        palette, other_palette = image().quantize(4), image().quantize(4)
        other_palette.putpalette([7] * 768)
        transparent, turned = image().quantize(4), image()
        transparent.info["transparency"] = 1
        turned.getexif()[0x0112] = 6
        variants = [
            image(),
            image(1),
            turned,
            *(image().convert(mode) for mode in ("L", "RGBA", "YCbCr")),
            Image.frombytes("RGB", (2, 8), image().tobytes()),
            palette,
            other_palette,
            transparent,
        ]
        assert differ(*(media_digest(variant).key for variant in variants))
        assert media_digest(image()) == media_digest(Image.open(io.BytesIO(png(image()))))

    def test_an_image_of_several_frames_has_no_key(self) -> None:
        buffer = io.BytesIO()
        image().save(buffer, "GIF", save_all=True, append_images=[image(99)])
        with pytest.raises(ItemError, match="several frames"):
            media_digest(Image.open(buffer))

    def test_samples_their_dtype_and_sampling_rate_are_audio_and_its_path_is_not(self) -> None:
        samples = np.linspace(0, 1, 8, dtype=np.float32)
        audio = {"array": samples, "sampling_rate": 8000}
        variants = [
            audio,
            {**audio, "sampling_rate": 16000},
            {**audio, "array": samples[::-1]},
            {**audio, "array": samples.reshape(2, 4)},
            {**audio, "array": samples.astype(np.float64)},
            {**audio, "array": torch.from_numpy(samples)},
            {**audio, "array": samples.tolist()},
        ]
        assert differ(*(media_digest(variant).key for variant in variants))
        assert media_digest({**audio, "path": "somewhere"}) == media_digest(audio)

    def test_every_frame_its_order_and_the_frame_rate_are_a_video(self) -> None:
        frames = np.zeros((48, 3, 2, 2), np.uint8)
        between = frames.copy()
        between[13, 0, 0, 0] = 1
        other = frames.copy()
        other[14, 0, 0, 0] = 1
        videos = [frames, between, other, frames[:47], frames.reshape(48, 2, 2, 3), frames.astype(np.int16)]
        rates = [{"frames": frames, "fps": rate} for rate in (24, 25)]
        assert differ(*(media_digest(video).key for video in (*videos, *rates)))
        assert differ(*(media_digest(torch.from_numpy(video)).key for video in videos))
        assert differ(media_digest(list(frames)).key, media_digest(list(between)).key)

    def test_stored_bytes_and_what_is_decoded_from_them_never_share_a_key(self) -> None:
        content = png(image())
        assert differ(
            dataset_keys(stored("image", [content])),
            dataset_keys(stored("image", [content], ImageFeature(decode=False))),
            item_keys([{"image": image()}]),
            item_keys([{"image": content}]),
            item_keys([{"image": np.asarray(image())}]),
            item_keys([{"image": torch.from_numpy(PIXELS)}]),
            item_keys([{"image": [image()]}]),
        )

    def test_undecoded_items_have_the_key_of_their_column(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(b"content")
        rows = stored("image", [b"content", file], ImageFeature(decode=False))
        assert np.array_equal(item_keys(list(rows)), dataset_keys(rows))

    @pytest.mark.parametrize("rows", [[image(), None, image(1)], [[image(), image(1)], [], [image()]]])
    def test_items_and_columns_of_decoded_media_have_the_same_keys(self, rows: list[Any]) -> None:
        texts = ["a", "b", "c"]
        items = [{"text": text, "image": row} for text, row in zip(texts, rows, strict=True)]
        expected = field_keys({"text": texts, "image": rows})
        assert np.array_equal(item_keys(items), expected)
        digests = media_digests(rows)
        assert np.array_equal(field_keys({"text": texts, "image": digests}), expected)
        assert np.array_equal(np.concatenate([item_keys([item]) for item in items]), expected)

    @pytest.mark.parametrize(
        "value",
        [
            "a path",
            object(),
            np.array(["a"]),
            np.array([None]),
            {"path": "a path"},
            {1: 2},
            [image(), "a path"],
            np.ma.array([1, 2], mask=[False, True]),
            torch.zeros(2, 2).to_sparse(),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_is_no_content_has_no_key(self, value: Any) -> None:
        with pytest.raises(ItemError, match="position 1"):
            media_digests([image(), value])


class TestFields:
    def test_a_null_medium_is_no_medium(self) -> None:
        rows = stored("image", [None, b"a"], text=["a", "a"])
        keys = dataset_keys(rows)
        assert np.array_equal(keys[:1], text_keys(["a"]))
        assert differ(*keys)
        assert np.array_equal(item_keys([{"text": "a", "image": None, "audio": None}]), keys[:1])

    def test_a_null_text_beside_a_medium_is_no_text(self) -> None:
        alone, without, empty = (
            dataset_keys(stored("image", [b"a"], **columns))
            for columns in ({}, {"text": [None]}, {"text": [""]})
        )
        assert np.array_equal(alone, without)
        assert differ(alone, empty)

    @pytest.mark.parametrize("text", [{}, {"text": ["a", None]}])
    def test_an_item_without_text_and_media_has_no_key(self, text: dict[str, Any]) -> None:
        with pytest.raises(ItemError, match="only null at position 1"):
            dataset_keys(stored("image", [b"a", None], **text))

    def test_the_order_of_media_counts_and_that_of_other_columns_does_not(self) -> None:
        parts = {"image": [image()], "audio": [PIXELS], "text": ["a"]}
        orders = [("image", "audio", "text"), ("audio", "image", "text"), ("text", "image", "audio")]
        assert differ(*(field_keys({name: parts[name] for name in order}) for order in orders))
        items = [{name: parts[name][0] for name in order} for order in orders]
        assert differ(*item_keys(items))
        assert np.array_equal(item_keys(items)[:1], field_keys({name: parts[name] for name in orders[0]}))
        texts = {"text": ["a"], "title": ["b"], "instruction": ["c"]}
        one = field_keys({**texts, "image": [image()]})
        assert np.array_equal(one, field_keys({**dict(reversed(texts.items())), "image": [image()]}))

    def test_texts_beside_media_count_as_they_do_alone(self) -> None:
        def key(**texts: Any) -> Any:
            return item_keys([{**texts, "image": image()}])

        assert differ(key(), key(text="a"), key(text="a", title="t"), key(text="a", instruction="t"))
        assert differ(key(), key(instruction="t"), key(body=""), key(text=""))
        assert np.array_equal(key(text="a", body="a", title=""), key(text="a"))

    @pytest.mark.parametrize("name", ["title", "body", "query", "instruction", "image", "audio"])
    @pytest.mark.parametrize(
        ("values", "feature"),
        [
            ([1, 2], None),
            ([0.5, float("nan")], None),
            ([False, True], None),
            ([0, 1], datasets.ClassLabel(names=["x", "y"])),
        ],
    )
    def test_numbers_and_classes_are_fields_if_they_are_called_so(
        self, values: list[Any], feature: Any, name: str
    ) -> None:
        rows = Dataset.from_dict({"text": ["a", "a"]})
        numbered = rows.add_column(name, values)
        if feature is not None:
            numbered = numbered.cast_column(name, feature)
        texts = rows.add_column(name, list(map(repr, values))) if name in TEXT_FIELDS else rows
        keys = [*dataset_keys(numbered), *dataset_keys(numbered.with_format("torch")), *dataset_keys(texts)]
        assert len({key.tobytes() for key in keys}) == (4 if name in TEXT_FIELDS else 3)

    def test_texts_that_are_numbers_have_no_key(self) -> None:
        with pytest.raises(ItemError, match=r"expected texts.*int64"):
            dataset_keys(stored("image", [b"a"], text=[1]))

    def test_a_column_of_nulls_adds_nothing(self) -> None:
        rows = stored("image", [b"a"])
        assert np.array_equal(dataset_keys(rows.add_column("audio", [None])), dataset_keys(rows))


@needs_ffmpeg
class TestDecoders:
    @pytest.mark.parametrize(
        ("name", "contents", "features"),
        [
            ("audio", lambda: [wav(0), wav(1)], [Audio(), Audio(num_channels=1), Audio(sampling_rate=4000)]),
            ("video", clips, [Video(), Video(dimension_order="NHWC"), Video(seek_mode="approximate")]),
        ],
    )
    def test_a_decoder_has_the_key_of_its_bytes_and_settings(
        self, name: str, contents: Any, features: list[Any], tmp_path: Path
    ) -> None:
        first, second = contents()
        file = tmp_path / "file"
        file.write_bytes(first)
        keys = []
        for feature in features:
            items = list(stored(name, [first, second, first, file], feature))
            assert all(item[name]._hf_encoded for item in items)
            found = item_keys(items)
            assert (found == found[0]).all(axis=1).tolist() == [True, False, True, True]
            keys += list(found[:2])
        assert differ(*keys)

    def test_without_its_bytes_all_that_a_decoder_decodes_is_its_key(self) -> None:
        from torchcodec.decoders import AudioDecoder, VideoDecoder

        for make, contents in ((AudioDecoder, [wav(0), wav(1), wav(0, rate=4000)]), (VideoDecoder, clips())):
            digests = [media_digest(make(content)) for content in contents]
            assert differ(*(digest.key for digest in digests))
            assert digests[0] == media_digest(make(contents[0]))
        orders = [VideoDecoder(clips()[0], dimension_order=order) for order in ("NCHW", "NHWC")]
        assert differ(*(media_digest(decoder).key for decoder in orders))


def test_a_backend_holds_the_vectors_of_media(tmp_path: Path) -> None:
    items = [{"image": image(shift), "id": str(shift)} for shift in (0, 1)]
    with_text = {"image": image(), "text": "a"}
    cache = NumpyCache(tmp_path)
    cache.add([*items, with_text], np.eye(3, dtype=np.float32))
    cache.close()
    cache = NumpyCache(tmp_path)
    for item, row in zip([{"image": image()}, {"image": image(1)}, with_text], np.eye(3), strict=True):
        found = cache.get_vector(item)
        assert found is not None
        assert np.array_equal(found, row)
    assert {"image": image(2)} not in cache
    cache.close()
