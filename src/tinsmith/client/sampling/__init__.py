"""`sampling_client.SamplingClient`: completions and logprobs of fixed weights.

`opened_sampler` sends the requests, `handles` takes a sampler to other processes; `prompts` reads what people pass,
`text_sampling` and `completions` give them texts back.
May import `checkpoints/`, `tokenizer/` and `transport/`.
"""
