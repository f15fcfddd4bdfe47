"""Cached embeddings for LangChain."""

from dejavec.adapters.langchain import CachedEmbeddings

__all__ = ["CachedEmbeddings"]
