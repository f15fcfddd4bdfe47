"""Classes of frameworks with cached vectors: one module for each framework, imported at its first use."""
