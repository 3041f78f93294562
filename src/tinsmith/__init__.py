"""Tinsmith: an open, self-hosted Tinker."""

