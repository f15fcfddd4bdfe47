"""What the tests share: a model that is cheap, deterministic and works item by item."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Read when the libraries are imported, which is after this.
for _variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_variable, "1")


class ToyModel:
    """Makes each vector from its text alone, and remembers what it was asked for."""

    def __init__(self, dim: int = 4, dtype: Any = np.float32, fail_at: int | None = None) -> None:
        self.dim = dim
        self.dtype = dtype
        self.fail_at = fail_at
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Any:
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the model broke")
        self.calls.append(list(texts))
        return self.vectors(texts)

    def vectors(self, texts: list[str]) -> Any:
        """What an uncached call returns."""
        if isinstance(self.dtype, str):
            import torch

            rows = torch.from_numpy(np.array([self.row(text) for text in texts]).reshape(-1, self.dim))
            return rows.to(getattr(torch, self.dtype))
        return np.array([self.row(text) for text in texts]).reshape(-1, self.dim).astype(self.dtype)

    def row(self, text: str) -> np.ndarray:
        seed = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        generator = np.random.default_rng(int.from_bytes(seed, "little"))
        if np.issubdtype(np.float64 if isinstance(self.dtype, str) else self.dtype, np.integer):
            return generator.integers(0, 127, self.dim)
        return generator.standard_normal(self.dim)

    @property
    def encoded(self) -> list[str]:
        """Every text encoded, in order."""
        return [text for call in self.calls for text in call]


def same(left: Any, right: Any) -> bool:
    """Whether two arrays are of one kind, dtype and shape, and equal bit for bit."""
    if type(left) is not type(right) or left.dtype != right.dtype or left.shape != right.shape:
        return False
    if not isinstance(left, np.ndarray):
        import torch

        left, right = (part.reshape(-1).view(torch.uint8).numpy() for part in (left, right))
    return bool(left.tobytes() == right.tobytes())


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture(scope="session")
def toy() -> type[ToyModel]:
    """The class, for models of another dimension, dtype or temper."""
    return ToyModel


@pytest.fixture(scope="session")
def bits_equal() -> Callable[[Any, Any], bool]:
    """Tells whether two arrays are of one kind and equal bit for bit."""
    return same


@pytest.fixture
def never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrappers of mteb's models do not ask them by default, so that tests can count their calls."""
    monkeypatch.setattr("dejavec.mteb.wrapper.KNOWN_ITEMS", 0)


@pytest.fixture
def flip_bit() -> Callable[[Path, int], None]:
    """Flips one bit of a file."""

    def flip(path: Path, offset: int) -> None:
        content = bytearray(path.read_bytes())
        content[offset] ^= 1
        with path.open("r+b") as file:
            file.write(content)

    return flip


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Reads all files below a directory, to show that nothing was written."""

    def read(directory: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}

    return read


@pytest.fixture(params=["npy", "faiss-l2", "faiss-ip"])
def container(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file that new caches have, each in turn; the first alone for a test that is marked ``npy_only``."""
    if request.param != "npy" and request.node.get_closest_marker("npy_only"):
        pytest.skip("a promise of vectors.npy alone")
    monkeypatch.setattr("dejavec.handle.DEFAULT_CONTAINER", request.param)
    return str(request.param)


@pytest.fixture
def first_row(container: str) -> tuple[str, int]:
    """The file of the rows, and where in it the first begins."""
    return ("vectors.npy", 128) if container == "npy" else ("vectors.faiss", 45)
