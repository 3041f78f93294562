"""Training: rows become packed streams (`packing`), a pass gives losses and gradients (`training_pass`, `losses`).

May import `model/` and `adapters/`; knows nothing of sampling or of files.
"""
