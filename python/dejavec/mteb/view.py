"""Settings of a call that are applied to stored vectors, so that they need no encoding of their own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dejavec.mteb.model.encoders import INTEGER_PRECISIONS
from dejavec.mteb.model.identity import Kind
from dejavec.serving.dense_view import dense_view
from dejavec.serving.uncacheable import UncacheableError
from dejavec.vectors.arrays import from_rows
from dejavec.vectors.output import Output
from dejavec.vectors.ragged import Rows

_QUANTISED_HERE = frozenset({"int8", "uint8", "binary", "ubinary"})
"""Precisions that sentence-transformers makes from float vectors after the last batch."""

_ALL = sys.maxsize
"""A ``truncate_dim`` that keeps all dimensions, for a model that truncates unless a call says otherwise."""


@dataclass(frozen=True)
class View:
    """What is made of the full float vectors of a sentence-transformer, in this order.

    Attributes:
        truncate_dim: how many dimensions remain; None: all.
        normalize: whether each row is divided by its length.
        precision: the integers that they are quantised to; None: they stay floats.
    """

    truncate_dim: int | None = None
    normalize: bool = False
    precision: str | None = None

    def of(self, rows: Rows, output: Output, kind: Kind) -> Any:
        """Return the vectors of a call.

        Args:
            rows: the stored rows (n, dim), writable.
            output: the array kind of the full vectors.
            kind: which ``encode`` the model has.

        Raises:
            UncacheableError: the rows were computed in another dtype than they have.
        """
        if self == WHOLE:
            return from_rows(rows, output)
        if output.dtype != "bfloat16":
            rows = rows.astype(output.dtype, copy=False)  # They may be stored as float16.
        if self.truncate_dim is not None or self.normalize:
            import torch

            if self.normalize and output.dtype != "float32":
                raise UncacheableError("normalised vectors are neither computed nor returned as float32")
            cut = dense_view(torch.from_numpy(rows), truncate_dim=self.truncate_dim, normalize=self.normalize)
            rows = cut.numpy()
        return from_rows(rows, output) if self.precision is None else self._quantised(rows, output, kind)

    def _quantised(self, rows: Rows, output: Output, kind: Kind) -> Any:
        """Quantise rows as sentence-transformers and mteb's wrapper do."""
        import sentence_transformers

        vectors = sentence_transformers.quantize_embeddings(rows, precision=self.precision)
        if output.library == "numpy":
            return vectors
        import torch

        tensor = torch.as_tensor(np.asarray(vectors))
        return tensor.float() if kind == "sentence-transformers" else tensor


WHOLE = View()
"""The vectors as they are stored."""


@dataclass(frozen=True)
class Division:
    """A call, divided into the vectors that are stored and what is made of them.

    Attributes:
        arguments: the arguments of ``encode`` that return the stored vectors.
        identified: those of them that are part of the identity.
        view: what is made of the stored vectors.
        is_full: whether the stored vectors have all dimensions, however many the model keeps by default.
    """

    arguments: dict[str, Any]
    identified: dict[str, Any]
    view: View
    is_full: bool


def divided(
    arguments: Mapping[str, Any], kind: Kind, encoder: Mapping[str, Any] | None, device: str | None
) -> Division:
    """Divide a call.

    Args:
        arguments: all arguments of ``encode`` except the loader.
        kind: which ``encode`` the model has; ``"other"`` if nothing is known of its vectors.
        encoder: the settings of a sentence-transformer, see :class:`dejavec.mteb.model.identity.Profile`.
        device: the device type of the model's tensors; None if that is unknown.

    Raises:
        UncacheableError: the vectors depend on the whole call, in a way that is unknown.
    """
    stored = dict(arguments)
    precision = arguments.get("precision")
    is_known = kind != "other" and encoder is not None
    quantised = precision if is_known and precision in _QUANTISED_HERE else None
    if precision in INTEGER_PRECISIONS and quantised is None:
        raise UncacheableError(f"precision {precision!r} is taken over the whole call")
    if kind == "other" or encoder is None:
        return Division(stored, stored, WHOLE, is_full=False)
    if quantised or precision == "float32":
        del stored["precision"]
    normalize, dim = arguments.get("normalize_embeddings", False), arguments.get("truncate_dim")
    limit = encoder["truncate_dim"]
    dim = limit if dim is None else dim
    derives = (normalize is False or (normalize is True and _is_repeatable(arguments, encoder, device))) and (
        dim is None or (type(dim) is int and dim > 0 and _takes_truncate_dim())
    )
    if not derives:
        return Division(stored, stored, View(precision=quantised), is_full=False)
    stored.pop("normalize_embeddings", None)
    stored.pop("truncate_dim", None)
    sent = stored if limit is None else {**stored, "truncate_dim": _ALL}
    return Division(sent, stored, View(dim, normalize, quantised), is_full=True)


def _is_repeatable(arguments: Mapping[str, Any], encoder: Mapping[str, Any], device: str | None) -> bool:
    """Return whether rows are normalised in float32 on the CPU, where no bit depends on the batch."""
    torch = sys.modules.get("torch")
    return (
        device == "cpu"
        and encoder["dtype"] == "torch.float32"
        and arguments.get("pool") is None
        and arguments.get("device") in (None, "cpu")
        and (torch is None or not torch.is_autocast_enabled("cpu"))
    )


def _takes_truncate_dim() -> bool:
    import sentence_transformers

    return "truncate_dim" in inspect.signature(sentence_transformers.SentenceTransformer.encode).parameters
