"""Environments, rollouts, what is learned from them, and the trainer."""
