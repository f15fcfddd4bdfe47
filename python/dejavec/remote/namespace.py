"""Namespaces: the rows of one identity in one form. Rows of others never come there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from dejavec._core import __version__
from dejavec.errors import VectorsError
from dejavec.identity.observed import Description
from dejavec.identity.proven import from_json, to_json
from dejavec.remote.defects import DefectError
from dejavec.storage.identity import BARE, check_form, compared, difference, model_text, same
from dejavec.storage.keyed_cache import KeyedCache
from dejavec.support.canonical import canonical_json
from dejavec.transfer.pieces import stored_form
from dejavec.vectors.dtypes import STORABLE
from dejavec.vectors.output import Output

MOST_BYTES = 1 << 20
"""The most bytes of ``meta.json``."""

_FORMAT = 1
_DTYPE = re.compile(r"<f[248]|\|[iub]1|<[iu][248]")
_MOST_DIM = {"dense": 65_536, "ragged": 65_536, "sparse": 2**31 - 1}
_LAYOUTS = {
    "dense": r"rows",
    "ragged": r"items|padded",
    "sparse": r"(csr|csc|coo|bsr|dia|dok|lil)_(array|matrix)"
    r"|sparse_(csr|coo|coo_coalesced|coo_items|coo_coalesced_items)",
}


@dataclass(frozen=True)
class Form:
    """The form of rows.

    Attributes:
        rows: ``"dense"``, ``"ragged"`` or ``"sparse"``.
        dim: numbers in a vector, columns of a sparse row.
        dtype: NumPy descriptor of a stored number.
        returned: the name of the dtype that the model returned.
    """

    rows: Literal["dense", "ragged", "sparse"]
    dim: int
    dtype: str
    returned: str

    @property
    def element_bytes(self) -> int:
        """Bytes of an element in ``vectors.npy`` or ``values.npy``."""
        return np.dtype(self.dtype).itemsize * (1 if self.rows == "sparse" else self.dim)

    @property
    def parts(self) -> tuple[str, ...]:
        """The files that a segment must have, besides its commit."""
        return {
            "dense": ("vectors.npy",),
            "ragged": ("vectors.npy", "indptr.npy"),
            "sparse": ("values.npy", "indices.npy", "indptr.npy"),
        }[self.rows]


@dataclass(frozen=True)
class Namespace:
    """What the rows of a namespace are.

    Attributes:
        identity: which model and settings made them.
        form: their form.
        output: the array kind of whoever wrote ``meta.json`` first.
        proven: descriptions of the models that made or confirmed rows.
        mixed: whether other models may have made some.
    """

    identity: dict[str, Any]
    form: Form
    output: Output
    proven: Sequence[Description] = ()
    mixed: bool = False

    @property
    def name(self) -> str:
        """The directory: the SHA-256 of identity and form, 64 hex digits."""
        whole = {"identity": compared(self.identity), "form": asdict(self.form)}
        return hashlib.sha256(canonical_json(whole).encode("ascii")).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the content of ``meta.json``."""
        content = {
            "format": _FORMAT,
            "model": model_text(self.identity),
            "identity": self.identity,
            "form": asdict(self.form),
            "output": json.loads(self.output.to_json()),
            "proven": to_json(self.proven),
            "mixed": self.mixed,
            "made_by": f"dejavec {__version__}",
        }
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("ascii")


def namespace_of(cache: KeyedCache) -> Namespace:
    """Return the namespace of a cache that has vectors.

    Raises:
        VectorsError: it has no vectors, or no named model, so that other models' rows would be mixed in.
    """
    output, dtype, dim = cache.output, cache.dtype, cache.dim
    if cache.identity in ({}, BARE):
        raise VectorsError(
            cache.path,
            expected="a cache of a named model",
            found="none named",
            remedy='create it with model="name@revision" to share it',
        )
    if output is None or dtype is None or dim is None:
        raise VectorsError(cache.path, expected="vectors", found="none", remedy="store some first")
    stored = np.dtype(stored_form(dtype, cache.container, output, cache.identity)).newbyteorder("<")
    form = Form(output.family, dim, stored.str, output.dtype)
    proofs = cache.proofs
    return Namespace(cache.identity, form, output, tuple(proofs.read()), proofs.is_mixed())


def parse(name: str, content: bytes) -> Namespace:
    """Read a ``meta.json``.

    Args:
        name: the directory in which it lies.
        content: its bytes.

    Raises:
        DefectError: it is not in form, or describes another directory.
    """
    try:
        found = json.loads(bytes(content).decode("utf-8"))
        if found["format"] != _FORMAT:
            raise DefectError(f"a format that this version does not know: {found['format']!r:.40}")
        identity, form = _mapping(found["identity"]), _form(_mapping(found["form"]))
        check_form(identity)
        output = _output(_mapping(found["output"]), form)
        proven, mixed = from_json(found["proven"]), found["mixed"] is not False
        namespace = Namespace(dict(identity), form, output, tuple(proven), mixed)
        right = namespace.name == name
    except DefectError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise DefectError(f"not in form: {type(error).__name__}") from None
    if not right:
        raise DefectError("it describes another directory")
    return namespace


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DefectError("not in form: an object was expected")
    return value


def _form(found: Mapping[str, Any]) -> Form:
    form = Form(found["rows"], found["dim"], found["dtype"], found["returned"])
    if (
        form.rows not in _MOST_DIM
        or type(form.dim) is not int
        or not 0 < form.dim <= _MOST_DIM[form.rows]
        or not isinstance(form.dtype, str)
        or not _DTYPE.fullmatch(form.dtype)
        or form.returned not in STORABLE
        or set(found) != {"rows", "dim", "dtype", "returned"}
    ):
        raise DefectError("no form of rows")
    return form


def _output(found: Mapping[str, Any], form: Form) -> Output:
    output = Output.from_json(canonical_json(found))
    libraries = ("scipy", "torch") if form.rows == "sparse" else ("numpy", "torch", "list")
    if (
        output.library not in libraries
        or output.dtype != form.returned
        or not re.fullmatch(_LAYOUTS[form.rows], output.layout)
        or output.layout.startswith("sparse_") != (output.library == "torch" and form.rows == "sparse")
        or output.index_dtype not in (("int32", "int64") if form.rows == "sparse" else (None,))
        or set(found) - {"library", "dtype", "layout", "index_dtype"}
    ):
        raise DefectError("no array kind of these rows")
    return output


def check_same(cache: KeyedCache, namespace: Namespace, url: str) -> None:
    """Check that rows of a namespace fit a cache.

    Raises:
        VectorsError: they do not.
    """
    ours = namespace_of(cache)
    if not same(ours.identity, namespace.identity):
        wanted, found = difference(ours.identity, namespace.identity)
    elif ours.form != namespace.form:
        wanted, found = _words(ours.form), _words(namespace.form)
    else:
        return
    raise VectorsError(
        url,
        expected=f"{wanted}, as {cache.path} has",
        found=found,
        remedy="use another directory for these vectors",
        path=cache.path,
    )


def _words(form: Form) -> str:
    return f"{form.rows} rows of {form.dim} numbers, {form.returned} stored as {form.dtype}"
