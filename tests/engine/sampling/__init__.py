"""The sampler: its cache, schedule, distribution, stops, numerics and determinism."""
