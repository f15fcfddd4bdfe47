"""Whose vectors are these: what is seen of a model, what is proven, and what it answers."""
