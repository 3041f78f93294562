"""Rows to datums, and datums to batches by number."""
