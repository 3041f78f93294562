"""`service` drives any Tinker-compatible URL with the official SDK; `engine` runs beside transformers + PEFT.

`simulation` runs the scheduler with a thousand tenants in simulated time. `common` holds what they share,
`noop_service` is the floor, `spawn` starts servers in processes of their own.
Run as modules from the repository root: `python -m benchmarks.service --spawn`.
"""
