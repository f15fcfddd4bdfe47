"""Cached embedders for Haystack."""

from dejavec.adapters.haystack import CachedDocumentEmbedder, CachedTextEmbedder

__all__ = ["CachedDocumentEmbedder", "CachedTextEmbedder"]
