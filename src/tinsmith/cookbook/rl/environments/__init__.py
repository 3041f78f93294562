"""The kinds of environment that ship: plain ones, token by token; messages; problems; groups of like ones."""
