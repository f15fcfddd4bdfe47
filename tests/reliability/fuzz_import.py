"""Mutated files of mteb's caches and our records.

``python tests/reliability/fuzz_import.py CORPUS [libFuzzer options]``.

Whatever the bytes are, reading them gives vectors that lie in the file, or one error of ours; memory is
bounded by ``-rss_limit_mb``, time by ``-timeout``. Needs atheris, which ``make fuzz`` installs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["dejavec.mteb.migrate.old_files", "dejavec.support.json_file"]):
    from dejavec.mteb.migrate.old_files import open_old_cache
    from dejavec.support.json_file import read_record

from dejavec.errors import CorruptCacheError
from dejavec.support.mteb_files import DIMENSION, INDEX, VECTORS

SEPARATOR = b"\n--\n"
NAMES = (DIMENSION, INDEX, VECTORS)
KEY = b"0123456789abcdef" * 4
SEEDS = (
    SEPARATOR.join([b"1", b'{"' + KEY + b'": 0}', bytes(4)]),
    SEPARATOR.join([b"2", b'{"' + KEY + b'": 1, "' + KEY[::-1] + b'": 0}', bytes(range(16))]),
    SEPARATOR.join([b"1", b'{"' + KEY * 2 + b'": 0, "' + KEY + b'": 0}', bytes(8)]),
    SEPARATOR.join([b"1", b"{}", b""]),
    b'{"version": 1, "sha256": "' + KEY + b'", "content": {}}',
)
directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def one_input(data: bytes) -> None:
    """Read the files whose bytes these are, one behind the other."""
    parts = data.split(SEPARATOR, len(NAMES) - 1)
    for name, part in zip(NAMES, [*parts, b"", b""], strict=False):
        (directory / name).write_bytes(part)
    record = read_record(directory / DIMENSION)
    assert record is None or isinstance(record, dict)
    try:
        cache = open_old_cache(directory)
    except CorruptCacheError:
        return
    file = (directory / VECTORS).read_bytes()
    assert len(cache.keys) == len(cache.rows) == len(cache.shared)
    for block, vectors in cache.blocks():
        assert vectors.shape == (block.stop - block.start, cache.dim)
        for row, vector in zip(cache.rows[block], vectors, strict=True):
            expected = file[row * cache.dim * 4 : (row + 1) * cache.dim * 4]
            assert np.asarray(vector, "<f4").tobytes() == expected


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
