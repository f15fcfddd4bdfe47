"""Fill a shared cache by many processes: those of Slurm, of Ray, or any others."""

from __future__ import annotations

from dejavec.cluster.embedder import CachedEmbedder
from dejavec.remote.stored_keys import StoredKeys

__all__ = ["CachedEmbedder", "StoredKeys"]
