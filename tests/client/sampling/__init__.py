"""`SamplingClient`: requests, back-pressure, and the end of a sampler."""
