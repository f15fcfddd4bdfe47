"""What the tests of media share: small images, audio and video, encoded and in data sets."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import pytest
from datasets import Audio, Dataset, Features, Value, Video
from datasets import Image as ImageFeature
from mteb.mocks.mock_tasks.create_mock_samples import create_mock_video_bytes
from mteb_models import loads_ffmpeg
from PIL import Image

needs_ffmpeg = pytest.mark.skipif(not loads_ffmpeg(), reason="torchcodec finds no FFmpeg")
FEATURES = {"image": ImageFeature, "audio": Audio, "video": Video}
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def image(shift: int = 0) -> Image.Image:
    return Image.fromarray(PIXELS + np.uint8(shift))


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def wav(seed: int = 0, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).integers(-9000, 9000, (800, 2), np.int16)
    with wave.open(buffer, "wb") as file:
        file.setparams((2, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def stored(name: str, files: list[Any], feature: Any = None, **columns: list[Any]) -> Dataset:
    """A data set of encoded media: bytes, paths or None."""
    parts = [
        None if file is None else {"bytes": file, "path": None} if isinstance(file, bytes)
        else {"bytes": None, "path": str(file)}
        for file in files
    ]  # fmt: skip
    kind = {"bytes": Value("binary"), "path": Value("string")}
    rows = Dataset.from_dict({name: parts}, features=Features({name: kind}))
    rows = rows.cast_column(name, feature or FEATURES[name]())
    for other, column in columns.items():
        rows = rows.add_column(other, column)
    return rows


def differ(*keys: Any) -> bool:
    """Whether all of these single keys differ from each other."""
    return len({np.asarray(key).tobytes() for key in keys}) == len(keys)


def clips() -> list[bytes]:
    """Two videos of a second that differ only between the frames that mteb looks at."""
    return create_mock_video_bytes(np.random.default_rng(0), n=2, width=32, height=32, fps=8)
