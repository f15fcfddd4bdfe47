"""Clients of OpenAI's protocol with cached vectors."""

from __future__ import annotations

import base64
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from dejavec.adapters.cached_model import InnerCall
from dejavec.adapters.caches import Caches
from dejavec.adapters.inner_config import plain_address
from dejavec.cache import CacheSettings
from dejavec.errors import VectorsError
from dejavec.storage.identity import sibling
from dejavec.support.canonical import canonical_json
from dejavec.support.in_thread import call_in_thread, wait_for
from dejavec.support.safe_name import safe_name
from dejavec.support.secret_names import without_secrets
from dejavec.support.warn import warn

Client = TypeVar("Client")

_NO_VECTOR = frozenset({"input", "encoding_format", "extra_headers", "model", "timeout", "user"})
"""Arguments of a request that change no vector, or that are parts of the identity by other names."""


def cached_openai(client: Client, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]) -> Client:
    """Return a client whose ``embeddings.create(...)`` answers from a cache; everything else is the client's.

    It serves each server of the protocol (OpenAI, Azure, vLLM, TEI, infinity, Ollama …), with ``OpenAI`` and
    ``AsyncOpenAI``. One request is sent for all inputs of a call that are not cached. ``usage`` counts what
    was sent, so it is 0 if all are cached; ``model`` is then the name in the request. Retries are the
    client's own.

    Each model has a directory below ``path``. The identity is the server's address, ``model``,
    ``dimensions``, ``extra_body`` and all other arguments that may change a vector. Texts and lists of tokens
    are cached apart. A call with ``extra_headers``, and input of another form, goes to the server unchanged.

    The server is not asked whether it still has the model of that name: ``confirm=4`` asks it once in each
    process, and ``model`` should name a version where it can.

    Args:
        client: the client.
        path: the directory above the caches.
        **settings: see :class:`dejavec.EmbeddingCache`; ``model`` is not among them.

    Raises:
        TypeError: there is no such setting, or the client has no ``embeddings.create``.

    Example:
        >>> import tempfile
        >>> from dejavec.openai import cached_openai
        >>> from openai import OpenAI
        >>> directory = tempfile.TemporaryDirectory()
        >>> client = cached_openai(OpenAI(api_key="k", base_url="http://localhost:9/v1"), directory.name)
        >>> isinstance(client, OpenAI), str(client.base_url)
        (True, 'http://localhost:9/v1/')
        >>> directory.cleanup()
    """
    if not callable(getattr(getattr(client, "embeddings", None), "create", None)):
        raise TypeError(
            f"expected a client with embeddings.create, such as OpenAI, found {type(client).__name__}"
        )
    if "model" in settings:
        raise TypeError("expected settings without model, which each request names, found model=")
    # One request stays one request. The answer to a request comes whole, so there is nothing to keep before.
    given: CacheSettings = {"chunk_seconds": None, **settings}
    proxy: Client = cast(Client, _CachedClient(client, Caches(path, given, "numpy")))
    return proxy


