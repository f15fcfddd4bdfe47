"""Properties of an mteb model, whether it is built or not."""
