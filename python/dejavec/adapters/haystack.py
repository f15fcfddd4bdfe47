"""Haystack's embedders with cached vectors."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Unpack

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.core.serialization import component_to_dict
from haystack.utils.deserialization import deserialize_component_inplace

from dejavec.adapters.cached_model import CachedModel
from dejavec.adapters.caches import Caches
from dejavec.adapters.forwarding import Forwarding
from dejavec.adapters.inner_config import config_of, json_form
from dejavec.cache import CacheSettings
from dejavec.support.canonical import canonical_json
from dejavec.support.in_thread import call_in_thread, wait_for

Vector = list[float]


class _CachedEmbedder(Forwarding):
    """What embedders of texts and of documents have in common."""

    def __init__(
        self, embedder: Any, path: str | os.PathLike[str], settings: CacheSettings, own: str
    ) -> None:
        cached = CachedModel(embedder, Caches(path, settings, "list"), _config)
        super().__init__(cached)
        self._given = {"path": os.fspath(path), **settings}
        parameters = inspect.signature(embedder.run).parameters
        self._defaults: dict[str, Any] = {}
        for name, parameter in parameters.items():
            if name == own or parameter.kind not in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                continue
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            component.set_input_type(self, name, kind, parameter.default)
            self._defaults[name] = parameter.default

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component, with the original in it."""
        embedder = component_to_dict(self._cached.model, "embedder")
        return dict(default_to_dict(self, embedder=embedder, **self._given))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """Deserialize the component."""
        deserialize_component_inplace(data["init_parameters"], key="embedder")
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Do nothing: the original is warmed up before it embeds the first text that is not cached."""

    async def warm_up_async(self) -> None:
        """Do nothing, as :meth:`warm_up`."""

    def close(self) -> None:
        """Close the caches, and the original. The next use opens them again."""
        self._cached.caches.close()
        _call_if_there(self._cached.model, "close")

    async def close_async(self) -> None:
        """Do what :meth:`close` does, for the resources of asynchronous calls."""
        await asyncio.to_thread(self._cached.caches.close)
        await _await_if_there(self._cached.model, "close_async")

    def _identity_of(self, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the parameters of a call as a part of the identity; None if they have no JSON form."""
        defaults, nothing = self._defaults, object()
        given = {name: value for name, value in parameters.items() if value != defaults.get(name, nothing)}
        try:
            canonical_json(given)
        except (TypeError, ValueError):
            return None
        return {"parameters": given} if given else {}

    @property
    def _runs_async(self) -> bool:
        return callable(getattr(self._cached.model, "run_async", None))

    def _run_inner(self, **arguments: Any) -> Any:
        _call_if_there(self._cached.model, "warm_up")
        return self._cached.model.run(**arguments)

    async def _run_inner_async(self, **arguments: Any) -> Any:
        await _await_if_there(self._cached.model, "warm_up_async")
        return await self._cached.model.run_async(**arguments)


