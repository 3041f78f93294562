"""The base model and one pass through it: the modules of `transformers` with our attention, LoRA, experts and logprobs.

`loading/` makes a `base_model` and refuses what cannot be exact, `context` travels beside the tensors, `head/` turns
hidden states into logprobs, `lean/` is the sampler's own way through the decoder, `native/` what runs in C on a CPU,
`tiles/` the mode whose sums have one order. May import `adapters/`; knows nothing of training, sampling or files of
adapters.
"""
