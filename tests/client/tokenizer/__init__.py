"""Tokenizers and where they come from."""
