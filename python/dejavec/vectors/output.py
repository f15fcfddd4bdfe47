"""The form in which a model returns vectors. It is stored with them, so that the cache returns the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from dejavec.errors import VectorsError

Kind = Literal["numpy", "torch", "list"]
"""NumPy arrays, torch tensors on the CPU, or lists of Python numbers."""

Container = Literal["npy", "faiss-l2", "faiss-ip", "ragged", "sparse"]
"""The format of the rows: ``npy`` is ``vectors.npy``; ``faiss-l2`` and ``faiss-ip`` are ``vectors.faiss``, a
FAISS flat index of this metric; ``ragged`` has several vectors for each item; ``sparse`` has the numbers that
are not zero."""

DENSE: tuple[Container, ...] = ("npy", "faiss-l2", "faiss-ip")
"""The containers of dense rows, all of one length."""

FLOAT32: tuple[Container, ...] = ("faiss-l2", "faiss-ip")
"""The containers that hold float32 alone."""

ROWS = "rows"
"""The layout of dense rows: (n, dim)."""

ITEMS = "items"
"""The layout of a list of (tokens, dim) arrays, one for each item."""

COO = "sparse_coo"
"""The layout of a torch COO tensor (n, columns)."""

CSR_ARRAY = "csr_array"
"""The layout of a SciPy array of that class, (n, columns)."""

PADDED = "padded"
"""The layout of one (n, longest, dim) array. Zeros follow the tokens of each item."""


@dataclass(frozen=True)
class Output:
    """The array kind that a model returns.

    Attributes:
        library: ``"numpy"``, ``"torch"``, or ``"list"`` for lists of Python numbers; ``"scipy"`` for its
            sparse arrays.
        dtype: the name of the dtype in that library; NumPy's for lists. ``"bfloat16"`` is stored as float32.
        layout: ``"rows"``, ``"items"`` or ``"padded"``; or a sparse layout of
            :mod:`dejavec.vectors.sparse`.
        index_dtype: the name of the dtype of sparse indices; None for other vectors.

    Example:
        >>> Output("numpy", "float32").to_json()
        '{"dtype": "float32", "library": "numpy"}'
    """

    library: str
    dtype: str
    layout: str = ROWS
    index_dtype: str | None = None

    @property
    def family(self) -> Literal["dense", "ragged", "sparse"]:
        """Which containers hold such vectors: :data:`DENSE`, ``"ragged"`` or ``"sparse"``."""
        if self.layout == ROWS:
            return "dense"
        return "ragged" if self.layout in (ITEMS, PADDED) else "sparse"

    def shown_as(self, kind: Kind) -> Output:
        """Return the same array kind in another library.

        Raises:
            VectorsError: sparse vectors cannot be lists.
        """
        if self.family != "sparse":
            return replace(self, library=kind)
        if kind == "list":
            raise VectorsError(
                "output=",
                expected='"numpy" or "torch" for sparse vectors',
                found='"list"',
                remedy="pass one of these",
            )
        library = {"numpy": "scipy", "torch": "torch"}[kind]
        if self.library == library:
            return self
        if library == "torch":
            return Output("torch", self.dtype, COO, "int64")
        return Output("scipy", self.dtype.replace("bfloat16", "float32"), CSR_ARRAY, "int64")

    def to_json(self) -> str:
        """Return the form that is stored with the cache."""
        entries = {name: value for name, value in asdict(self).items() if value != _DEFAULTS.get(name)}
        return json.dumps(entries, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Output:
        """Read what :meth:`to_json` wrote."""
        entries = json.loads(text)
        return cls(**{field.name: entries[field.name] for field in fields(cls) if field.name in entries})


_DEFAULTS: Mapping[str, Any] = {"layout": ROWS, "index_dtype": None}


def family_of(container: Container) -> Literal["dense", "ragged", "sparse"]:
    """Return which vectors a container holds.

    Example:
        >>> family_of("faiss-ip"), family_of("sparse")
        ('dense', 'sparse')
    """
    if container in ("ragged", "sparse"):
        return container
    return "dense"
