"""One cache for a team: immutable segments in an object store, and a local index of their keys."""
