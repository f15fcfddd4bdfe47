"""The cached encoders of sentence-transformers keep the promises of all adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from conformance import Conformance, Subject, frameworks_in_the_readme
from pages import framework_pages
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from toy_encoders import ToyModule, ToySparseModule, ToyTokenModule

from dejavec.sentence_transformers import (
    CachedMultiVectorEncoder,
    CachedSentenceTransformer,
    CachedSparseEncoder,
)


class Dense(Subject):
    page = "sentence-transformers", "sentence-transformers.md"
    kind: ClassVar[Any] = SentenceTransformer
    module: ClassVar[type[ToyModule]] = ToyModule
    wrapper: ClassVar[Any] = CachedSentenceTransformer

    def plain(self, scale: float = 1.0) -> Any:
        prompts = {"query": "query: ", "document": ""}
        # As a model that was loaded. The class of the module is unknown, so its mode of training counts.
        return self.kind(modules=[self.module(scale)], device="cpu", prompts=prompts).eval()

    def cached(self, path: Path, scale: float = 1.0, **settings: Any) -> Any:
        return self.wrapper(self.plain(scale), path, chunk_rows=16, **settings)

    def documents(self, embedder: Any, texts: list[str]) -> Any:
        return self.form(embedder.encode_document(texts, batch_size=16))

    def queries(self, embedder: Any, texts: list[str]) -> Any:
        return self.form(embedder.encode_query(texts, batch_size=16))

    def form(self, vectors: Any) -> Any:
        return vectors


class Sparse(Dense):
    kind = SparseEncoder
    module = ToySparseModule
    wrapper = CachedSparseEncoder

    def form(self, vectors: Any) -> Any:
        rows = [row.coalesce() for row in vectors]
        return [[row.indices().numpy(), row.values().numpy(), tuple(row.shape)] for row in rows]


class MultiVector(Dense):
    kind = MultiVectorEncoder
    module = ToyTokenModule
    wrapper = CachedMultiVectorEncoder

    def form(self, vectors: Any) -> Any:
        return [one.numpy() for one in vectors]


pytestmark = pytest.mark.slow


@pytest.fixture(params=[Dense(), Sparse(), MultiVector()], ids=lambda subject: type(subject).__name__)
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    return found


class TestSentenceTransformers(Conformance):
    """One subject for each encoder."""


def test_the_readme_has_a_row_for_each_page_about_a_framework() -> None:
    pages = [f"docs/frameworks/{page.name}" for page in framework_pages()]
    rows = frameworks_in_the_readme()
    assert sorted(row.partition("(")[2].rstrip(")") for row in rows) == sorted(
        [*pages, "docs/sentence-transformers.md"]
    )
