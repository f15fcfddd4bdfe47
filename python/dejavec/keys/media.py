"""Digests of images, audio and video: of their stored bytes if these are known, otherwise of decoded content.

Each kind of content has a different label before it, so that no two kinds share a digest:

    stored    bytes of a file, with the parameters of the data set feature that decodes them
    encoded   bytes of a file that the model reads undecoded
    decoder   bytes of a file in a decoder object, with the settings of the decoder
    [...      a JSON list: decoded content, with everything that defines the meaning of its numbers
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec import _core
from dejavec.errors import ItemError
from dejavec.keys.arrow import ArrowTexts, row_indices
from dejavec.support.canonical import canonical_json

MEDIA = ("image", "audio", "video")
"""Fields that make an item more than text."""

_WHERE = "an image, audio or video"
_LEAVE_OUT = "leave the item out, or mend it"
_CONVERT = "convert it to a NumPy array"

_NO_CONTENT = {"decode", "id", "_type", "num_ffmpeg_threads", "device"}
"""Entries of a feature that do not change the decoded content."""


@dataclasses.dataclass(frozen=True)
class Digest:
    """The digest of one item's medium.

    Attributes:
        key: the digest, 32 bytes.
        size: length of the content in bytes.
    """

    key: bytes
    size: int


@dataclasses.dataclass(frozen=True)
class Digests:
    """The digests of one field of n items.

    Attributes:
        keys: the digests, uint8 of shape (n, 32).
        sizes: length of each content in bytes, -1 for none; int64 of shape (n,).
    """

    keys: NDArray[np.uint8]
    sizes: NDArray[np.int64]


def stored_digests(dataset: Any, name: str) -> Digests | None:
    """Return the digests of a data set's media from their stored bytes, without decoding.

    If a row refers to a file, its content counts, never its path.

    Args:
        dataset: a Hugging Face data set.
        name: the column.

    Returns:
        None if a row of the data set is not what its feature decodes from these bytes.

    Raises:
        ItemError: a row has neither bytes nor a readable file.
    """
    datasets, pyarrow = sys.modules["datasets"], sys.modules["pyarrow"]
    feature = dataset.features[name]
    if dataset._format_type is not None or type(feature) not in (
        datasets.Image,
        datasets.Audio,
        datasets.Video,
    ):
        return None
    column, indices = dataset.data.column(name), row_indices(dataset)
    if column.type != feature.pa_type:
        return None
    places = [column.type.get_field_index(part) for part in ("bytes", "path")]
    # After flattening, both parts of a null row are null.
    contents, paths = ([chunk.flatten()[place] for chunk in column.chunks] for place in places)
    digests, sizes = ArrowTexts(contents, indices).digest()
    without_bytes = np.flatnonzero(sizes < 0)
    if len(without_bytes):
        rows = without_bytes if indices is None else indices[without_bytes]
        files = pyarrow.chunked_array(paths, pyarrow.string()).take(pyarrow.array(rows)).to_pylist()
        present = column.is_valid().take(pyarrow.array(rows)).to_pylist()
        known: dict[str | None, tuple[bytes, int]] = {}
        for position, path, exists in zip(without_bytes, files, present, strict=True):
            if exists:
                if path not in known:
                    known[path] = _of_file(path)
                digests[position] = np.frombuffer(known[path][0], np.uint8)
                sizes[position] = known[path][1]
    if not feature.decode:
        return _labelled("encoded", digests, sizes)
    parameters = {
        entry.name: getattr(feature, entry.name)
        for entry in dataclasses.fields(feature)
        if entry.name not in _NO_CONTENT and getattr(feature, entry.name) is not None
    }
    return _labelled(f"stored {type(feature).__name__} {canonical_json(parameters)}", digests, sizes)


def media_digests(column: Iterable[Any]) -> Digests:
    """Return the :func:`media_digest` of each medium; None counts as absent.

    Raises:
        ItemError: see :func:`media_digest`; the message names the position.
    """
    keys, sizes = bytearray(), []
    for position, value in enumerate(column):
        try:
            digest = Digest(bytes(32), -1) if value is None else media_digest(value)
        except ItemError as error:
            raise error.within(f"position {position}") from None
        keys += digest.key
        sizes.append(digest.size)
    return Digests(np.frombuffer(keys, np.uint8).reshape(-1, 32), np.array(sizes, np.int64))


def media_digest(value: Any) -> Digest:
    """Return the digest of one image, audio or video, in the form that a model reads.

    Args:
        value: a PIL image, an array or tensor, a decoder of torchcodec, bytes, or the dict of bytes and path
            of an undecoded data set. Or lists and dicts of these and of numbers, such as samples and rate of
            audio. A :class:`Digest` is returned unchanged.

    Raises:
        ItemError: the content has no stable form.

    Example:
        >>> samples = np.zeros(8, np.float32)
        >>> fast, slow = ({"array": samples, "sampling_rate": rate} for rate in (16_000, 8_000))
        >>> media_digest(fast) == media_digest(slow)
        False
    """
    if isinstance(value, Digest):
        return value
    if isinstance(value, Mapping):
        if set(value) == {"bytes", "path"}:
            return _of_encoded("encoded", value)
        return _of_dict(value)
    if isinstance(value, list | tuple):
        return _of_list(value)
    if isinstance(value, bytes):
        return _hashed(["bytes"], value)
    if isinstance(value, bool | int | float | None):
        return _hashed(["number", repr(value)])
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray):
        return _of_array("numpy", np.asarray(value))
    for module, name, digest in _LIBRARIES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(value, kind):
            try:
                return digest(value)
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                raise ItemError(
                    _WHERE, expected=f"a readable {type(value).__name__}", found=str(error), remedy=_LEAVE_OUT
                ) from None
    raise ItemError(
        _WHERE,
        expected="an image, audio or video",
        found=f"{type(value).__name__}, which has no key",
        remedy=_CONVERT,
    )


def _of_image(image: Any) -> Digest:
    if getattr(image, "n_frames", 1) > 1:
        # To read other frames would change the current frame of the caller's image.
        raise ItemError(
            _WHERE,
            expected="an image of one frame",
            found="several frames, which have no key once they are decoded",
            remedy="give the bytes of the file",
        )
    pixels = image.tobytes()
    palette = image.palette and [image.palette.mode, image.getpalette(image.palette.mode)]
    transparency = image.info.get("transparency")
    orientation = image.getexif().get(0x0112)
    label = ["pil", image.mode, image.size, palette, repr(transparency), repr(orientation)]
    return _hashed(label, pixels)


def _of_tensor(tensor: Any) -> Digest:
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise ItemError(_WHERE, expected="a dense tensor", found="another, which has no key", remedy=_CONVERT)
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return _hashed(["torch", str(tensor.dtype), list(tensor.shape)], raw)


def _of_array(library: str, array: NDArray[Any]) -> Digest:
    if array.dtype.kind not in "biufc":
        raise ItemError(
            _WHERE, expected="numbers", found=f"an array of {array.dtype}, which has no key", remedy=_CONVERT
        )
    return _hashed([library, array.dtype.str, list(array.shape)], np.ascontiguousarray(array))


def _of_audio_decoder(decoder: Any) -> Digest:
    encoded = getattr(decoder, "_hf_encoded", None)
    if encoded is None:
        samples = decoder.get_all_samples()
        data = media_digest(samples.data)
        return _joined(["audio", samples.sample_rate, samples.pts_seconds], [data])
    # The attributes of the decoder do not contain all of its settings; the first samples show the channels.
    start = decoder.metadata.begin_stream_seconds or 0.0
    first = decoder.get_samples_played_in_range(start, start + 0.01)
    if not first.data.numel():
        first = decoder.get_all_samples()
    label = [decoder.stream_index, first.sample_rate, first.data.shape[0]]
    return _of_encoded(f"decoder audio {canonical_json(label)}", encoded)


def _of_video_decoder(decoder: Any) -> Digest:
    encoded, metadata = getattr(decoder, "_hf_encoded", None), decoder.metadata
    if encoded is None:
        frames = (decoder.get_frame_at(position) for position in range(len(decoder)))
        parts = [
            _joined(["frame", frame.pts_seconds, frame.duration_seconds], [media_digest(frame.data)])
            for frame in frames
        ]
        return _joined(["video", metadata.average_fps, metadata.duration_seconds], parts)
    # The metadata show only one setting of the decoder: whether it seeks exactly.
    exact = metadata.num_frames_from_content is not None
    label = [decoder.stream_index, exact, list(decoder.get_frame_at(0).data.shape)]
    return _of_encoded(f"decoder video {canonical_json(label)}", encoded)


def _of_list(values: list[Any] | tuple[Any, ...]) -> Digest:
    first = values
    while isinstance(first, list | tuple) and len(first):
        first = first[0]
    if isinstance(first, bool | int | float):
        # A list of samples is hashed as an array, unless it also holds other values.
        try:
            return _of_array("list", np.asarray(values))
        except (ItemError, ValueError):
            pass
    return _joined(["list"], [media_digest(value) for value in values])


def _of_dict(values: Mapping[Any, Any]) -> Digest:
    # The path of decoded samples does not count.
    names = [name for name in values if not (name == "path" and "array" in values)]
    if not all(isinstance(name, str) for name in names):
        raise ItemError(
            _WHERE, expected="names for the parts of an item", found="other keys", remedy=_CONVERT
        )
    names.sort()
    return _joined(["dict", *names], [media_digest(values[name]) for name in names])


def _of_encoded(label: str, encoded: Mapping[str, Any]) -> Digest:
    """Return the digest of a ``{"bytes", "path"}``: the same as for a stored medium with this label."""
    content = encoded["bytes"]
    if content is None:
        digest, size = _of_file(encoded["path"])
    else:
        digest, size = hashlib.sha256(content).digest(), len(content)
    whole = _labelled(label, np.frombuffer(digest, np.uint8).reshape(1, 32), np.array([size]))
    return Digest(whole.keys.tobytes(), size)


def _of_file(path: str | None) -> tuple[bytes, int]:
    """Return SHA-256 and length of a file's content. The file may be in an archive or on a server."""
    if path is None:
        raise ItemError(_WHERE, expected="bytes or a file", found="neither", remedy=_LEAVE_OUT)
    utilities: Any = sys.modules.get("datasets.utils.file_utils")
    try:
        remote = utilities is not None and not utilities.is_local_path(path)
        with utilities.xopen(path, "rb") if remote else Path(path).open("rb") as file:
            digest, size = hashlib.sha256(), 0
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except Exception as error:  # Clients of servers may raise anything.
        raise ItemError(
            _WHERE, expected="a file", found=f"none that can be read: {error}", remedy=_LEAVE_OUT
        ) from None
    return digest.digest(), size


def _labelled(label: str, digests: NDArray[np.uint8], sizes: NDArray[np.int64]) -> Digests:
    keys = np.empty_like(digests)
    _core.hash_fields([(label, sizes, digests)], keys)
    return Digests(keys, sizes)


def _joined(label: list[Any], parts: Iterable[Digest]) -> Digest:
    parts = list(parts)
    whole = _hashed([*label, [part.size for part in parts]], b"".join(part.key for part in parts))
    return Digest(whole.key, sum(part.size for part in parts))


def _hashed(label: list[Any], content: Any = b"") -> Digest:
    digest = hashlib.sha256(canonical_json(label).encode() + b"\0")
    digest.update(content)
    return Digest(digest.digest(), memoryview(content).nbytes)


_LIBRARIES: tuple[tuple[str, str, Callable[[Any], Digest]], ...] = (
    ("PIL.Image", "Image", _of_image),
    ("torch", "Tensor", _of_tensor),
    ("torchcodec.decoders", "AudioDecoder", _of_audio_decoder),
    ("torchcodec.decoders", "VideoDecoder", _of_video_decoder),
)
"""Module, class and digest function. If a module is not loaded, no object of the class exists."""
