"""Rollouts: episodes and groups of them, played concurrently on an event loop of their own, reproducible by seed."""
