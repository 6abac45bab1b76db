"""Files on disk become batches here; nothing in this package knows a model."""
