"""Adapters on disk: `adapter_folders` writes and reads states and adapters in `whole_folders`, in PEFT's layout.

`foreign` reads what others made, `merged` writes whole models, `fingerprint` tells base models apart.
May import `model/`, `adapters/` and `adapter_files/`; knows nothing of training or sampling.
"""
