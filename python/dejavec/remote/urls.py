"""Addresses of object stores."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from dejavec.errors import CacheNotFoundError, MissingPackageError, StorageError

SCHEMES = ("s3", "gs", "az", "hf", "file", "memory")
"""What an address may begin with, before ``://``."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,254}")

_HUB = "https://s3.hf.co"
"""Where the Hugging Face Hub's buckets speak S3."""

_REQUEST = {"timeout": "120s", "connect_timeout": "15s"}
"""Limits of one request, of at most 16 MiB. The library's 30 s end an upload over a slow line."""

_RETRIES = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
"""How a request that failed is repeated. The library's own setting waits for minutes at a wrong address."""

_memory: dict[str, Any] = {}
"""The stores of ``memory://``, by name: they live as long as the process."""


@dataclass(frozen=True)
class Place:
    """Where shared caches lie.

    Attributes:
        url: the address, without credentials.
        prefix: what all names begin with; empty, or parts joined by ``/``.
        store: the store of obstore.
    """

    url: str
    prefix: str
    store: Any


def is_url(text: object) -> bool:
    """Return whether a text is an address rather than a path.

    Example:
        >>> is_url("s3://bucket/team"), is_url("embeddings"), is_url("C:/embeddings")
        (True, False, False)
    """
    return isinstance(text, str) and _URL.match(text) is not None


def obstore() -> Any:
    """Return the package obstore.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import obstore.store
    except ImportError:
        raise MissingPackageError(
            "a shared cache",
            expected="the package obstore",
            found="none",
            remedy='run `pip install "dejavec[remote]"`',
        ) from None
    return obstore


def place(url: str, *, missing: Literal["raise", "make", "empty"] = "raise") -> Place:
    """Return the store of an address.

    Credentials come from the environment, as each service documents; an address with some is refused.

    Args:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://account/container/prefix``,
            ``hf://buckets/namespace/bucket/prefix``, ``file:///directory`` or ``memory://name/prefix``.
        missing: whether a missing directory of ``file://`` is an error, is made, or counts as empty.

    Raises:
        ValueError: it is no such address.
        CacheNotFoundError: the directory of ``file://`` is missing.
        StorageError: it is no directory, or cannot be made.
        MissingPackageError: obstore is not installed.

    Example:
        >>> place("memory://team/models").prefix
        'models'
    """
    scheme, first, parts = split(url)
    if scheme == "file":
        directory = Path("/", *parts)
        if missing == "empty" and not directory.exists():
            return Place(url, "", obstore().store.MemoryStore())
        if missing == "raise" and not directory.is_dir():
            raise CacheNotFoundError(
                url, expected="a directory", found="none", remedy="check the address", path=directory
            )
        try:
            return Place(url, "", obstore().store.LocalStore(directory, mkdir=missing == "make"))
        except OSError as error:
            raise StorageError(
                url, expected="a directory", found=error.strerror or str(error), path=directory
            ) from error
    stores = obstore().store
    if scheme == "memory":
        if first not in _memory:
            _memory[first] = stores.MemoryStore()
        return Place(url, "/".join(parts), _memory[first])
    if scheme == "az":
        container, *rest = parts
        made = stores.AzureStore(container, account_name=first, **_options("AZURE"))
        return Place(url, "/".join(rest), made)
    if scheme == "gs":
        return Place(url, "/".join(parts), stores.GCSStore(first, **_options("GOOGLE")))
    if scheme == "hf" and first == "datasets":
        raise ValueError(
            f"expected an address that can be written, found {url!r}, a data set repository; write one with "
            "`dejavec publish`"
        )
    if scheme == "hf":
        namespace, bucket, *rest = parts
        made = stores.S3Store(
            bucket,
            endpoint=f"{_HUB}/{namespace}",
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={**_REQUEST, "allow_http": _HUB.startswith("http://")},
            retry_config=_RETRIES,
        )
        return Place(url, "/".join(rest), made)
    return Place(url, "/".join(parts), stores.S3Store(first, **_options("AWS")))


def split(url: str) -> tuple[str, str, list[str]]:
    """Return the scheme of an address, its first name, and the names after that.

    Raises:
        TypeError: it is no text.
        ValueError: it is no address of a shared cache.

    Example:
        >>> split("s3://bucket/team/models/")
        ('s3', 'bucket', ['team', 'models'])
        >>> split("s3://bucket/../other")
        Traceback (most recent call last):
        ValueError: expected parts of letters, digits and _ . = + @ - in an address, found '..'
    """
    if not isinstance(url, str):
        raise TypeError(f"expected an address of type str, found {type(url).__name__}")
    found = urlsplit(url) if _URL.match(url) else None
    if found is None or found.scheme not in SCHEMES:
        raise ValueError(
            f"expected an address that begins with one of {SCHEMES} and ://, found {_plain(url)!r}"
        )
    if found.query or found.fragment or "@" in found.netloc or ":" in found.netloc:
        raise ValueError(
            f"expected an address without credentials, port, ? and #, found more in {_plain(url)!r}; set "
            "credentials and endpoint in the environment"
        )
    if found.scheme == "file":
        path = unquote(found.path)
        if found.netloc or not path.startswith("/"):
            raise ValueError(f"expected file:/// and an absolute path, found {url!r}")
        return found.scheme, "", _parts(path, re.compile(r"[^\\\0]+"))
    if not _BUCKET.fullmatch(found.netloc):
        raise ValueError(f"expected a name after ://, found {found.netloc!r}")
    parts = _parts(found.path, _PART)
    least = {"az": 1, "hf": 2}.get(found.scheme, 0)
    is_data_set = found.netloc == "datasets" and len(parts) == least
    if len(parts) < least or (found.scheme == "hf" and found.netloc != "buckets" and not is_data_set):
        form = {
            "az": "az://account/container/prefix",
            "hf": "hf://buckets/namespace/bucket/prefix or hf://datasets/owner/name",
        }
        raise ValueError(f"expected {form[found.scheme]}, found {url!r}")
    return found.scheme, found.netloc, parts


def _parts(path: str, form: re.Pattern[str]) -> list[str]:
    whole = path.removeprefix("/").removesuffix("/")
    parts = whole.split("/") if whole else []
    for part in parts:
        if not form.fullmatch(part) or part in (".", ".."):
            raise ValueError(
                f"expected parts of letters, digits and _ . = + @ - in an address, found {part!r}"
            )
    return parts


def _plain(url: str) -> str:
    """Return an address without what may be credentials."""
    return re.sub(r"[?#].*", "", re.sub(r"//[^/]*@", "//", url))


def _options(variable: str) -> dict[str, Any]:
    """Return the options of a store. Plain HTTP is allowed to an endpoint that the environment names."""
    endpoints = (os.environ.get(f"{variable}_{name}", "") for name in ("ENDPOINT_URL", "ENDPOINT"))
    plain = any(endpoint.startswith("http://") for endpoint in endpoints)
    return {"client_options": {**_REQUEST, "allow_http": plain}, "retry_config": _RETRIES}
