"""The sampler's decoding step in C, compiled for the processor that it runs on; without a compiler torch does it."""
