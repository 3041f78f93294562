"""`service` drives any Tinker-compatible URL with the official SDK; `engine` runs beside transformers + PEFT.

`common` holds what both share, `noop_service` is the floor, `spawn` starts servers in processes of their own.
Run as modules from the repository root: `python -m benchmarks.service --spawn`.
"""
