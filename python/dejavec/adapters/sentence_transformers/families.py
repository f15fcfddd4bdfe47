"""The three encoders of sentence-transformers: what is stored of each, and the views that are made of it.

The views are made by the operations of the library, in the same dtype, so that they are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dejavec.serving.dense_view import dense_view


@dataclass(frozen=True)
class Family:
    """One of the encoders.

    Attributes:
        name: the name of its class in sentence-transformers.
        limit: the attribute that limits its vectors unless a call does.
        vectors: the ``output_value`` of the vectors; None if the encoder has no such argument.
        interleaves: whether it mixes long and short inputs if the model needs no padding.
        split: divides the arguments of a call into those of the stored vectors, and those of the view. Its
            second argument is whether the vectors are computed on the CPU.
        view: makes the vectors of a call from the stored ones, with the arguments of the view.
    """

    name: str
    limit: str | None
    vectors: str | None
    interleaves: bool
    split: Callable[[Mapping[str, Any], bool], tuple[dict[str, Any], dict[str, Any]]]
    view: Callable[..., Any]


def _split_dense(arguments: Mapping[str, Any], on_cpu: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    stored = {**arguments, "save_to_cpu": True}
    view = {"truncate_dim": arguments["truncate_dim"], "normalize": arguments["normalize_embeddings"]}
    if view["normalize"] and not on_cpu:
        # Sums of squares on a GPU depend on the shape of the batch, so this cannot be repeated here.
        return stored, {"truncate_dim": None, "normalize": False}
    return {**stored, "truncate_dim": None, "normalize_embeddings": False}, view


def _split_sparse(arguments: Mapping[str, Any], on_cpu: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    del on_cpu
    stored = {**arguments, "convert_to_sparse_tensor": True, "save_to_cpu": True}
    return stored, {"sparse": arguments["convert_to_sparse_tensor"]}


def _view_sparse(vectors: Any, *, sparse: bool) -> Any:
    return vectors if sparse else vectors.to_dense()


def _split_multi_vector(arguments: Mapping[str, Any], on_cpu: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    del on_cpu
    return {**arguments, "save_to_cpu": True}, {}


def _view_multi_vector(vectors: Any) -> Any:
    return vectors


DENSE = Family("SentenceTransformer", "truncate_dim", "sentence_embedding", True, _split_dense, dense_view)
SPARSE = Family("SparseEncoder", "max_active_dims", None, True, _split_sparse, _view_sparse)
MULTI_VECTOR = Family(
    "MultiVectorEncoder", None, "token_embeddings", False, _split_multi_vector, _view_multi_vector
)
