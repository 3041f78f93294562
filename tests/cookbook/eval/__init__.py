"""Evaluators: accuracy, forgetting, win rate, Inspect AI, the pages they write."""
