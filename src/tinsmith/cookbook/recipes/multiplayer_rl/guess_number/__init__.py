"""Guess the number: the environment, and what simple ways of guessing come to."""
