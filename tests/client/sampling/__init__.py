"""`SamplingClient`: requests, back-pressure, the end of a sampler, and copies in other processes."""
