"""Decoding steps: what a step has in common with the one before, and keys and values side by side."""
