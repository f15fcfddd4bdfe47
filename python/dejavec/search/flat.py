"""A flat index of FAISS over vectors in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.search.metric import FileMetric, import_faiss


def flat_index(vectors: NDArray[np.float32], metric: FileMetric) -> Any:
    """Return a flat index over vectors in memory, without a copy.

    Args:
        vectors: (rows, dim), float32, C-contiguous; aligned or not.
        metric: how vectors are compared.

    Returns:
        ``faiss.IndexFlatL2`` or ``IndexFlatIP``. It holds a reference to the vectors; copies made by
        ``faiss.clone_index`` do not. It is for searching only: FAISS ends the process if something is added
        to an index over memory that FAISS does not own.
    """
    faiss = import_faiss()
    dim = vectors.shape[1]
    index = faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)
    codes = vectors.view(np.uint8).reshape(-1)
    # FAISS's view needs an owner; an owning vector's `owner` is null. Keep `index` alive until it is read.
    nobody = index.codes.owner
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(faiss.swig_ptr(codes), codes.nbytes, nobody)
    index.ntotal = len(vectors)
    index.referenced_objects = [vectors]
    return index
