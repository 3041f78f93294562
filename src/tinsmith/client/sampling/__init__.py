"""`sampling_client.SamplingClient`: completions and logprobs of fixed weights.

`opened_sampler` sends the requests, `prompts` reads what people pass, `completions` is what they get back.
May import `checkpoints/`, `tokenizer/` and `transport/`.
"""
