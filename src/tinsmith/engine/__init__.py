"""The engine: one copy of a base model in torch, many adapters, training and sampling.

`engine.Engine` is the face. A pass is described by `context`, packed by `packing`, computed by `base_model` with
`attention`, `lora`, `experts`, `logprobs`, `losses`; weights live in `slots`, `adapters`, `optimizer`, `checkpoint`;
`sampler` and its neighbours generate.
"""
