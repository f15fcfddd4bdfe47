"""Everything that knows mteb: its wrapper, its loaders, its models, and the files of its own cache."""

from dejavec.mteb.wrapper import CachedEmbeddingWrapper

__all__ = ["CachedEmbeddingWrapper"]
