"""Everything that knows mteb: its wrapper, its loaders, its models, and the files of its own cache."""

from dejavec.drop_in.versions import check_mteb

check_mteb()  # Before the wrapper is imported: an old mteb fails there.

from dejavec.mteb.wrapper import CachedEmbeddingWrapper  # noqa: E402

__all__ = ["CachedEmbeddingWrapper"]
