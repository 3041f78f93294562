"""Supervised learning: the trainer, its settings, its resume, and the viewer of what is learned."""
