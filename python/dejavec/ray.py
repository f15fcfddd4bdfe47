"""Fill a shared cache with Ray Data."""

from __future__ import annotations

from dejavec.adapters.ray import Progress, filter_missing, progress
from dejavec.cluster import CachedEmbedder

__all__ = ["CachedEmbedder", "Progress", "filter_missing", "progress"]
