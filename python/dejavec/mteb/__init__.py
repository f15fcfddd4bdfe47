"""All code that needs mteb: the wrapper, the loaders, the models, and the files of mteb's cache."""

from dejavec.drop_in.versions import check_mteb

check_mteb()  # Must precede the import of the wrapper, since that fails with an old mteb.

from dejavec.mteb.wrapper import CachedEmbeddingWrapper  # noqa: E402

__all__ = ["CachedEmbeddingWrapper"]
