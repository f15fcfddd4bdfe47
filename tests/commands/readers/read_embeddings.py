"""Read a directory of vectors with embedding-reader and print what it finds as JSON.

Its own environment runs this. embedding-reader may return float32 where the file holds float16.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256

from embedding_reader import EmbeddingReader


def main() -> None:
    """Read the directory that the command line names, a few rows at a time."""
    reader = EmbeddingReader(sys.argv[1], file_format="npy")
    batches = [vectors for vectors, _ in reader(batch_size=7, show_progress=False)]
    content = b"".join(vectors.astype("<f4").tobytes() for vectors in batches)
    found = {
        "count": int(reader.count),
        "dimension": int(reader.dimension),
        "sha256": sha256(content).hexdigest(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
