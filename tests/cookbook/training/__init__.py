"""The skeleton of every trainer: its loop, its rates, its evaluations."""
