"""Recipes as a user runs them: the command line, the numbers, the folders."""
