"""Cached embeddings for clients of OpenAI's protocol."""

from dejavec.adapters.openai import cached_openai

__all__ = ["cached_openai"]
