"""The sampler's decoding step in C: `step.h` is the pass, `plain/` and `tiled/` its products and its attention."""
