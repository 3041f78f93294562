"""Reinforcement learning on problems with a right answer.

`train` runs it, with the settings of `config`; `math_rl_env` asks a problem and grades what is said, `math_rl_dataset`
makes groups of it and says what is measured on problems that are held out.
"""
