"""Rows of training data: every source of them, checked where it lies."""
