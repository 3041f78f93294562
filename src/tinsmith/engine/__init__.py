"""The engine: one copy of a base model in torch, many adapters, training and sampling. `engine.Engine` is the face.

Rooms, each may import those after it: `training/`, `sampling/` and `checkpoints/` (none knows another), `model/`,
`adapters/`. `jobs` holds what the scheduler hands in and gets back; `devices`, `cores` and `threads` what it runs on.
"""
