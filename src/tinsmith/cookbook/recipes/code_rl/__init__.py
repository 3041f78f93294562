"""Reinforcement learning on programs that have to pass tests: drawn one-liners, twenty Python problems, or a file.

`train` is the recipe, `config` its settings, `code_rl_env` one problem, `code_rl_dataset` where problems come from.
`drawn_problems` makes those for the embedded model, and `first_lesson` teaches it what a program looks like.
"""
