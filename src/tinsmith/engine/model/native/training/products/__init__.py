"""Products of a training pass with the processor's tiles of bfloat16, and what adapters add to them."""
