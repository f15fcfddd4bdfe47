"""Which model made the vectors: looks at models, proofs, and answers of models."""
