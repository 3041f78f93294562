"""The SDK: what a training script talks to. No torch, no server code. `service_client` is where everything begins.

Rooms, each may import those after it: `training/`, `sampling/`, `checkpoints/`, `tokenizer/`, `transport/`.
"""
