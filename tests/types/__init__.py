"""Wire types: codec, tensors, datums, checks, settings."""
