"""Search among some vectors of an index of FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dejavec.search.metric import import_faiss


def search_among(
    index: Any, queries: NDArray[Any], k: int, ids: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return distances and ids (n, k) of the nearest vectors with some ids, -1 where there are fewer.

    Args:
        index: a ``faiss.IndexIDMap`` or ``faiss.IndexBinaryIDMap`` whose ids are ascending.
        queries: (n, dim).
        k: how many to find for each query.
        ids: the ids (m,), ascending. Those that the index lacks are ignored.

    Raises:
        RuntimeError: FAISS does not select in such an index.
    """
    faiss = import_faiss()
    all_ids = faiss.vector_to_array(index.id_map)
    # Selectors of nested indexes see positions, so the search is among these.
    bits = np.packbits(np.isin(all_ids, ids, assume_unique=True), bitorder="little")
    inner = _downcast(index.index)
    if not len(all_ids):
        bits = np.zeros(1, np.uint8)
    distances, positions = inner.search(queries, k, params=_selecting(inner, faiss.IDSelectorBitmap(bits)))
    return distances, np.append(all_ids, -1)[positions]


def _downcast(index: Any) -> Any:
    faiss = import_faiss()
    return (
        faiss.downcast_IndexBinary(index)
        if isinstance(index, faiss.IndexBinary)
        else faiss.downcast_index(index)
    )


def _selecting(index: Any, selector: Any) -> Any:
    """Return the parameters of a search: the settings of the index, and a selector."""
    faiss = import_faiss()
    index = _downcast(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_selecting(index.index, selector))
    if isinstance(index, faiss.IndexRefine):
        return faiss.IndexRefineSearchParameters(
            k_factor=index.k_factor, base_index_params=_selecting(index.base_index, selector)
        )
    if isinstance(index, faiss.IndexIVFPQ):
        return faiss.IVFPQSearchParameters(
            sel=selector,
            nprobe=index.nprobe,
            max_codes=index.max_codes,
            scan_table_threshold=index.scan_table_threshold,
            polysemous_ht=index.polysemous_ht,
        )
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW | faiss.IndexBinaryHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)
