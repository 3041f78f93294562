"""The base model and one pass through it: the modules of `transformers` with our attention, LoRA, experts and logprobs.

`base_loading` makes a `base_model`, `architecture` and `probe` refuse what cannot be exact, `context` travels beside
the tensors. May import `adapters/`; knows nothing of training, sampling or files of adapters.
"""
