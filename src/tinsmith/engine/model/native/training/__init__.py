"""What training computes in C in float32 on a CPU: products in the processor's tiles, and what is no product."""
