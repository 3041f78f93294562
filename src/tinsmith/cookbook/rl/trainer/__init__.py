"""The trainer: its settings, its step, and what its rows and pages show."""
