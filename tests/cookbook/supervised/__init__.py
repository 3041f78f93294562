"""Supervised learning: rows and batches (`test_data_*`), the trainer, its settings, its resume."""
