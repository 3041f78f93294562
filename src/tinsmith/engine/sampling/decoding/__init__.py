"""Decoding steps: which sequences run side by side, and what a step has in common with the one before."""
