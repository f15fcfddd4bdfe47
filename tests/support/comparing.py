"""Arrays and files compared bit for bit, and bits flipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def bits_equal(left: Any, right: Any) -> bool:
    """Whether two arrays are of one kind, dtype and shape, and equal bit for bit."""
    if type(left) is not type(right) or left.dtype != right.dtype or left.shape != right.shape:
        return False
    if not isinstance(left, np.ndarray):
        import torch

        left, right = (part.reshape(-1).view(torch.uint8).numpy() for part in (left, right))
    return bool(left.tobytes() == right.tobytes())


def flip_bit(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    with path.open("r+b") as file:
        file.write(content)


def files_below(directory: Path) -> dict[str, bytes]:
    """Read all files below a directory, to show that nothing was written."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