@component
class CachedTextEmbedder(_CachedEmbedder):
    """A text embedder of Haystack with cached vectors: use it wherever the original is used.

    Vectors are in ``<path>/query``, as float64, equal to the bit. ``meta`` is the original's for a text that
    is not cached, otherwise empty. ``warm_up`` does nothing, so a run that finds all texts never loads the
    model. The class and the settings of the original are the identity of its vectors. It is asked to embed a
    few cached texts again, once in each process, unless ``model=`` names it or ``confirm=0`` is given.

    Args:
        embedder: the original.
        path: the directory above the cache.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Example:
        >>> import tempfile
        >>> from dejavec.haystack import CachedTextEmbedder
        >>> from haystack.components.embedders import MockTextEmbedder
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     cached = CachedTextEmbedder(MockTextEmbedder(dimension=2), directory)
        ...     cached.run("once")["embedding"] == MockTextEmbedder(dimension=2).run("once")["embedding"]
        ...     cached.close()
        True
    """

    def __init__(
        self, embedder: Any, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        _CachedEmbedder.__init__(self, embedder, path, settings, "text")

    @component.output_types(embedding=list[float], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    def run(self, text: str, **parameters: Any) -> dict[str, Any]:
        """Return the vector of a text. Parameters of the original are part of the identity."""
        further = self._identity_of(parameters)
        if not isinstance(text, str) or further is None:
            return dict(self._run_inner(text=text, **parameters))
        answers = _Meta()

        def embed(some: list[str]) -> list[Vector]:
            return [answers.take(self._run_inner(text=one, **parameters))["embedding"] for one in some]

        (vector,) = self._cached.encode("query", [text], embed, further=further)
        return {"embedding": list(vector), "meta": answers.meta}

    @component.output_types(embedding=list[float], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    async def run_async(self, text: str, **parameters: Any) -> dict[str, Any]:
        """Do what :meth:`run` does, without blocking the event loop."""
        if not self._runs_async:
            return await asyncio.to_thread(lambda: self.run(text=text, **parameters))
        further = self._identity_of(parameters)
        if not isinstance(text, str) or further is None:
            return dict(await self._run_inner_async(text=text, **parameters))
        answers = _Meta()

        async def embed(some: list[str]) -> list[Vector]:
            made = [await self._run_inner_async(text=one, **parameters) for one in some]
            return [answers.take(one)["embedding"] for one in made]

        (vector,) = await self._cached.aencode("query", [text], embed, further=further)
        return {"embedding": list(vector), "meta": answers.meta}


@component
class CachedDocumentEmbedder(_CachedEmbedder):
    """A document embedder of Haystack with cached vectors: use it wherever the original is used.

    The key of a document is the text that is really embedded: prefix, the metadata that count, content and
    suffix. So documents that differ elsewhere share a vector. Vectors are in ``<path>/document``, as float64,
    equal to the bit. ``meta`` adds up what the original said of its calls; it is empty if all documents are
    cached. Documents that the original leaves without a vector are returned so, and not cached. ``warm_up``
    does nothing, so a run that finds all documents never loads the model. :class:`CachedTextEmbedder` says
    what the identity is.

    Args:
        embedder: the original.
        path: the directory above the cache.
        **settings: see :class:`dejavec.EmbeddingCache`.

    Raises:
        TypeError: the original embeds something else than texts of documents, such as images.

    Example:
        >>> import tempfile
        >>> from dejavec.haystack import CachedDocumentEmbedder
        >>> from haystack import Document
        >>> from haystack.components.embedders import MockDocumentEmbedder
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     cached = CachedDocumentEmbedder(MockDocumentEmbedder(dimension=2), directory)
        ...     found = cached.run([Document(content="once"), Document(content="again")])["documents"]
        ...     [len(document.embedding) for document in found]
        ...     cached.close()
        [2, 2]
    """

    def __init__(
        self, embedder: Any, path: str | os.PathLike[str], **settings: Unpack[CacheSettings]
    ) -> None:
        if not all(hasattr(embedder, name) for name in ("meta_fields_to_embed", "embedding_separator")):
            raise TypeError(
                "expected an embedder of documents' texts, with meta_fields_to_embed and "
                f"embedding_separator, found {type(embedder).__name__}"
            )
        # The decorator makes another class, so `super()` does not work.
        _CachedEmbedder.__init__(self, embedder, path, settings, "documents")

    @component.output_types(documents=list[Document], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document], **parameters: Any) -> dict[str, Any]:
        """Return copies of the documents with vectors. Other parameters are part of the identity."""
        further = self._identity_of(parameters)
        if not _are_documents(documents) or further is None:
            return dict(self._run_inner(documents=documents, **parameters))
        return self._run(documents, further, lambda some: self._run_inner(documents=some, **parameters))

    @component.output_types(documents=list[Document], meta=dict[str, Any])  # type: ignore[untyped-decorator]
    async def run_async(self, documents: list[Document], **parameters: Any) -> dict[str, Any]:
        """Do what :meth:`run` does, without blocking the event loop."""
        if not self._runs_async:
            return await asyncio.to_thread(lambda: self.run(documents=documents, **parameters))
        further = self._identity_of(parameters)
        if not _are_documents(documents) or further is None:
            return dict(await self._run_inner_async(documents=documents, **parameters))

        def work(calling: Any) -> dict[str, Any]:
            def run_inner(some: list[Document]) -> Any:
                return wait_for(calling, self._run_inner_async(documents=some, **parameters))

            return self._run(documents, further, run_inner)

        return await call_in_thread(work)

    def _run(
        self,
        documents: list[Document],
        further: Mapping[str, Any],
        run_inner: Callable[[list[Document]], Mapping[str, Any]],
    ) -> dict[str, Any]:
        texts = [_embedded_text(self._cached.model, document) for document in documents]
        document_of = dict(zip(texts, documents, strict=True))
        made: dict[str, Vector] = {}
        refused: set[str] = set()
        answers = _Meta()

        def embed(some: list[str]) -> list[Vector]:
            missing = [text for text in some if text not in made]
            if missing:
                # Ids are new, since embedders may tell documents of one call apart by their ids alone. Old
                # vectors are taken away, since they would stay if the original fails to embed a document.
                asked = [
                    replace(document_of[text], id=f"{at}-{document_of[text].id}", embedding=None)
                    for at, text in enumerate(missing)
                ]
                answered = answers.take(run_inner(asked))["documents"]
                vectors = [document.embedding for document in answered]
                pairs = list(zip(missing, vectors, strict=True))
                made.update({text: vector for text, vector in pairs if vector is not None})
                without = {text for text, vector in pairs if vector is None}
                if without:
                    raise _WithoutVectorError(without)
            return [made[text] for text in some]

        while True:
            wanted = [text for text in texts if text not in refused]
            try:
                vectors = self._cached.encode("document", wanted, embed, further=further) if wanted else []
                break
            except _WithoutVectorError as error:
                refused |= error.texts
        found = iter(vectors)
        done = [
            replace(document) if text in refused else replace(document, embedding=list(next(found)))
            for document, text in zip(documents, texts, strict=True)
        ]
        return {"documents": done, "meta": answers.meta}


class _WithoutVectorError(Exception):
    """The original left documents without a vector, as it does after an error of its server."""

    def __init__(self, texts: set[str]) -> None:
        super().__init__(texts)
        self.texts = texts


class _Meta:
    """What an embedder said of its calls: numbers are added up, of all else the last counts."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] = {}

    def take(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Count one answer, and return it."""
        self.meta = _sum(self.meta, answer.get("meta") or {})
        return answer


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(one)
    for name, value in other.items():
        before = whole.get(name)
        if isinstance(value, Mapping):
            whole[name] = _sum(before if isinstance(before, Mapping) else {}, value)
        elif _is_number(value) and _is_number(before):
            whole[name] = before + value
        else:
            whole[name] = value
    return whole


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_documents(documents: object) -> bool:
    is_list = isinstance(documents, list) and bool(documents)
    return is_list and all(isinstance(document, Document) for document in documents)  # type: ignore[attr-defined]


def _embedded_text(embedder: Any, document: Document) -> str:
    """Return the text that an embedder makes of a document, as all those of Haystack do."""
    fields = embedder.meta_fields_to_embed or []
    used = [str(document.meta[name]) for name in fields if document.meta.get(name) is not None]
    prefix, suffix = (getattr(embedder, name, None) or "" for name in ("prefix", "suffix"))
    return f"{prefix}{embedder.embedding_separator.join([*used, document.content or ''])}{suffix}"


def _config(embedder: Any) -> dict[str, Any]:
    """Return the configuration of an embedder: its serialized form, or its attributes if it has none."""
    try:
        data = embedder.to_dict()
        return {"class": str(data["type"]), "settings": json_form(data["init_parameters"])}
    except Exception:
        return config_of(embedder)  # A component with a lambda, for example.


def _call_if_there(embedder: Any, name: str) -> None:
    method = getattr(embedder, name, None)
    if callable(method):
        method()


async def _await_if_there(embedder: Any, name: str) -> None:
    method = getattr(embedder, name, None)
    if callable(method):
        await method()