class _CachedClient:
    """Stands for a client, with other ``embeddings``."""

    def __init__(self, client: Any, caches: Caches) -> None:
        create = inspect.unwrap(client.embeddings.create)
        kind = _AsyncEmbeddings if inspect.iscoroutinefunction(create) else _Embeddings
        vars(self).update(_client=client, _caches=caches, embeddings=kind(client, caches))

    @property
    def __class__(self) -> type:
        return type(self._client)

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise AttributeError("expected no other class for a client with a cache")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_client" not in vars(self):
            raise AttributeError(f"the client has no attribute {name!r}")
        return getattr(self._client, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._client, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _CachedClient, (self._client, self._caches)

    def copy(self, *args: Any, **keywords: Any) -> Any:
        """Return a copy of the client with other options, and the same caches."""
        return _CachedClient(self._client.copy(*args, **keywords), self._caches)

    with_options = copy

    def __enter__(self) -> Any:
        self._client.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._client.__exit__(*error)

    async def __aenter__(self) -> Any:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._client.__aexit__(*error)


@dataclass(frozen=True)
class _Request:
    """The inputs of a call, and what they share.

    Attributes:
        items: the inputs as texts: a list of tokens is its JSON.
        of_tokens: whether the inputs are lists of tokens.
        is_single: whether the call has one input outside of a list.
        arguments: all arguments of the call, as they are sent.
        given: those of them that say something.
        adds_base64: whether the client itself adds ``encoding_format="base64"``.
    """

    items: list[str]
    of_tokens: bool
    is_single: bool
    arguments: Mapping[str, Any]
    given: Mapping[str, Any]
    adds_base64: bool

    @property
    def encoding(self) -> str | None:
        """The encoding of numbers that the call asks for; None for the client's choice."""
        encoding: str | None = self.given.get("encoding_format")
        return encoding

    def sent(self, items: list[str]) -> dict[str, Any]:
        """Return the arguments of a request for some of the inputs."""
        inputs: list[Any] = [json.loads(item) for item in items] if self.of_tokens else items
        # The client would decode the same answer to lists, and forget whether the numbers are float32.
        encoding = {"encoding_format": "base64"} if self.adds_base64 and self.encoding is None else {}
        sent = inputs[0] if self.is_single and len(inputs) == 1 else inputs
        return {**self.arguments, **encoding, "input": sent}

    def identity(self, server: str) -> tuple[str, dict[str, Any]]:
        """Return the name of the directory, and the identity."""
        model = self.given["model"]
        further = {name: value for name, value in self.given.items() if name not in _NO_VECTOR}
        further = without_secrets(further)
        if self.encoding == "float":
            further["encoding_format"] = "float"  # Decimal numbers, which float32 does not hold.
        role = {"role": "tokens"} if self.of_tokens else {}
        name = safe_name(model)
        if further or role:
            name = sibling(name, {**role, "request": further}).name
        identity = {"model": {"name": model, "revision": None}, "server": plain_address(server), **role}
        return name, {**identity, "request": further} if further else identity


class _Answers:
    """What the server answered to the requests of one call."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        self._model = request.given["model"]
        self._prompt_tokens = 0
        self._total_tokens = 0

    def vectors(self, response: Any, stored: np.dtype[Any] | None) -> NDArray[Any]:
        """Return the vectors of an answer in the order of its inputs; count its tokens.

        Args:
            response: the answer.
            stored: the dtype of the cache; None before the first vector.

        Returns:
            (k, dim): float32 from base64 and float64 from lists; the stored dtype if that holds the same
            numbers.

        Raises:
            VectorsError: the indices of the answer are no order.
        """
        usage = getattr(response, "usage", None)
        self._prompt_tokens += getattr(usage, "prompt_tokens", None) or 0
        self._total_tokens += getattr(usage, "total_tokens", None) or 0
        self._model = getattr(response, "model", None) or self._model
        data = list(response.data)
        places = [getattr(part, "index", None) for part in data]
        if any(places):
            if sorted(places, key=str) != sorted(range(len(data)), key=str):
                raise VectorsError(
                    "the server's answer",
                    expected=f"the indices 0 to {len(data) - 1}, each once",
                    found=f"{places[:10]}",
                    remedy="nothing of it was stored",
                )
            data.sort(key=lambda part: int(part.index))
        numbers = [part.embedding for part in data]
        if all(isinstance(row, str) for row in numbers):
            rows = np.array([np.frombuffer(base64.b64decode(row), "<f4") for row in numbers])
        else:
            rows = np.array(numbers, np.float64)
        if stored is None or stored == rows.dtype:
            return rows
        converted = rows.astype(stored)
        return converted if bool((converted == rows).all()) else rows

    def response(self, vectors: NDArray[Any]) -> Any:
        """Return the answer to the whole call."""
        from openai.types import CreateEmbeddingResponse, Embedding
        from openai.types.create_embedding_response import Usage

        rows: list[Any] = vectors.tolist()
        if self._request.encoding == "base64" and vectors.dtype == np.float32:
            little = vectors.astype("<f4", copy=False)
            rows = [base64.b64encode(row.tobytes()).decode("ascii") for row in little]
        return CreateEmbeddingResponse.construct(
            data=[
                Embedding.construct(embedding=row, index=index, object="embedding")
                for index, row in enumerate(rows)
            ],
            model=self._model,
            object="list",
            usage=Usage.construct(prompt_tokens=self._prompt_tokens, total_tokens=self._total_tokens),
        )


class _Resource:
    """The embeddings of a client."""

    def __init__(self, client: Any, caches: Caches) -> None:
        self._client = client
        self._caches = caches
        self._warned = False
        self._adds_base64 = type(client.embeddings).__module__.startswith("openai.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_client" not in vars(self):
            raise AttributeError(f"the embeddings of the client have no attribute {name!r}")
        return getattr(self._client.embeddings, name)

    def _request(self, arguments: dict[str, Any]) -> _Request | None:
        """Return a call as a request that can be cached; None for one that goes to the server unchanged."""
        given = {name: value for name, value in arguments.items() if _is_given(value)}
        if given.get("extra_headers"):
            if not self._warned:
                self._warned = True
                warn(
                    "cached_openai",
                    expected="no extra_headers, which may choose another model",
                    found="some",
                    remedy="these calls are not cached; pass default_headers to the client instead",
                )
            return None
        items = given.get("input")
        is_single = isinstance(items, str) or _is_tokens(items)
        if is_single:
            items = [items]
        if not isinstance(items, list) or not items or not isinstance(given.get("model"), str):
            return None
        of_tokens = _is_tokens(items[0])
        if not all(map(_is_tokens if of_tokens else _is_text, items)):
            return None
        texts = [json.dumps(item, separators=(",", ":")) for item in items] if of_tokens else items
        request = _Request(texts, of_tokens, is_single, arguments, given, self._adds_base64)
        try:
            canonical_json(request.identity("")[1])
        except TypeError:
            return None
        return request

    def _encode(self, request: _Request, answers: _Answers, send: Callable[[dict[str, Any]], Any]) -> Any:
        name, identity = request.identity(str(getattr(self._client, "base_url", "")))
        # A look at the client would find connections, which change all the time: this object stands for it.
        cache = self._caches.of(name, identity)

        def call(some: list[str]) -> NDArray[Any]:
            return answers.vectors(send(request.sent(some)), cache.dtype)

        return answers.response(cache.encode(request.items, InnerCall(self, call)))


class _Embeddings(_Resource):
    def create(self, **arguments: Any) -> Any:
        """Do what the client's ``create`` does, with a request for what is not cached only."""
        create = self._client.embeddings.create
        arguments = _without_iterators(arguments)
        request = self._request(arguments)
        if request is None:
            return create(**arguments)
        return self._encode(request, _Answers(request), lambda sent: create(**sent))


class _AsyncEmbeddings(_Resource):
    async def create(self, **arguments: Any) -> Any:
        """Do what the client's ``create`` does, with a request for what is not cached only."""
        create = self._client.embeddings.create
        arguments = _without_iterators(arguments)
        request = self._request(arguments)
        if request is None:
            return await create(**arguments)

        def work(calling: Any) -> Any:
            return self._encode(request, _Answers(request), lambda sent: wait_for(calling, create(**sent)))

        return await call_in_thread(work)


def _without_iterators(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments whose input can be read twice."""
    items = arguments.get("input")
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        return arguments
    read = [item if isinstance(item, str | bytes | Mapping) else _listed(item) for item in items]
    return {**arguments, "input": read}


def _listed(item: Any) -> Any:
    return list(item) if isinstance(item, Iterable) else item


def _is_given(value: object) -> bool:
    """Return whether an argument was given: the client's signs for absent ones are not."""
    return value is not None and type(value).__name__ not in ("Omit", "NotGiven")


def _is_text(item: object) -> bool:
    return isinstance(item, str)


def _is_tokens(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(type(token) is int for token in item)
