"""The sampler's pass through a decoder of the Llama family, without the modules of `transformers`.

`lean_decoder` is the pass, `fused_linear` and `lean_norms` its parts, `pass_adapters` the adapters in it. Nothing here
waits for a backward pass.
"""
